// Adding a span's result to what the spans before it gave: each is a maximum, a sum and sums of values.
#pragma once

#include "cpu/attention/isa/softmax.h"

namespace deploykit::cpu::DEPLOYKIT_ISA {
namespace {

// Sixteen rows at once. A span_sum of 0 is a row that sees nothing of the span: its factors are 1 and 0. The running
// maximum begins at minus infinity, with a sum of 0.
inline void fold_sums(float* max_score, float* total, const float* span_max, const float* span_sum, float* old_factor,
                      float* new_factor) {
  const Vec m = load(max_score), sm = load(span_max), s = load(total), ss = load(span_sum);
  const Mask16 none = equal(ss, zero());
  const Vec top = select(none, m, select(less(m, sm), sm, m));
  const Vec old_f = select(none, set1(1.0f), exp2_softmax(sub(m, top)));
  const Vec new_f = select(none, zero(), exp2_softmax(sub(sm, top)));
  store(max_score, top);
  store(total, fma(ss, new_f, mul(s, old_f)));
  store(old_factor, old_f);
  store(new_factor, new_f);
}

inline Vec fold_values(Vec old_values, Vec span_values, Vec old_factor, Vec new_factor) {
  return fma(span_values, new_factor, mul(old_values, old_factor));
}

inline float* partial(const AttendTask& task, int32_t row, int32_t span) {
  const int64_t index = int64_t{row} * task.partial_spans + span - task.partial_span0;
  return task.partials + index * task.partial_stride;
}

// Where the sums of values of a span go: into the running ones, or as they are into the partial results.
struct Sink {
  float* to;
  int64_t stride;
  bool partial;
};
inline Sink sink_of(const AttendTask& task, int32_t span_base, int32_t row) {
  if (!task.partials) return {task.work.values + row * task.work.dims, task.work.dims, false};
  return {partial(task, row, span_base / kSpanKeys) + kPartialHeader, task.partial_spans * task.partial_stride, true};
}

// Divides by the sum, with the sink's weight in it, and writes the row out.
inline void finish(const AttendTask& task, int32_t row, float max_score, float total, const float* values) {
  float factor = 1.0f;
  if (task.sinks) {
    const float logit = task.sinks[row % task.group] * kLog2e;
    const float top = logit > max_score ? logit : max_score;
    factor = exp2_of(max_score - top);
    total = total * factor + exp2_of(logit - top);
  }
  const Vec scale = set1(factor / total);
  float* out = task.out + row / task.group * task.out_stride + row % task.group * task.head_dim;
  for (int32_t d = 0; d < task.head_dim; d += 16) {
    const Vec y = mul(load(values + d), scale);
    if (task.head_dim - d >= 16) {
      store(out + d, y);
    } else {
      store_n(out + d, y, task.head_dim - d);
    }
  }
}

}  // namespace
}  // namespace deploykit::cpu::DEPLOYKIT_ISA
