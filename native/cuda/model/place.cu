#include "cuda/model/place.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/engine/device.h"

namespace deploykit::cuda {
namespace {

__device__ float load(const float* p) { return *p; }
__device__ float load(const __half* p) { return __half2float(*p); }
__device__ float load(const __nv_bfloat16* p) { return __bfloat162float(*p); }
__device__ void store(__half* p, float v) { *p = __float2half_rn(v); }
__device__ void store(__nv_bfloat16* p, float v) { *p = __float2bfloat16_rn(v); }

template <class From, class To>
__global__ void place(const From* src, int64_t row0, int64_t rows, int64_t cols, To* dst, int64_t row_offset,
                      RowMap map) {
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const int64_t i = row0 + row;
    int64_t to = row_offset + i;
    if (map != RowMap::plain) to = i / 8 * 16 + i % 8 + (map == RowMap::up ? 8 : 0);
    for (int64_t col = threadIdx.x; col < cols; col += blockDim.x) store(dst + to * cols + col, load(src + row * cols + col));
  }
}

template <class From>
void place_as(const void* src, int64_t row0, int64_t rows, int64_t cols, DType to, void* dst, int64_t row_offset,
              RowMap map, cudaStream_t stream) {
  const unsigned grid = static_cast<unsigned>(rows < 65535 ? rows : 65535);
  const From* from = static_cast<const From*>(src);
  if (to == DType::bf16) {
    place<<<grid, 256, 0, stream>>>(from, row0, rows, cols, static_cast<__nv_bfloat16*>(dst), row_offset, map);
  } else {
    place<<<grid, 256, 0, stream>>>(from, row0, rows, cols, static_cast<__half*>(dst), row_offset, map);
  }
  DK_CUDA(cudaGetLastError());
}

__global__ void take(const uint4* x, int64_t x_stride, const int32_t* index, int64_t n, uint4* out) {
  const uint4* from = x + static_cast<int64_t>(index[blockIdx.x]) * x_stride;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) out[blockIdx.x * n + i] = from[i];
}

}  // namespace

void take_rows(const void* x, int64_t x_stride, const int32_t* index, int32_t count, int64_t n, void* out,
               cudaStream_t stream) {
  take<<<static_cast<unsigned>(count), 256, 0, stream>>>(static_cast<const uint4*>(x), x_stride / 8, index, n / 8,
                                                         static_cast<uint4*>(out));
  DK_CUDA(cudaGetLastError());
}

void place_rows(DType from, const void* src, int64_t row0, int64_t rows, int64_t cols, DType to, void* dst,
                int64_t row_offset, RowMap map, cudaStream_t stream) {
  if (rows == 0) return;
  switch (from) {
    case DType::f32: return place_as<float>(src, row0, rows, cols, to, dst, row_offset, map, stream);
    case DType::f16: return place_as<__half>(src, row0, rows, cols, to, dst, row_offset, map, stream);
    case DType::bf16: return place_as<__nv_bfloat16>(src, row0, rows, cols, to, dst, row_offset, map, stream);
  }
}

}  // namespace deploykit::cuda
