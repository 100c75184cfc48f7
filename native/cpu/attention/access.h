// What attention.cpp needs of an AttentionPlan.
#pragma once

#include "cpu/attention/attention.h"

namespace deploykit::cpu {

struct PlanAccess {
  using Merge = AttentionPlan::Merge;
  static const RowSlice& slice(const AttentionPlan& plan, int32_t index) {
    return (*plan.rows_)[static_cast<size_t>(index)];
  }
  static const Merge& merge(const AttentionPlan& plan, int32_t index) {
    return plan.merges_[static_cast<size_t>(index)];
  }
  static float* partials(AttentionPlan& plan, const Merge& merge) { return plan.partials_.data() + merge.offset; }
  static int64_t partial_stride(const AttentionPlan& plan) { return plan.partial_stride_; }
  static int32_t group(const AttentionPlan& plan) { return plan.group_; }
  static int32_t head_dim(const AttentionPlan& plan) { return plan.head_dim_; }
  // Whether the plan's units have every key that a layer with this window sees.
  static bool covers(const AttentionPlan& plan, int32_t window) {
    return plan.window_ == 0 || (window > 0 && window <= plan.window_);
  }
  // One unit of the merge is done; true for the last one, which then sees what all others wrote.
  static bool finish(AttentionPlan& plan, int32_t merge) {
    return __atomic_sub_fetch(&plan.left_[static_cast<size_t>(merge)], 1, __ATOMIC_ACQ_REL) == 0;
  }
};

}  // namespace deploykit::cpu
