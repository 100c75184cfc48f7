// 8-bit weights made of 16- or 32-bit ones: a scale a row, integers in the order of the operands (kernels.h).
#include "cuda/kernels/w8.cuh"

namespace deploykit::cuda {
namespace {

constexpr int kThreads = 256;

template <class S>
__device__ __forceinline__ float2 two(const S* p) {
  return Num<S>::to_float2(*reinterpret_cast<const uint32_t*>(p));
}
template <>
__device__ __forceinline__ float2 two<float>(const float* p) {
  return *reinterpret_cast<const float2*>(p);
}

__device__ __forceinline__ uint32_t quantized(float v, float scale) {
  const float q = rintf(__fdiv_rn(v, scale));
  return static_cast<uint32_t>(static_cast<int>(fminf(fmaxf(q, -127.0f), 127.0f))) & 0xffu;
}

// A block has 16 rows; 16 threads find a row's scale, then a warp packs 32 inputs at a time.
template <class S>
__global__ void __launch_bounds__(kThreads)
    w8_quantize_kernel(const S* __restrict__ src, int64_t k, int64_t tile0, char* __restrict__ data,
                       float* __restrict__ scales) {
  __shared__ float scale_of[16];
  const S* rows = src + static_cast<int64_t>(blockIdx.x) * 16 * k;
  const int64_t tile = tile0 + blockIdx.x;
  {
    const S* row = rows + threadIdx.x / 16 * k;
    float most = 0.0f;
    for (int64_t i = threadIdx.x % 16 * 2; i < k; i += 32) {
      const float2 v = two<S>(row + i);
      most = fmaxf(most, fmaxf(fabsf(v.x), fabsf(v.y)));
    }
#pragma unroll
    for (int offset = 8; offset > 0; offset >>= 1) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, offset));
    if (threadIdx.x % 16 == 0) {
      float scale = __fdiv_rn(most, 127.0f);
      if (scale == 0.0f) scale = 1.0f;
      scale_of[threadIdx.x / 16] = scale;
      scales[tile * 16 + threadIdx.x / 16] = scale;
    }
  }
  __syncthreads();
  const int lane = threadIdx.x % 32, r = lane / 4, t = lane % 4;
  const float scale_lo = scale_of[r], scale_hi = scale_of[r + 8];
  for (int64_t c = threadIdx.x / 32; c < k / 32; c += kThreads / 32) {
    uint32_t word[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const S* at = rows + r * k + c * 32 + i * 8 + 2 * t;
      const float2 lo = two<S>(at), hi = two<S>(at + 8 * k);
      word[i] = quantized(lo.x, scale_lo) | quantized(hi.x, scale_hi) << 8 | quantized(lo.y, scale_lo) << 16 |
                quantized(hi.y, scale_hi) << 24;
    }
    reinterpret_cast<uint4*>(data + tile * 16 * k + c * 512)[lane] = make_uint4(word[0], word[1], word[2], word[3]);
  }
}

template <class S>
void quantize(const void* src, int64_t row0, int64_t rows, const W8Weight& dst, cudaStream_t stream) {
  w8_quantize_kernel<S><<<static_cast<unsigned>(rows / 16), kThreads, 0, stream>>>(
      static_cast<const S*>(src), dst.k, row0 / 16, static_cast<char*>(dst.data), dst.scales);
  check_cuda(cudaGetLastError(), "w8_quantize");
}

}  // namespace

int64_t w8_data_bytes(int64_t n, int64_t k) { return n * k; }

void w8_quantize(DType from, const void* src, int64_t row0, int64_t rows, const W8Weight& dst, cudaStream_t stream) {
  require(dst.n >= 16 && dst.n % 16 == 0, "w8_quantize", "n % 16 == 0");
  require(dst.k >= 64 && dst.k % 64 == 0, "w8_quantize", "k % 64 == 0");
  require(row0 >= 0 && rows >= 0 && row0 % 16 == 0 && rows % 16 == 0 && row0 + rows <= dst.n, "w8_quantize",
          "rows are whole tiles of 16 within the weight");
  if (rows == 0) return;
  if (from == DType::f16) return quantize<__half>(src, row0, rows, dst, stream);
  if (from == DType::bf16) return quantize<__nv_bfloat16>(src, row0, rows, dst, stream);
  require(from == DType::f32, "w8_quantize", "the source is f16, bf16 or f32");
  quantize<float>(src, row0, rows, dst, stream);
}

}  // namespace deploykit::cuda
