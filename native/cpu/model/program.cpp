#include "cpu/model/program.h"

#include <algorithm>
#include <string>

namespace deploykit::cpu {
namespace {

// Whole heads may leave a worker with this much more than its part of the projections.
constexpr double kUneven = 1.15;

int64_t whole_tiles(int64_t rows) { return (rows + kTileRows - 1) / kTileRows * kTileRows; }

Linear linear(const WeightStore& weights, const std::string& name, bool bias) {
  return {weights.matrix(name + ".weight"), bias ? weights.vector(name + ".bias") : nullptr};
}

NormWeights norm(const WeightStore& weights, const std::string& name, bool present, bool bias) {
  if (!present) return {};
  return {weights.vector(name + ".weight"), bias ? weights.vector(name + ".bias") : nullptr};
}

bool same_plan(const AttentionSpec& a, const AttentionSpec& b) {
  return a.heads == b.heads && a.kv_heads == b.kv_heads && a.head_dim == b.head_dim && a.window == b.window;
}

// Whole heads for each worker: K and V heads evenly, then Q heads so that the bytes come out even. False where a head
// is not whole tiles, or the parts come out uneven.
bool share_heads(const Layer& layer, int32_t threads, std::vector<QkvShare>& shares) {
  const AttentionSpec& spec = layer.spec->attention;
  if (spec.head_dim % kTileRows != 0 || spec.qk_norm == QkNorm::full) return false;
  const int64_t tiles = spec.head_dim / kTileRows;
  const auto q_cost = static_cast<double>(tiles * layer.q.matrix.tile_bytes);
  const auto kv_cost = static_cast<double>(tiles * (layer.k.matrix.tile_bytes + layer.v.matrix.tile_bytes));
  const double mean = (q_cost * spec.heads + kv_cost * spec.kv_heads) / threads;
  double largest = 0;
  int64_t head = 0;
  for (int32_t worker = 0; worker < threads; ++worker) {
    QkvShare part;
    part.kv_heads = share(spec.kv_heads, threads, worker);
    const double kv = kv_cost * static_cast<double>(part.kv_heads.end - part.kv_heads.begin);
    auto count = static_cast<int64_t>(std::max(0.0, (mean - kv) / q_cost + 0.5));
    count = worker + 1 == threads ? spec.heads - head : std::min<int64_t>(count, spec.heads - head);
    part.q_heads = {head, head + count};
    head += count;
    part.q = {part.q_heads.begin * tiles, part.q_heads.end * tiles};
    part.k = part.v = {part.kv_heads.begin * tiles, part.kv_heads.end * tiles};
    largest = std::max(largest, kv + q_cost * static_cast<double>(count));
    shares.push_back(part);
  }
  return largest <= kUneven * mean;
}

// Any tiles, by bytes: Q, K and V one after the other, cut into even parts.
void share_tiles(const Layer& layer, int32_t threads, std::vector<QkvShare>& shares) {
  const PackedMatrix* parts[] = {&layer.q.matrix, &layer.k.matrix, &layer.v.matrix};
  int64_t total = 0;
  for (const PackedMatrix* part : parts) total += packed_bytes(*part);
  shares.assign(static_cast<size_t>(threads), {});
  int64_t before = 0;
  for (int i = 0; i < 3; ++i) {
    // The boundary of worker w lies at total * w / threads bytes; in this part, at a whole tile.
    const auto tile = [&](int64_t worker) {
      const int64_t bytes = total / threads * worker + total % threads * worker / threads - before;
      const int64_t nearest = (bytes + parts[i]->tile_bytes / 2) / parts[i]->tile_bytes;
      return worker == threads ? parts[i]->tiles() : std::clamp<int64_t>(nearest, 0, parts[i]->tiles());
    };
    for (int32_t worker = 0; worker < threads; ++worker) {
      QkvShare& mine = shares[static_cast<size_t>(worker)];
      (i == 0 ? mine.q : i == 1 ? mine.k : mine.v) = Range{tile(worker), tile(worker + 1)};
    }
    before += packed_bytes(*parts[i]);
  }
}

Layer make_layer(const ModelDescription& model, const WeightStore& weights, size_t index, int32_t threads) {
  const LayerSpec& spec = model.layers[index];
  const std::string at = "layers." + std::to_string(index) + ".";
  Layer layer;
  layer.spec = &spec;
  layer.attn_norm = norm(weights, at + "attn_norm", spec.attn_norm, model.norm_bias);
  layer.attn_post_norm = norm(weights, at + "attn_post_norm", spec.attn_post_norm, model.norm_bias);
  layer.mlp_norm = norm(weights, at + "mlp_norm", spec.mlp_norm, model.norm_bias);
  layer.mlp_post_norm = norm(weights, at + "mlp_post_norm", spec.mlp_post_norm, model.norm_bias);
  layer.q = linear(weights, at + "q", spec.attention.qkv_bias);
  layer.k = linear(weights, at + "k", spec.attention.qkv_bias);
  layer.v = linear(weights, at + "v", spec.attention.qkv_bias);
  layer.o = linear(weights, at + "o", spec.attention.o_bias);
  if (spec.attention.qk_norm != QkNorm::none) {
    layer.q_norm = weights.vector(at + "q_norm.weight");
    layer.k_norm = weights.vector(at + "k_norm.weight");
  }
  if (spec.attention.sinks) layer.sinks = weights.vector(at + "sinks");
  layer.qkv_kinds = kind_bit(layer.q) | kind_bit(layer.k) | kind_bit(layer.v);
  const auto expert = [&](const std::string& prefix) {
    Expert mlp;
    if (spec.mlp.gated) mlp.gate = linear(weights, prefix + "gate", spec.mlp.bias);
    mlp.up = linear(weights, prefix + "up", spec.mlp.bias);
    mlp.down = linear(weights, prefix + "down", spec.mlp.bias);
    layer.mlp_kinds |= kind_bit(mlp.up) | (spec.mlp.gated ? kind_bit(mlp.gate) : 0);
    return mlp;
  };
  if (layer.routed()) {
    layer.router = linear(weights, at + "router", spec.mlp.bias);
    layer.mlp_kinds |= kind_bit(layer.router);
    for (int32_t e = 0; e < spec.mlp.moe.experts; ++e) {
      layer.experts.push_back(expert(at + "experts." + std::to_string(e) + "."));
    }
  } else {
    layer.experts.push_back(expert(at));
  }
  layer.whole_heads = share_heads(layer, threads, layer.shares);
  if (!layer.whole_heads) share_tiles(layer, threads, layer.shares);
  return layer;
}

}  // namespace

Program::Program(const ModelDescription& description, const WeightStore& weights, int32_t threads)
    : model(&description) {
  for (size_t i = 0; i < description.layers.size(); ++i) {
    Layer layer = make_layer(description, weights, i, threads);
    const AttentionSpec& attention = layer.spec->attention;
    size_t plan = 0;
    while (plan < plans.size() && !same_plan(*plans[plan], attention)) ++plan;
    if (plan == plans.size()) plans.push_back(&attention);
    layer.plan = static_cast<int32_t>(plan);

    const MlpSpec& mlp = layer.spec->mlp;
    widths.q = std::max(widths.q, whole_tiles(layer.q_width()));
    widths.kv = std::max(widths.kv, whole_tiles(int64_t{attention.kv_heads} * attention.head_dim));
    widths.attention = std::max(widths.attention, layer.q_width());
    widths.intermediate = std::max<int64_t>(widths.intermediate, mlp.intermediate);
    widths.experts = std::max<int64_t>(widths.experts, mlp.moe.experts);
    widths.top_k = std::max<int64_t>(widths.top_k, mlp.moe.top_k);
    widths.post_norm |= layer.spec->attn_post_norm || layer.spec->mlp_post_norm;
    widths.routed |= layer.routed();
    layers.push_back(std::move(layer));
  }
  embed = weights.matrix("embed.weight");
  head.matrix = weights.head();
  if (description.head_bias) head.bias = weights.vector("head.bias");
  final_norm = norm(weights, "final_norm", true, description.norm_bias);
}

}  // namespace deploykit::cpu
