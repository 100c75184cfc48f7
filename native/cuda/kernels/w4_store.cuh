// The end of a tile of w4_prefill_kernel.cuh: sums into 16-bit outputs that the copy engine stores, while the warps are
// already at the next tile.
#pragma once

#include "cuda/kernels/w4_finish.cuh"
#include "cuda/kernels/wgmma.cuh"

namespace deploykit::cuda {

// A round: 64 tokens of a warpgroup's 64 rows, in the order of a tensor map with a swizzle as wide as a token's outputs
// (128 bytes; gated 64). Two rounds of memory in turn.
constexpr int kStoreTokens = 64, kStoreBytes = kStoreTokens * 128;

#ifdef DEPLOYKIT_WGMMA
__device__ __forceinline__ void store_shared(uint32_t address, uint4 v) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}

// A warpgroup's 64 rows from `row0` on (wgmma's accumulators), of 256 tokens from token0 on of which `exist` exist: bias,
// silu gate or residual, rounding. `drain` waits for the sums; the residual is requested before. `group`: the warpgroup's
// number, for its barrier. Stores follow the kernel's tensor_stores_wait().
template <class T, class Drain>
__device__ __forceinline__ void finish_by_store(const LinearArgs& a, float (&d)[128], uint32_t staging,
                                                const CUtensorMap* y_map, int64_t row0, int64_t token0, int exist,
                                                int group, const Drain& drain) {
  constexpr int kRounds = 256 / kStoreTokens, kItems = kStoreTokens * 8 / 128;
  const bool gated = a.epilogue == Epilogue::gated, adds = a.epilogue == Epilogue::residual;
  int thread = threadIdx.x % 128;
  asm volatile("" : "+r"(thread));  // addresses are made here, not kept in registers over the products
  const int warp = thread / 32, lane = thread % 32, r = lane / 4, row = lane % 8;
  uint4 residual[kRounds][kItems];
  const auto fetch = [&](int first, int last) {  // rounds
    if (!adds) return;
#pragma unroll
    for (int i = first * kItems; i < last * kItems; ++i) {
      const int token = (i * 128 + thread) / 8, piece = thread % 8;
      residual[i / kItems][i % kItems] = make_uint4(0, 0, 0, 0);
      if (token < exist && row0 + piece * 8 < a.n) {
        residual[i / kItems][i % kItems] =
            load16(static_cast<const T*>(a.residual) + (token0 + token) * a.residual_stride + row0 + piece * 8);
      }
    }
  };
  fetch(0, 2);
  drain();
  fetch(2, kRounds);  // the last weights' registers are free now
  if (row0 >= a.n) return;
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
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    if (round * kStoreTokens >= exist) break;
    const uint32_t buffer = round % 2 * kStoreBytes;
    const auto value = [&](int tile, int i) { return d[(round * 8 + tile) * 4 + i]; };
    if (gated) {
#pragma unroll
      for (int first = 0; first < 8; first += 4) {
        uint32_t v[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          v[i] = Num<T>::pack(silu_fast(value(first + i, 0)) * value(first + i, 2),
                              silu_fast(value(first + i, 1)) * value(first + i, 3));
        }
        store_matrices4(gated_at + buffer + first * 512, v[0], v[1], v[2], v[3]);
      }
    } else {
      if (adds) {
#pragma unroll
        for (int i = 0; i < kItems; ++i) {
          const int token = (i * 128 + thread) / 8, piece = thread % 8;
          store_shared(staging + buffer + token * 128 + (piece ^ token % 8) * 16, residual[round][i]);
        }
        named_barrier(1 + group, 128);
      }
#pragma unroll
      for (int tile = 0; tile < 8; tile += 2) {
        const uint32_t at = plain_at + buffer + tile * 1024;
        uint32_t v[4];
        if (adds) {
          load_matrices4(at, v);
          __syncwarp();
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          float lo = value(tile + i / 2, i % 2 * 2), hi = value(tile + i / 2, i % 2 * 2 + 1);
          if (adds) {
            const float2 to = Num<T>::to_float2(v[i]);
            lo = fmaf(a.residual_scale, lo, to.x), hi = fmaf(a.residual_scale, hi, to.y);
          }
          v[i] = Num<T>::pack(lo, hi);
        }
        store_matrices4(at, v[0], v[1], v[2], v[3]);
      }
    }
    async_proxy_fence();
    if (thread == 0) tensor_stores_wait();  // the other round's memory is free behind the barrier
    named_barrier(1 + group, 128);
    if (thread == 0) {
      tensor_store(y_map, staging + buffer, static_cast<int32_t>(gated ? row0 / 2 : row0),
                   static_cast<int32_t>(token0) + round * kStoreTokens);
    }
  }
}
#endif

}  // namespace deploykit::cuda
