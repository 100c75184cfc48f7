#include <algorithm>
#include <numeric>

#include "cpu/attention/access.h"
#include "cpu/attention/geometry.h"

namespace deploykit::cpu {
namespace {

// Work of one unit in arbitrary units: keys are read once for all of its query vectors.
int64_t cost_of(int64_t keys, int64_t vectors) { return keys * (4 + vectors); }

}  // namespace

void AttentionPlan::build(const std::vector<RowSlice>& rows, const AttentionSpec& spec, int32_t /*block_len*/,
                          int32_t threads) {
  rows_ = &rows;
  units_.clear();
  costs_.clear();
  merges_.clear();
  partials_used_ = 0;
  group_ = spec.heads / spec.kv_heads;
  head_dim_ = spec.head_dim;
  window_ = spec.window;
  partial_stride_ = kPartialHeader + (spec.head_dim + 31) / 32 * 32;

  const int32_t tile = std::max(1, kUnitRows / group_);
  int64_t total = 0;
  for (const RowSlice& slice : rows) {
    for (int32_t query = 0; query < slice.count; query += tile) {
      const int32_t end = std::min(slice.count, query + tile);
      const int64_t first = spec.window > 0 ? std::max(0, slice.start + query - spec.window + 1) : 0;
      total += cost_of(slice.start + end - first, int64_t{end - query} * group_) * spec.kv_heads;
    }
  }
  // A unit above an eighth of one thread's share is split where it has spans to split.
  const int64_t target = threads > 1 ? total / (int64_t{threads} * 8) + 1 : INT64_MAX;
  for (size_t i = 0; i < rows.size(); ++i) {
    for (int32_t query = 0; query < rows[i].count; query += tile) {
      add_units(static_cast<int32_t>(i), spec.kv_heads, query, std::min(rows[i].count, query + tile), spec.window,
                target);
    }
  }
  if (partials_.size() < static_cast<size_t>(partials_used_)) partials_.resize(static_cast<size_t>(partials_used_));
  left_.resize(merges_.size());

  // Long units first, so that the last ones to run are short.
  order_.resize(units_.size());
  std::iota(order_.begin(), order_.end(), 0);
  std::sort(order_.begin(), order_.end(), [this](int32_t a, int32_t b) {
    const int64_t x = costs_[static_cast<size_t>(a)], y = costs_[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  });
  sorted_.clear();
  for (int32_t index : order_) sorted_.push_back(units_[static_cast<size_t>(index)]);
  units_.swap(sorted_);
  reset();
}

void AttentionPlan::add_units(int32_t slice, int32_t kv_heads, int32_t query0, int32_t query1, int32_t window,
                              int64_t target) {
  const RowSlice& row = (*rows_)[static_cast<size_t>(slice)];
  const int32_t first = window > 0 ? std::max(0, row.start + query0 - window + 1) : 0;
  const int32_t end = row.start + query1;
  const int32_t span0 = first / kSpan, span1 = (end + kSpan - 1) / kSpan, spans = span1 - span0;
  const int64_t vectors = int64_t{query1 - query0} * group_, cost = cost_of(end - first, vectors);
  const int64_t wanted = cost > target ? (cost + target - 1) / target : 1;
  const int32_t parts = static_cast<int32_t>(std::min<int64_t>(wanted, spans));
  for (int32_t head = 0; head < kv_heads; ++head) {
    Unit unit;
    unit.slice = slice;
    unit.kv_head = head;
    unit.query0 = query0;
    unit.query1 = query1;
    if (parts > 1) {
      unit.merge = static_cast<int32_t>(merges_.size());
      merges_.push_back({slice, head, query0, query1, span0, span1, parts, partials_used_});
      partials_used_ += vectors * spans * partial_stride_;
    }
    for (int32_t part = 0; part < parts; ++part) {
      unit.span0 = span0 + static_cast<int32_t>(int64_t{spans} * part / parts);
      unit.span1 = span0 + static_cast<int32_t>(int64_t{spans} * (part + 1) / parts);
      units_.push_back(unit);
      const int32_t from = std::max(first, unit.span0 * kSpan), to = std::min(end, unit.span1 * kSpan);
      costs_.push_back(cost_of(to - from, vectors));
    }
  }
}

void AttentionPlan::reset() {
  for (size_t i = 0; i < merges_.size(); ++i) left_[i] = merges_[i].parts;
}

}  // namespace deploykit::cpu
