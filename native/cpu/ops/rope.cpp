#include <cmath>
#include <string>

#include "cpu/ops/ops.h"
#include "deploykit/error.h"

namespace deploykit::cpu {

void RopeCache::init(const Rope& rope, int32_t max_positions) {
  inv_freq_ = rope.inv_freq;
  factor_ = rope.attention_factor;
  half_ = static_cast<int32_t>(rope.inv_freq.size());
  interleaved_ = rope.interleaved;
  ready_ = 0;
  max_ = max_positions;
  // Reserved once, so that a pointer to a position stays good; pages are touched as positions are reached.
  cos_.clear();
  sin_.clear();
  cos_.reserve(static_cast<size_t>(half_) * static_cast<size_t>(max_));
  sin_.reserve(static_cast<size_t>(half_) * static_cast<size_t>(max_));
}

void RopeCache::reach(int32_t count) {
  if (count <= ready_) return;
  if (count > max_) {
    throw Error("invalid", "position " + std::to_string(count - 1) + " is past the rope table's " +
                               std::to_string(max_) + " positions; raise session_len");
  }
  for (int32_t position = ready_; position < count; ++position) {
    for (float inv_freq : inv_freq_) {
      const float angle = static_cast<float>(position) * inv_freq;
      cos_.push_back(static_cast<float>(std::cos(static_cast<double>(angle))) * factor_);
      sin_.push_back(static_cast<float>(std::sin(static_cast<double>(angle))) * factor_);
    }
  }
  ready_ = count;
}

}  // namespace deploykit::cpu
