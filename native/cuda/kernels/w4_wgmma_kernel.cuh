#pragma once

// 4-bit weights (groups of 128) times up to 64 tokens on wgmma (sm_90a); ahead of mma.sync for 9 to 32.
//
// Weights go from memory straight to the registers of the warp that multiplies them: a warp's 16 rows of a packed tile
// are its share of wgmma's 64-row first operand. The tokens are the second one, in shared memory, a stage of 128 inputs
// at a time; within 64 inputs they are stored in the order in which the packed layout feeds the products. Four
// warpgroups, 256 rows of W a block: while one unpacks, the tensor cores work for another. Work is cut as in
// w4_mma_kernel.cuh.
#include "cuda/kernels/w4.cuh"
#include "cuda/kernels/wgmma.cuh"

namespace deploykit::cuda {

namespace {

constexpr int kWgmmaCounters = 16384;  // tiles of one call, 64 KiB
constexpr int64_t kWgmmaMaxSms = 160;
constexpr int kWgmmaRows = 256;
constexpr int kStages = 5;

// The block that does unit `u` of `units` cut over `blocks`.
__device__ __forceinline__ int64_t wgmma_block_of(int64_t u, int64_t units, int64_t blocks) {
  return ((u + 1) * blocks - 1) / units;
}

template <class T, int kTokens, int kDepth>
__global__ void __launch_bounds__(512, 1)
    w4_wgmma_kernel(const LinearArgs a, const uint4* __restrict__ data, const uint2* __restrict__ params,
                    uint32_t* counters, float* parts) {
#ifdef DEPLOYKIT_WGMMA
  constexpr int kSums = kTokens / 2;
  constexpr int kChunkBytes = kTokens * 128;         // 64 inputs of every token
  constexpr int kEach = (kTokens * 16 + 511) / 512;  // 16-byte units of a stage a thread copies
  extern __shared__ char raw[];
  char* shared = raw + ((1024 - (shared_address(raw) & 1023)) & 1023);  // [stages][2 chunks][tokens][128 bytes]
  __shared__ bool last_one;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, r = lane / 4, t = lane % 4;
  const int steps = static_cast<int>(a.k / 128), chunks = 2 * steps;
  const int64_t tiles = (a.n + kWgmmaRows - 1) / kWgmmaRows, units = tiles * steps;
  const int64_t begin = blockIdx.x * units / gridDim.x, end = (blockIdx.x + 1) * units / gridDim.x;

  // Weights run ahead of the products by kDepth units, through the ends of tiles.
  int64_t ahead_tile = begin / steps, ahead = begin;
  int ahead_step = static_cast<int>(begin % steps);
  uint4 q[kDepth][2];
  uint2 p[kDepth];
  const auto load_next = [&](int depth) {
    if (ahead >= end) return;
    const int64_t wanted = ahead_tile * 16 + warp, most = a.n / 16 - 1;
    const int64_t tile = wanted < most ? wanted : most;  // rows that don't exist: any weights, never stored
    const uint4* from = data + (tile * chunks + 2 * ahead_step) * 32 + lane;
    q[depth][0] = load_stream16(from);
    q[depth][1] = load_stream16(from + 32);
    p[depth] = load_stream8(params + (tile * steps + ahead_step) * 8 + r);
    ++ahead;
    if (++ahead_step == steps) ahead_step = 0, ++ahead_tile;
  };
#pragma unroll
  for (int i = 0; i < kDepth; ++i) load_next(i);
  wait_prior_grid();
  allow_next_grid();

  // Tokens: input 16t + 4s + 2h + e of a chunk stands at 16s + 8h + 2t + e of its row, in swizzled 16-byte units.
  // Copied word by word, kStages - 1 units ahead: an L2 load under load takes longer than a unit's products.
  int64_t token_unit = begin;
  int token_step = static_cast<int>(begin % steps), token_stage = 0;
  const auto copy_tokens = [&] {
    if (token_unit < end) {
      char* stage = shared + token_stage * 2 * kChunkBytes;
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const int u = threadIdx.x + i * 512, token = u / 16;
        if (token >= a.m || token >= kTokens) break;  // tokens that don't exist: anything, never stored
        const T* from = static_cast<const T*>(a.x) + token * a.x_stride + token_step * 128ll + u % 16 * 8;
        char* row = stage + u % 16 / 8 * kChunkBytes + token * 128 + u % 8 / 2 * 4;
#pragma unroll
        for (int w = 0; w < 4; ++w) copy_async4(row + ((u % 2 * 4 + w) ^ (token % 8)) * 16, from + 2 * w);
      }
      ++token_unit;
      if (++token_step == steps) token_step = 0;
      if (++token_stage == kStages) token_stage = 0;
    }
    copy_commit();
  };

  float sum[kSums];
#pragma unroll
  for (int i = 0; i < kSums; ++i) sum[i] = 0.0f;
  int64_t tile = begin / steps;
  int step = static_cast<int>(begin % steps), first = step, stage = 0;
  for (int i = 0; i < kStages - 1; ++i) copy_tokens();

