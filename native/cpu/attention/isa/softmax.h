// The softmax of one row over one span. Scores are in base 2 already: the factor log2(e) is in the query.
#pragma once

#include "cpu/attention/isa/span.h"
#include "cpu/ops/isa/math.h"

namespace deploykit::cpu::DEPLOYKIT_ISA {
namespace {

inline constexpr float kLog2e = 1.44269504f;

// What a query is multiplied with before anything else; with a soft-cap, scores come out as tanh's argument.
inline float query_factor(const AttendTask& task) {
  return task.softcap > 0.0f ? task.scale / task.softcap : task.scale * kLog2e;
}

inline void cap_scores(const AttendTask& task, float* s, int32_t lo, int32_t hi) {
  if (!(task.softcap > 0.0f)) return;
  const Vec cap = set1(task.softcap * kLog2e);
  for (int32_t t = lo / kTileKeys; t * kTileKeys < hi; ++t) {
    store(s + t * kTileKeys, mul(cap, tanh(load(s + t * kTileKeys))));
  }
}

inline float max_of_scores(const float* s, int32_t lo, int32_t hi) {
  Vec m = set1(-__builtin_inff());
  const int32_t full = (lo + kTileKeys - 1) / kTileKeys, last = hi / kTileKeys;
  for (int32_t t = full; t < last; ++t) m = max(m, load(s + t * kTileKeys));
  const int32_t edges[2] = {lo / kTileKeys, last};
  for (int32_t t : edges) {  // tiles that are visible in part
    const Mask16 lanes = lanes_in(t, lo, hi);
    if (lanes != 0 && lanes != 0xffff) m = max(m, select(lanes, load(s + t * kTileKeys), m));
  }
  return largest(m);
}

// Weights 2^(s - max) in place, zero over the tiles of `range` where not visible; returns their sum.
inline float weights_f32(float* s, TileRange range, int32_t lo, int32_t hi, float max_score) {
  const Vec m = set1(max_score);
  Vec total = zero();
  for (int32_t t = range.begin; t < range.end; ++t) {
    const Mask16 lanes = lanes_in(t, lo, hi);
    Vec p = exp2_softmax(sub(load(s + t * kTileKeys), m));
    if (lanes != 0xffff) p = select(lanes, p, zero());
    store(s + t * kTileKeys, p);
    total = add(total, p);
  }
  return sum(total);
}

// 2^x of one number, the same bits as in a vector.
inline float exp2_of(float x) {
  float y[16];
  store(y, exp2_softmax(set1(x)));
  return y[0];
}

}  // namespace
}  // namespace deploykit::cpu::DEPLOYKIT_ISA
