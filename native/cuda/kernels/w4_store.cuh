// The end of a tile of w4_prefill_kernel.cuh: sums become 16-bit outputs in shared memory, which the copy engine stores
// while the warps are already at the next tile.
#pragma once

#include "cuda/kernels/w4_finish.cuh"
#include "cuda/kernels/wgmma.cuh"

namespace deploykit::cuda {

// A warpgroup's 64 rows of 256 tokens, in the order of a tensor map with a swizzle as wide as a token's outputs (128
// bytes; gated 64).
constexpr int kStoreBytes = 256 * 128;

#ifdef DEPLOYKIT_WGMMA
// The sums (wgmma's accumulators) of rows row0 .. row0 + 63 and 256 tokens into `staging`: bias, silu gate or the
// residual that lies there, rounding.
template <class T>
__device__ __forceinline__ void finish_in_shared(const LinearArgs& a, float (&d)[128], uint32_t staging, int64_t row0) {
  int thread = threadIdx.x % 128;
  asm volatile("" : "+r"(thread));  // addresses are made here, not kept in registers over the products
  const int warp = thread / 32, lane = thread % 32, r = lane / 4, row = lane % 8;
  if (a.bias != nullptr && row0 + warp * 16 < a.n) {
    const T* at = static_cast<const T*>(a.bias) + row0 + warp * 16 + r;
    const float bias[2] = {Num<T>::to_float(at[0]), Num<T>::to_float(at[8])};
#pragma unroll
    for (int i = 0; i < 128; ++i) d[i] += bias[i / 2 % 2];
  }
  // Matrix lane / 8 of a stmatrix: gated, tokens 8 (lane / 8); else tokens 8 (lane / 16), rows r or r + 8.
  const int matrix = lane / 8;
  const uint32_t plain_at = staging + (matrix / 2 * 8 + row) * 128 + ((warp * 2 + matrix % 2) ^ row) * 16;
  const uint32_t gated_at = staging + (matrix * 8 + row) * 64 + (warp ^ row / 2) * 16;
  if (a.epilogue == Epilogue::gated) {
#pragma unroll
    for (int first = 0; first < 32; first += 4) {
      uint32_t v[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* sums = d + (first + i) * 4;
        v[i] = Num<T>::pack(silu_fast(sums[0]) * sums[2], silu_fast(sums[1]) * sums[3]);
      }
      store_matrices4(gated_at + first * 512, v[0], v[1], v[2], v[3]);
    }
  } else if (a.epilogue == Epilogue::residual) {
#pragma unroll
    for (int tile = 0; tile < 32; tile += 2) {
      uint32_t v[4];
      load_matrices4(plain_at + tile * 1024, v);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* sums = d + tile * 4 + 2 * i;
        const float2 to = Num<T>::to_float2(v[i]);
        v[i] = Num<T>::pack(fmaf(a.residual_scale, sums[0], to.x), fmaf(a.residual_scale, sums[1], to.y));
      }
      store_matrices4(plain_at + tile * 1024, v[0], v[1], v[2], v[3]);
    }
  } else {
#pragma unroll
    for (int tile = 0; tile < 32; tile += 2) {
      const float* sums = d + tile * 4;
      store_matrices4(plain_at + tile * 1024, Num<T>::pack(sums[0], sums[1]), Num<T>::pack(sums[2], sums[3]),
                      Num<T>::pack(sums[4], sums[5]), Num<T>::pack(sums[6], sums[7]));
    }
  }
}
#endif

}  // namespace deploykit::cuda
