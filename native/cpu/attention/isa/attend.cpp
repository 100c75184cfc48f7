// One unit of attention, and the merge of the spans of split rows.
#include "cpu/attention/isa/bf16.h"
#include "cpu/attention/isa/dequantized.h"
#include "cpu/attention/isa/integer.h"

namespace deploykit::cpu::DEPLOYKIT_ISA {

void attend(const AttendTask& task);
void merge(const AttendTask& task);

namespace {

void begin_rows(const AttendTask& task, int32_t rows) {
  for (int32_t r = 0, token = 0; r < rows; ++token) {
    for (int32_t head = 0; head < task.group && r < rows; ++head) task.work.token[r++] = token;
  }
  for (int32_t r = 0; r < rows; r += 16) {
    store(task.work.max + r, set1(-__builtin_inff()));
    store(task.work.sum + r, zero());
    store(task.work.span_max + r, zero());
    store(task.work.span_sum + r, zero());
  }
  for (int64_t i = 0; i < rows * task.work.dims; i += 16) store(task.work.values + i, zero());
}

// Kind::weights: the weights of a span's keys, with span_max and span_sum (0 for rows that see nothing of it).
// Kind::values: the weighted sums of its values, added to the running ones.
template <class Kind>
void attend_with(const AttendTask& task) {
  const Workspace& work = task.work;
  const int32_t rows = task.queries * task.group;
  Kind::prepare(task, rows);
  begin_rows(task, rows);
  Span spans[2];
  const bool early = task.geometry.tile_keys == kTileKeys;  // joined tiles of one span alone have a place
  bool any = find_span(task, task.span0, spans[0]);
  for (int32_t index = task.span0; index < task.span1; ++index) {
    Span& span = spans[(index - task.span0) & 1];
    Span& next = spans[(index - task.span0 + 1) & 1];
    bool more = early && index + 1 < task.span1 && find_span(task, index + 1, next);
    if (any) {
      look_ahead(span, more ? &next : nullptr);
      Kind::weights(task, span, rows);
    }
    if (task.partials) {
      for (int32_t r = 0; r < rows; ++r) {
        float* to = partial(task, r, index);
        to[0] = work.span_max[r];
        to[1] = any ? work.span_sum[r] : 0.0f;
      }
    } else if (any) {
      for (int32_t r = 0; r < rows; r += 16) {
        fold_sums(work.max + r, work.sum + r, work.span_max + r, work.span_sum + r, work.old_factor + r,
                  work.new_factor + r);
      }
    }
    if (any) Kind::values(task, span, rows);
    if (!early) more = index + 1 < task.span1 && find_span(task, index + 1, next);
    any = more;
  }
  if (task.partials) return;
  for (int32_t r = 0; r < rows; ++r) finish(task, r, work.max[r], work.sum[r], work.values + r * work.dims);
}

}  // namespace

void attend(const AttendTask& task) {
#if defined(DEPLOYKIT_ISA_avx512)
  switch (task.type) {
    case KvType::bf16:
      if (task.bf16_dot) return attend_with<Bf16Pairs>(task);
      break;
    case KvType::int8: return attend_with<Integer<false, false>>(task);
    case KvType::k8v4: return attend_with<Integer<false, true>>(task);
    case KvType::int4: return attend_with<Integer<true, true>>(task);
    default: break;
  }
#endif
  attend_with<Dequantized>(task);
}

void merge(const AttendTask& task) {
  const Workspace& work = task.work;
  const int32_t rows = task.queries * task.group;
  for (int32_t r = 0; r < rows; ++r) {
    begin_rows(task, 1);
    for (int32_t s = 0; s < task.partial_spans; ++s) {
      const float* from = partial(task, r, task.partial_span0 + s);
      if (from[1] == 0.0f) continue;
      work.span_max[0] = from[0];
      work.span_sum[0] = from[1];
      fold_sums(work.max, work.sum, work.span_max, work.span_sum, work.old_factor, work.new_factor);
      const Vec old_factor = set1(work.old_factor[0]), new_factor = set1(work.new_factor[0]);
      for (int32_t d = 0; d < task.head_dim; d += 16) {
        const Vec span_values = load(from + kPartialHeader + d);
        store(work.values + d, fold_values(load(work.values + d), span_values, old_factor, new_factor));
      }
    }
    finish(task, r, work.max[0], work.sum[0], work.values);
  }
}

}  // namespace deploykit::cpu::DEPLOYKIT_ISA
