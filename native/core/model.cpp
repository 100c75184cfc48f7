#include "deploykit/model.h"

#include <cmath>
#include <string>

#include "deploykit/error.h"

namespace deploykit {
namespace {

// Bounds that no model comes near: they keep every product of two sizes far from overflowing 64 bits.
constexpr int64_t kMaxWidth = int64_t{1} << 24;
constexpr int64_t kMaxLayers = 1 << 14;

[[noreturn]] void refuse(const std::string& where, const char* field, const std::string& why) {
  throw Error("invalid", "model: " + (where.empty() ? "" : where + ".") + field + " " + why);
}

void range(const std::string& where, const char* field, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high) {
    refuse(where, field,
           "is " + std::to_string(value) + ", not in " + std::to_string(low) + " to " + std::to_string(high));
  }
}

void finite(const std::string& where, const char* field, float value, bool may_be_negative = true) {
  if (!std::isfinite(value) || (!may_be_negative && value < 0)) {
    refuse(where, field, "is " + std::to_string(value) + ", not a finite number" +
                             (may_be_negative ? "" : " of at least 0"));
  }
}

void check_attention(const std::string& where, const AttentionSpec& a, const std::vector<Rope>& ropes) {
  range(where, "heads", a.heads, 1, 1 << 14);
  range(where, "kv_heads", a.kv_heads, 1, a.heads);
  if (a.heads % a.kv_heads != 0) {
    refuse(where, "kv_heads", "is " + std::to_string(a.kv_heads) + ", which does not divide the " +
                                  std::to_string(a.heads) + " heads");
  }
  range(where, "head_dim", a.head_dim, 1, 1 << 12);
  finite(where, "scale", a.scale);
  if (a.scale <= 0) refuse(where, "scale", "is " + std::to_string(a.scale) + ", not above 0");
  range(where, "rope", a.rope, -1, static_cast<int64_t>(ropes.size()) - 1);
  if (a.rope >= 0 && 2 * ropes[static_cast<size_t>(a.rope)].inv_freq.size() > static_cast<size_t>(a.head_dim)) {
    refuse(where, "rope", "rotates " + std::to_string(2 * ropes[static_cast<size_t>(a.rope)].inv_freq.size()) +
                              " dimensions of heads that have " + std::to_string(a.head_dim));
  }
  range(where, "window", a.window, 0, INT32_MAX);
  finite(where, "softcap", a.softcap, false);
  range(where, "qk_norm", static_cast<int32_t>(a.qk_norm), 0, static_cast<int32_t>(QkNorm::full));
  range(where, "logn_trained_len", a.logn_trained_len, 0, INT32_MAX);
  if (a.logn_trained_len == 1) refuse(where, "logn_trained_len", "is 1, whose logarithm is 0");
}

void check_mlp(const std::string& where, const MlpSpec& m) {
  range(where, "intermediate", m.intermediate, 1, kMaxWidth);
  range(where, "activation", static_cast<int32_t>(m.activation), 0, static_cast<int32_t>(Activation::relu));
  const std::string moe = where + ".moe";
  range(moe, "experts", m.moe.experts, 0, 1 << 14);
  if (m.moe.experts == 0) {
    if (m.moe.top_k != 0) refuse(moe, "top_k", "is " + std::to_string(m.moe.top_k) + " in an MLP without experts");
    return;
  }
  range(moe, "top_k", m.moe.top_k, 1, m.moe.experts);
  if (m.moe.sigmoid && m.moe.softmax_after_topk) {
    refuse(moe, "softmax_after_topk", "contradicts sigmoid: choose one");
  }
}

}  // namespace

void ModelDescription::validate() const {
  range("", "hidden", hidden, 1, kMaxWidth);
  range("", "vocab", vocab, 1, kMaxWidth);
  range("norm", "kind", static_cast<int32_t>(norm.kind), 0, static_cast<int32_t>(NormKind::layer));
  finite("norm", "eps", norm.eps, false);
  finite("norm", "weight_offset", norm.weight_offset);
  for (size_t i = 0; i < ropes.size(); ++i) {
    const std::string where = "ropes[" + std::to_string(i) + "]";
    range(where, "inv_freq", static_cast<int64_t>(ropes[i].inv_freq.size()), 1, 1 << 12);
    for (float value : ropes[i].inv_freq) finite(where, "inv_freq", value);
    finite(where, "attention_factor", ropes[i].attention_factor);
  }
  range("", "layers", static_cast<int64_t>(layers.size()), 1, kMaxLayers);
  for (size_t i = 0; i < layers.size(); ++i) {
    const std::string where = "layers[" + std::to_string(i) + "]";
    check_attention(where + ".attention", layers[i].attention, ropes);
    check_mlp(where + ".mlp", layers[i].mlp);
    finite(where, "residual_multiplier", layers[i].residual_multiplier);
  }
  finite("", "embedding_multiplier", embedding_multiplier);
  finite("", "logits_multiplier", logits_multiplier);
  finite("", "logits_softcap", logits_softcap, false);
  if (tied && head_bias) throw Error("unsupported", "model: head_bias with tied: a tied head has no bias of its own");
}

}  // namespace deploykit
