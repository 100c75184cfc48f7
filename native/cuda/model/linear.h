// One linear layer for any number of tokens: the kernel is chosen by how the matrix is stored and by the batch.
#pragma once

#include "cuda/engine/device.h"
#include "cuda/kernels/gemm_lt.h"
#include "cuda/kernels/kernels.h"
#include "cuda/model/weights.h"

namespace deploykit::cuda {

class Linear {
 public:
  // `dequantized`: elements of the largest 4-bit matrix, 0 = none. Memory for them only where they have to be unpacked.
  Linear(DType dtype, int64_t dequantized);

  // Whether a norm in front of this product, a scaled residual or a gate behind it can be part of it.
  static bool fuses_norm(int32_t tokens);
  static bool fuses_epilogue(const Matrix& matrix, int32_t tokens);
  static bool fuses_gate(const Matrix& matrix, int32_t tokens);
  // call.epilogue gated only where fuses_gate, a norm only where fuses_norm. A residual is added in place: call.y.
  void run(const Matrix& matrix, LinearCall call, cudaStream_t stream);
  // Choose the algorithm for this matrix and number of tokens by time. Synchronizes; x and y as for run().
  void plan(const Matrix& matrix, const LinearCall& call, int candidates, cudaStream_t stream);
  int64_t scratch_bytes() const { return w4_workspace_.bytes() + gemm_workspace_.bytes() + dequantized_.bytes(); }

 private:
  static bool uses_library(const Matrix& matrix, int32_t tokens);

  GemmLt gemm_;
  DeviceBuffer<uint8_t> w4_workspace_, gemm_workspace_;
  DeviceBuffer<uint16_t> dequantized_;
};

}  // namespace deploykit::cuda