  for (int64_t base = begin; base < end; base += kDepth) {
#pragma unroll
    for (int depth = 0; depth < kDepth; ++depth) {
      const int64_t unit = base + depth;
      if (unit >= end) break;
      char* here = shared + stage * 2 * kChunkBytes;
      stage = stage + 1 == kStages ? 0 : stage + 1;
      copy_wait<kStages - 2>();
      async_proxy_fence();
      __syncthreads();  // this stage is there; and all products of the last one have ended
      copy_tokens();
      const bool last_of_tile = step + 1 == steps;

      const uint32_t zero_lo = zero_pair<T>(p[depth].x), zero_hi = zero_pair<T>(p[depth].y);
      const uint32_t address = shared_address(here);
      float d[kSums];
#pragma unroll
      for (int chunk = 0; chunk < 2; ++chunk) {
        const uint32_t words[4] = {q[depth][chunk].x, q[depth][chunk].y, q[depth][chunk].z, q[depth][chunk].w};
        uint32_t w[4][4];
#pragma unroll
        for (int s = 0; s < 4; ++s) unpack_word<T>(words[s], zero_lo, zero_hi, w[s]);
        wgmma_fence();
#pragma unroll
        for (int s = 0; s < 4; ++s) {
          wgmma_rows<T, kTokens>(d, w[s], matrix_descriptor(address + chunk * kChunkBytes + s * 32, 16, 1024),
                                 chunk > 0 || s > 0);
        }
        wgmma_commit();
      }
      const float lo = scale_of(p[depth].x), hi = scale_of(p[depth].y);
      load_next(depth);
      wgmma_wait<0>();
#pragma unroll
      for (int j = 0; j < kSums; ++j) sum[j] = fmaf(j % 4 < 2 ? lo : hi, d[j], sum[j]);

      if (!last_of_tile && unit + 1 < end) {
        ++step;
        continue;
      }
      // The end of a tile, or of this block's part of it.
      const int64_t row = tile * kWgmmaRows + warp * 16;
      bool mine_to_finish = first == 0 && last_of_tile;
      if (!mine_to_finish) {
        constexpr int64_t kSlot = 512ll * kSums;
        const int64_t block0 = wgmma_block_of(tile * steps, units, gridDim.x);
        const int64_t block1 = wgmma_block_of(tile * steps + steps - 1, units, gridDim.x);
        float4* mine = reinterpret_cast<float4*>(parts + (2 * blockIdx.x + (first == 0 ? 1 : 0)) * kSlot) + threadIdx.x;
#pragma unroll
        for (int j = 0; j < kSums; j += 4) {
          __stcg(mine + j / 4 * 512, make_float4(sum[j], sum[j + 1], sum[j + 2], sum[j + 3]));
        }
        __threadfence();
        __syncthreads();
        if (threadIdx.x == 0) {
          const bool is_last = atomicAdd(counters + tile, 1u) == static_cast<uint32_t>(block1 - block0);
          if (is_last) counters[tile] = 0;
          last_one = is_last;
        }
        __syncthreads();
        mine_to_finish = last_one;
        if (mine_to_finish) {
          __threadfence();
#pragma unroll
          for (int j = 0; j < kSums; ++j) sum[j] = 0.0f;
          for (int64_t b = block0; b <= block1; ++b) {
            const float4* slot =
                reinterpret_cast<const float4*>(parts + (2 * b + (b == block0 ? 1 : 0)) * kSlot) + threadIdx.x;
#pragma unroll
            for (int j = 0; j < kSums; j += 4) {
              const float4 v = __ldcg(slot + j / 4 * 512);
              sum[j] += v.x, sum[j + 1] += v.y, sum[j + 2] += v.z, sum[j + 3] += v.w;
            }
          }
        }
      }
      if (mine_to_finish && row < a.n) {
#pragma unroll
        for (int n = 0; n < kTokens / 8; ++n) {
          finish_pair<T>(a, row + r, n * 8 + 2 * t, sum[n * 4], sum[n * 4 + 2]);
          finish_pair<T>(a, row + r, n * 8 + 2 * t + 1, sum[n * 4 + 1], sum[n * 4 + 3]);
        }
      }
#pragma unroll
      for (int j = 0; j < kSums; ++j) sum[j] = 0.0f;
      step = first = 0;
      ++tile;
    }
  }
#else
  __trap();
#endif
}

template <class T, int kTokens, int kDepth>
void run_wgmma(const LinearArgs& a, const W4Weight& w, void* workspace, cudaStream_t stream) {
  const auto kernel = w4_wgmma_kernel<T, kTokens, kDepth>;
  const int64_t tiles = ceil_div(a.n, kWgmmaRows), units = tiles * (a.k / 128);
  require(tiles <= kWgmmaCounters, "w4_mma", "n fits the counters");
  const size_t shared = kStages * 2 * kTokens * 128 + 1024;
  allow_shared("w4_mma", kernel, shared);
  int64_t blocks = multiprocessors() < kWgmmaMaxSms ? multiprocessors() : kWgmmaMaxSms;
  if (blocks > ceil_div(units, 2)) blocks = ceil_div(units, 2);
  launch("w4_mma", kernel, dim3(static_cast<unsigned>(blocks)), dim3(512), shared, stream, a,
         static_cast<const uint4*>(w.data), reinterpret_cast<const uint2*>(w.params), static_cast<uint32_t*>(workspace),
         reinterpret_cast<float*>(static_cast<char*>(workspace) + kWgmmaCounters * 4));
}

}  // namespace

template <class T>
void w4_wgmma_typed(const LinearArgs& a, const W4Weight& w, void* workspace, cudaStream_t stream) {
  if (a.m <= 16) return run_wgmma<T, 16, 4>(a, w, workspace, stream);
  if (a.m <= 32) return run_wgmma<T, 32, 3>(a, w, workspace, stream);
  run_wgmma<T, 64, 2>(a, w, workspace, stream);
}

}  // namespace deploykit::cuda
