// Elementwise and row-wise operations on float32 activations.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/isa.h"
#include "deploykit/model.h"

namespace deploykit::cpu {

// cos and sin of a rope table, computed when a position is first used: angle = float(position) * inv_freq[i] in
// float32, cos and sin rounded from double, times attention_factor.
class RopeCache {
 public:
  void init(const Rope& rope, int32_t max_positions);
  // Make positions [0, count) ready; called by one thread before a step.
  void reach(int32_t count);
  const float* cos(int32_t position) const { return cos_.data() + static_cast<int64_t>(position) * half_; }
  const float* sin(int32_t position) const { return sin_.data() + static_cast<int64_t>(position) * half_; }
  int32_t half() const { return half_; }
  bool interleaved() const { return interleaved_; }

 private:
  std::vector<float> inv_freq_, cos_, sin_;
  float factor_ = 1.0f;
  int32_t half_ = 0, ready_ = 0, max_ = 0;
  bool interleaved_ = false;
};

struct OpsKernels {
  // y = norm(x) * (weight + norm.weight_offset) (+ bias); x and y [n] may be the same.
  void (*norm)(const Norm& norm, const float* x, const float* weight, const float* bias, int64_t n, float* y);
  // Rotate `heads` heads of head_dim at x in place.
  void (*rope)(float* x, int32_t heads, int32_t head_dim, const float* cos, const float* sin, int32_t half,
               bool interleaved);
  // gate[i] = act(gate[i]) * up[i]; with up = nullptr: gate[i] = act(gate[i]).
  void (*activate)(Activation act, float* gate, const float* up, int64_t n);
  // y += a * x
  void (*axpy)(float a, const float* x, float* y, int64_t n);
  // y *= a
  void (*scale)(float a, float* y, int64_t n);
  // y = cap * tanh(y / cap)
  void (*softcap)(float cap, float* y, int64_t n);
  // Index of the largest element, the lowest on ties; -1 where an element is NaN or infinite.
  int64_t (*argmax)(const float* x, int64_t n);
};
const OpsKernels& ops_kernels(Isa isa);

}  // namespace deploykit::cpu
