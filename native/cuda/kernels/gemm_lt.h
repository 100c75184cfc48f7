// Library GEMMs (cuBLASLt) for 16-bit weights: the best algorithm chosen once per shape, by time.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>

#include "deploykit/weights.h"

namespace deploykit::cuda {

// y[m, n] = x[m, k] w[n, k]^T (+ y where accumulate) (+ bias[n]), float32 accumulators.
struct GemmShape {
  DType dtype = DType::bf16;
  int64_t m = 0, n = 0, k = 0;
  bool y_f32 = false;       // y is float32 instead of dtype
  bool accumulate = false;  // y += ...: the residual stays in y
  bool bias = false;
};

// Not for use by two threads at once. Buckets of m: 1, 2, 4, 8, then multiples of 8 to 64, of 32 to 256, of 64 to
// 1,024, of 512 beyond; all m of a bucket use the algorithm that was chosen for its upper end.
class GemmLt {
 public:
  GemmLt();  // throws Error("device")
  ~GemmLt();
  static int64_t bucket(int64_t m);

  // Time `candidates` algorithms for shape.m's bucket and keep the best; returns its microseconds. Synchronizes the
  // stream. Writes the workspace between runs to empty L2: give it more bytes than L2 has (64 MiB for an H100). x, w, y
  // are real buffers of bucket(m) rows; strides in elements. Never within a capture.
  double plan(const GemmShape& shape, const void* x, int64_t x_stride, const void* w, void* y, int64_t y_stride,
              const void* bias, void* workspace, int64_t workspace_bytes, int candidates, cudaStream_t stream);

  // Run on a stream; graph-capturable. A shape that was never planned takes the library's first choice (remembered).
  // The workspace must be as large as the plan's and is used by this call alone.
  void run(const GemmShape& shape, const void* x, int64_t x_stride, const void* w, void* y, int64_t y_stride,
           const void* bias, void* workspace, int64_t workspace_bytes, cudaStream_t stream);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace deploykit::cuda
