// What the sampling kernels share: an order on floats, sums over a block, the random number.
#pragma once

#include "cuda/kernels/common.cuh"

namespace deploykit::cuda {

#ifdef __CUDACC__
namespace {

constexpr int kSampleThreads = 1024;
constexpr int kSampleParts = 32;  // blocks that look at a row side by side

// Larger floats have larger keys; -0 and +0 are one value, as they compare.
__device__ __forceinline__ uint32_t key_of(float x) {
  const uint32_t bits = __float_as_uint(x == 0.0f ? 0.0f : x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float value_of(uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// fn(i, x[i]) for every i of the row, a block's threads in turns of four; vocab and alignment may be any.
template <class Fn>
__device__ __forceinline__ void each_logit(const float* x, int vocab, Fn fn) {
  const int fours = reinterpret_cast<uintptr_t>(x) % 16 == 0 ? vocab / 4 : 0;
  for (int i = threadIdx.x; i < fours; i += kSampleThreads) {
    const float4 v = reinterpret_cast<const float4*>(x)[i];
    fn(4 * i, v.x);
    fn(4 * i + 1, v.y);
    fn(4 * i + 2, v.z);
    fn(4 * i + 3, v.w);
  }
  for (int i = 4 * fours + threadIdx.x; i < vocab; i += kSampleThreads) fn(i, x[i]);
}

template <class V, class Fn>
__device__ __forceinline__ V block_fold(V v, V* parts, Fn fn) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) v = fn(v, __shfl_xor_sync(0xffffffffu, v, offset));
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
  __syncthreads();
  v = parts[threadIdx.x % 32];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) v = fn(v, __shfl_xor_sync(0xffffffffu, v, offset));
  __syncthreads();
  return v;
}

// u of docs/sampling.md: Philox4x32-10 with the seed as key and the position as counter.
__device__ __forceinline__ double random_number(uint64_t seed, uint32_t position) {
  uint32_t c0 = position, c1 = 0, c2 = 0, c3 = 0;
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
#pragma unroll
  for (int i = 0; i < 10; ++i) {
    const uint64_t p0 = 0xD2511F53ull * c0, p1 = 0xCD9E8D57ull * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  const uint64_t n = (static_cast<uint64_t>(c0) << 20) + (c1 >> 12);
  return (static_cast<double>(n) + 0.5) * 0x1p-52;
}

}  // namespace
#endif

}  // namespace deploykit::cuda
