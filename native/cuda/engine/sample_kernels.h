// From the rows' sampling state to drawn tokens (docs/sampling.md), with the kernels of cuda/kernels.
#pragma once

#include <cuda_runtime.h>

#include "cuda/engine/device.h"
#include "cuda/engine/state.h"
#include "cuda/kernels/kernels.h"

namespace deploykit::cuda {

// The device memory that drawing takes: logits that penalties and bans changed, what each slice bans, results.
class Drawer {
 public:
  void allocate(int32_t slices, int32_t slots, int32_t vocab);
  int64_t bytes() const;

  // sampled[i] from logits float32 [slices, vocab]: the argmax of every slice. -1 = a logit is not finite.
  void greedy(const float* logits, int32_t slices, int32_t* sampled, cudaStream_t stream);
  // The same by the rows' whole parameters, log probabilities too. Negative: SampleError. Slices that want no token, of
  // the dummy row, of finished rows and of rows drawn on the host are skipped.
  void general(const StepArrays& step, const Rows& rows, const float* logits, int32_t slices, int32_t* sampled,
               cudaStream_t stream);
  // Of the last general draw, [slices]; token -1 where none were asked for.
  const SampleLogprobs* logprobs() const { return logprobs_.get(); }

 private:
  int32_t vocab_ = 0;
  DeviceBuffer<uint8_t> workspace_;
  DeviceBuffer<float> processed_;  // [slots, vocab]
  DeviceBuffer<int32_t> bans_;     // [slices, kMaxBans]
  DeviceBuffer<int32_t> errors_;
  DeviceBuffer<SampleRow> samples_;
  DeviceBuffer<SampleLogprobs> logprobs_;
};

}  // namespace deploykit::cuda
