#include "cuda/model/linear.h"

#include <algorithm>

namespace deploykit::cuda {
namespace {

// Where one kernel begins to lose against the next, in tokens; native/bench/cuda/NOTES.md has the measurements.
constexpr int32_t kGemv16Tokens = kGemv16MaxM;
constexpr int32_t kNormTokens = 2;
// Without wgmma 4-bit weights are unpacked for the library above so many tokens.
constexpr int32_t kW4MmaTokens = 3 * kW4MmaMaxM;
constexpr int64_t kGemmWorkspace = int64_t{64} << 20;

GemmShape shape_of(const Matrix& matrix, const LinearCall& call) {
  GemmShape shape;
  shape.dtype = call.dtype;
  shape.m = call.m;
  shape.n = matrix.n;
  shape.k = matrix.k;
  shape.y_f32 = call.y_f32;
  shape.accumulate = call.epilogue == Epilogue::residual;
  shape.bias = call.bias != nullptr;
  return shape;
}

// 16-bit weights of more tokens than gemv16 takes, where gemm16 is ahead of the library: measured from 4,096 inputs on.
constexpr int64_t kGemm16LeastInputs = 2048;
bool uses_gemm16(const Matrix& matrix, int32_t tokens) {
  return tokens <= kGemm16BestM && has_wgmma() && matrix.k % 64 == 0 && matrix.k >= kGemm16LeastInputs;
}

}  // namespace

Linear::Linear(DType, int64_t dequantized) {
  w4_workspace_.allocate(w4_matmul_workspace_bytes());
  DK_CUDA(cudaMemset(w4_workspace_.get(), 0, static_cast<size_t>(w4_workspace_.bytes())));
  gemm_workspace_.allocate(kGemmWorkspace);
  dequantized_.allocate(has_wgmma() ? 0 : dequantized);
}

bool Linear::fuses_norm(int32_t tokens) { return tokens <= kNormTokens; }

bool Linear::fuses_epilogue(const Matrix& matrix, int32_t tokens) { return !uses_library(matrix, tokens); }

bool Linear::fuses_gate(const Matrix& matrix, int32_t tokens) { return !uses_library(matrix, tokens); }

bool Linear::uses_library(const Matrix& matrix, int32_t tokens) {
  if (matrix.int8) return false;
  if (matrix.quantized) return !has_wgmma() && tokens > kW4MmaTokens;
  return tokens > kGemv16Tokens && !uses_gemm16(matrix, tokens);
}

void Linear::run(const Matrix& matrix, LinearCall call, cudaStream_t stream) {
  if (matrix.int8) return w8_matmul(call, matrix.w8, stream);
  call.workspace = w4_workspace_.get();
  if (!uses_library(matrix, call.m)) {
    if (matrix.quantized) return w4_matmul(call, matrix.w4, stream);
    const auto product = call.m <= kGemv16Tokens ? gemv16 : gemm16;
    return product(call, matrix.dense, matrix.n, matrix.k, stream);
  }
  if (call.epilogue == Epilogue::gated || call.norm_weight != nullptr) {
    throw Error("internal", "a library product has no activation or norm inside");
  }
  if (call.epilogue == Epilogue::residual && (call.residual != call.y || call.residual_scale != 1.0f)) {
    throw Error("internal", "a library product adds to its own output, unscaled");
  }
  const void* weight = matrix.dense;
  if (matrix.quantized) {
    w4_dequantize(call.dtype, matrix.w4, 0, matrix.n, dequantized_.get(), stream);
    weight = dequantized_.get();
  }
  gemm_.run(shape_of(matrix, call), call.x, call.x_stride, weight, call.y, call.y_stride, call.bias,
            gemm_workspace_.get(), kGemmWorkspace, stream);
}

void Linear::plan(const Matrix& matrix, const LinearCall& call, int candidates, cudaStream_t stream) {
  if (!uses_library(matrix, call.m)) return;
  const void* weight = matrix.quantized ? dequantized_.get() : matrix.dense;
  gemm_.plan(shape_of(matrix, call), call.x, call.x_stride, weight, call.y, call.y_stride, call.bias,
             gemm_workspace_.get(), kGemmWorkspace, candidates, stream);
}

}  // namespace deploykit::cuda
