#include "deploykit/weights.h"

#include <string>

#include "deploykit/error.h"

namespace deploykit {
namespace {

[[noreturn]] void refuse(const WeightSpec& spec, const std::string& why) {
  throw Error("invalid", "weight '" + spec.name + "' [" + std::to_string(spec.rows) + ", " + std::to_string(spec.cols) +
                             "]: " + why);
}

void divides(const WeightSpec& spec, const char* what, int64_t value, int64_t by, const char* unit) {
  if (value % by != 0) {
    refuse(spec, std::string(what) + " do not divide into " + unit + " of " + std::to_string(by));
  }
}

// GGUF: blocks of `len` columns, `bytes` each.
int64_t block_bytes(const WeightSpec& spec, int64_t len, int64_t bytes) {
  divides(spec, "columns", spec.cols, len, "blocks");
  return spec.rows * (spec.cols / len) * bytes;
}

StoredBytes grouped_int4(const WeightSpec& spec) {
  if (spec.group <= 0) refuse(spec, "a group of " + std::to_string(spec.group) + " columns");
  divides(spec, "columns", spec.cols, spec.group, "groups");
  divides(spec, "rows", spec.rows, 8, "words");
  if (spec.format == WeightFormat::gptq) divides(spec, "columns", spec.cols, 8, "words");
  const int64_t groups = spec.cols / spec.group;
  return {spec.rows * spec.cols / 2, groups * spec.rows * 2, groups * spec.rows / 2};
}

void add(std::vector<WeightSpec>& all, const std::string& name, int64_t rows, int64_t cols, bool bias = false) {
  all.push_back({name + ".weight", WeightFormat::f32, rows, cols, 0});
  if (bias) all.push_back({name + ".bias", WeightFormat::f32, 1, rows, 0});
}

void add_norm(std::vector<WeightSpec>& all, const std::string& name, int64_t width, bool bias) {
  all.push_back({name + ".weight", WeightFormat::f32, 1, width, 0});
  if (bias) all.push_back({name + ".bias", WeightFormat::f32, 1, width, 0});
}

void add_attention(std::vector<WeightSpec>& all, const std::string& at, const AttentionSpec& a, int64_t hidden) {
  const int64_t q = int64_t{a.heads} * a.head_dim, kv = int64_t{a.kv_heads} * a.head_dim;
  add(all, at + "q", q, hidden, a.qkv_bias);
  add(all, at + "k", kv, hidden, a.qkv_bias);
  add(all, at + "v", kv, hidden, a.qkv_bias);
  if (a.qk_norm != QkNorm::none) {
    const bool head = a.qk_norm == QkNorm::head;
    add_norm(all, at + "q_norm", head ? a.head_dim : q, false);
    add_norm(all, at + "k_norm", head ? a.head_dim : kv, false);
  }
  if (a.sinks) all.push_back({at + "sinks", WeightFormat::f32, 1, a.heads, 0});
  add(all, at + "o", hidden, q, a.o_bias);
}

void add_mlp(std::vector<WeightSpec>& all, const std::string& at, const MlpSpec& m, int64_t hidden) {
  const int64_t width = m.intermediate;
  if (m.moe.experts > 0) add(all, at + "router", m.moe.experts, hidden, m.bias);
  for (int32_t expert = 0; expert < (m.moe.experts > 0 ? m.moe.experts : 1); ++expert) {
    const std::string part = m.moe.experts > 0 ? at + "experts." + std::to_string(expert) + "." : at;
    if (m.gated) add(all, part + "gate", width, hidden, m.bias);
    add(all, part + "up", width, hidden, m.bias);
    add(all, part + "down", hidden, width, m.bias);
  }
}

}  // namespace

StoredBytes stored_bytes(const WeightSpec& spec) {
  constexpr int64_t kMaxSide = int64_t{1} << 31, kMaxElements = int64_t{1} << 50;
  if (spec.rows <= 0 || spec.cols <= 0 || spec.rows > kMaxSide || spec.cols > kMaxSide ||
      spec.rows * spec.cols > kMaxElements) {
    refuse(spec, "a shape that no weight can have");
  }
  const int64_t elements = spec.rows * spec.cols;
  switch (spec.format) {
    case WeightFormat::f32: return {elements * 4, 0, 0};
    case WeightFormat::f16:
    case WeightFormat::bf16: return {elements * 2, 0, 0};
    case WeightFormat::int8: return {elements, spec.rows * 4, 0};
    case WeightFormat::q4_0: return {block_bytes(spec, 32, 18), 0, 0};
    case WeightFormat::q4_1: return {block_bytes(spec, 32, 20), 0, 0};
    case WeightFormat::q5_0: return {block_bytes(spec, 32, 22), 0, 0};
    case WeightFormat::q5_1: return {block_bytes(spec, 32, 24), 0, 0};
    case WeightFormat::q8_0: return {block_bytes(spec, 32, 34), 0, 0};
    case WeightFormat::q4_k: return {block_bytes(spec, 256, 144), 0, 0};
    case WeightFormat::q5_k: return {block_bytes(spec, 256, 176), 0, 0};
    case WeightFormat::q6_k: return {block_bytes(spec, 256, 210), 0, 0};
    case WeightFormat::awq:
    case WeightFormat::gptq: return grouped_int4(spec);
  }
  refuse(spec, "unknown format " + std::to_string(static_cast<int32_t>(spec.format)));
}

std::vector<WeightSpec> required_weights(const ModelDescription& model) {
  model.validate();
  std::vector<WeightSpec> all;
  add(all, "embed", model.vocab, model.hidden);
  for (size_t i = 0; i < model.layers.size(); ++i) {
    const LayerSpec& layer = model.layers[i];
    const std::string at = "layers." + std::to_string(i) + ".";
    if (layer.attn_norm) add_norm(all, at + "attn_norm", model.hidden, model.norm_bias);
    add_attention(all, at, layer.attention, model.hidden);
    if (layer.attn_post_norm) add_norm(all, at + "attn_post_norm", model.hidden, model.norm_bias);
    if (layer.mlp_norm) add_norm(all, at + "mlp_norm", model.hidden, model.norm_bias);
    add_mlp(all, at, layer.mlp, model.hidden);
    if (layer.mlp_post_norm) add_norm(all, at + "mlp_post_norm", model.hidden, model.norm_bias);
  }
  add_norm(all, "final_norm", model.hidden, model.norm_bias);
  if (!model.tied) add(all, "head", model.vocab, model.hidden, model.head_bias);
  return all;
}

}  // namespace deploykit
