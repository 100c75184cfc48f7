// A model's layers with their weights in place: what the stages of a forward read.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/matmul/matmul.h"
#include "cpu/model/weight_store.h"
#include "deploykit/model.h"

namespace deploykit::cpu {

// Consecutive parts of `units` for `parts` workers.
struct Range {
  int64_t begin = 0, end = 0;
  bool empty() const { return begin >= end; }
};
inline Range share(int64_t units, int64_t parts, int64_t part) {
  return {units * part / parts, units * (part + 1) / parts};
}
// The same in whole multiples of `align`.
inline Range share(int64_t units, int64_t parts, int64_t part, int64_t align) {
  const Range blocks = share((units + align - 1) / align, parts, part);
  const int64_t begin = blocks.begin * align, end = blocks.end * align;
  return {begin < units ? begin : units, end < units ? end : units};
}

struct Linear {
  PackedMatrix matrix;
  const float* bias = nullptr;
};

// weight = nullptr: identity.
struct NormWeights {
  const float* weight = nullptr;
  const float* bias = nullptr;
};

struct Expert {
  Linear gate, up, down;
};

// A worker's tiles of the Q, K and V projections, and the heads that they are, where they are whole heads.
struct QkvShare {
  Range q, k, v;  // tiles
  Range q_heads, kv_heads;
};

struct Layer {
  const LayerSpec* spec = nullptr;
  NormWeights attn_norm, attn_post_norm, mlp_norm, mlp_post_norm;
  Linear q, k, v, o, router;
  const float* q_norm = nullptr;
  const float* k_norm = nullptr;
  const float* sinks = nullptr;
  std::vector<Expert> experts;  // one where the MLP is dense
  int32_t plan = 0;             // index of the attention plan that fits it
  std::vector<QkvShare> shares;
  // Every share is made of whole heads, K and V heads in pairs: its worker rotates and stores them itself.
  bool whole_heads = false;
  uint32_t qkv_kinds = 0, mlp_kinds = 0;  // bits of ActKind that the projections' inputs are needed in

  bool routed() const { return spec->mlp.moe.experts > 0; }
  int32_t heads() const { return spec->attention.heads; }
  int32_t kv_heads() const { return spec->attention.kv_heads; }
  int64_t q_width() const { return int64_t{spec->attention.heads} * spec->attention.head_dim; }
};

inline uint32_t kind_bit(const Linear& linear) { return uint32_t{1} << static_cast<int32_t>(linear.matrix.act); }

// The largest of all layers, in floats of a token.
struct Widths {
  int64_t q = 0, kv = 0;  // rounded up to whole tiles
  int64_t attention = 0;  // heads * head_dim
  int64_t intermediate = 0, experts = 0, top_k = 0;
  bool post_norm = false, routed = false;
};

struct Program {
  Program(const ModelDescription& model, const WeightStore& weights, int32_t threads);

  const ModelDescription* model = nullptr;
  std::vector<Layer> layers;
  // One attention spec for each plan that layers share.
  std::vector<const AttentionSpec*> plans;
  PackedMatrix embed;
  Linear head;
  NormWeights final_norm;
  Widths widths;
};

}  // namespace deploykit::cpu
