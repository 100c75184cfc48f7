#include "cuda/model/int8_head.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/engine/device.h"

namespace deploykit::cuda {
namespace {

constexpr int kThreads = 256;

__device__ float load(const float* p) { return *p; }
__device__ float load(const __half* p) { return __half2float(*p); }
__device__ float load(const __nv_bfloat16* p) { return __bfloat162float(*p); }

// A block a row.
template <class From>
__global__ void sum_rows(const From* src, int64_t row0, int64_t cols, const float* scales, double* sums) {
  __shared__ double parts[2][kThreads];
  const int64_t row = row0 + blockIdx.x;
  const float scale = scales[row];
  double error = 0.0, size = 0.0;
  for (int64_t col = threadIdx.x; col < cols; col += kThreads) {
    const float w = load(src + blockIdx.x * cols + col);
    const double off = static_cast<double>(w) - static_cast<double>(rintf(w / scale)) * static_cast<double>(scale);
    error += off * off;
    size += static_cast<double>(w) * static_cast<double>(w);
  }
  parts[0][threadIdx.x] = error;
  parts[1][threadIdx.x] = size;
  for (unsigned half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x >= half) continue;
    parts[0][threadIdx.x] += parts[0][threadIdx.x + half];
    parts[1][threadIdx.x] += parts[1][threadIdx.x + half];
  }
  if (threadIdx.x < 2) sums[2 * row + threadIdx.x] = parts[threadIdx.x][0];
}

}  // namespace

void rounding_sums(DType from, const void* src, int64_t row0, int64_t rows, int64_t cols, const float* scales,
                   double* sums, cudaStream_t stream) {
  if (rows == 0) return;
  const auto run = [&](auto* typed) {
    sum_rows<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(typed, row0, cols, scales, sums);
  };
  switch (from) {
    case DType::f32: run(static_cast<const float*>(src)); break;
    case DType::f16: run(static_cast<const __half*>(src)); break;
    case DType::bf16: run(static_cast<const __nv_bfloat16*>(src)); break;
  }
  DK_CUDA(cudaGetLastError());
}

}  // namespace deploykit::cuda
