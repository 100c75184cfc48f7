// 4-bit weights times up to 64 tokens: weights and tokens stream through shared memory in stages of 128 inputs.
//
// A block owns 256 rows of W, a warp 32 of them, and all tokens; from 17 tokens on 16 warps, each with half of the
// tokens. Work is the list of (row tile, stage) in row-major order, cut evenly over the resident blocks (stream-K): a
// block that did only a part of a tile's inputs leaves its float32 sums in the workspace, and the last one to come adds
// all parts in ascending order, so results don't depend on who came last.
#pragma once

#include "cuda/kernels/w4.cuh"

namespace deploykit::cuda {
namespace {

constexpr int kCounters = 16384;  // tiles of one call, 64 KiB
constexpr int64_t kMaxSms = 160;  // multiprocessors that are used

constexpr int kBlockRows = 256, kBlockTiles = 16;

// kTokenTiles: 8 tokens each, of one warp; kHalves: how many warps share 32 rows, each with its own tokens.
template <int kGroup, int kTokenTiles, int kHalves, int kStages>
struct Shape {
  static constexpr int kThreads = 256 * kHalves;
  static constexpr int kTokens = kTokenTiles * kHalves * 8;
  static constexpr int kDataBytes = kBlockRows * 64;
  static constexpr int kParamBytes = kBlockTiles * (128 / kGroup) * 64;
  static constexpr int kRowBytes = 128 * 2 + 16;  // a token's inputs; the pad spreads a quad's loads over the banks
  static constexpr int kStageBytes = kDataBytes + kParamBytes + kTokens * kRowBytes;
  static constexpr int kSharedBytes = kStages * kStageBytes;
  static constexpr int kSumFloats = kTokenTiles * 8;  // a lane's accumulators: two 16-row tiles
};

// Copies of one stage, 16 bytes a thread and time; addresses advance linearly with the step.
template <class S, int kGroup>
struct WeightCopies {
  const char *data, *params;
  int64_t tile_bytes, param_tile_bytes;  // of a tile over all of k
  int tiles;                             // of this block that exist
  int chunks, groups;                    // over k

  __device__ __forceinline__ void aim(const LinearArgs& a, const char* all_data, const char* all_params,
                                      int64_t tile0) {
    chunks = static_cast<int>(a.k / 64);
    groups = static_cast<int>(a.k / kGroup);
    tile_bytes = static_cast<int64_t>(chunks) * 512;
    param_tile_bytes = static_cast<int64_t>(groups) * 64;
    const int64_t left = a.n / 16 - tile0;
    tiles = left < kBlockTiles ? static_cast<int>(left) : kBlockTiles;
    data = all_data + (tile0 + threadIdx.x / 64) * tile_bytes + threadIdx.x % 64 * 16;
    constexpr int kPieces = 128 / kGroup * 4;  // 16-byte pieces of a tile's params in a stage
    params = all_params + (tile0 + threadIdx.x / kPieces) * param_tile_bytes + threadIdx.x % kPieces * 16;
  }
  __device__ __forceinline__ void copy(char* stage, int step) const {
    const bool chunk_ok = 2 * step + static_cast<int>(threadIdx.x % 64) / 32 < chunks;
#pragma unroll
    for (int i = 0; i < 1024 / S::kThreads; ++i) {
      constexpr int kTiles = S::kThreads / 64;  // tiles a round
      const bool ok = chunk_ok && static_cast<int>(threadIdx.x) / 64 + kTiles * i < tiles;
      copy_async16(stage + (threadIdx.x + i * S::kThreads) * 16,
                   ok ? data + i * kTiles * tile_bytes + step * 1024ll : data, ok);
    }
    constexpr int kPieces = 128 / kGroup * 4;
    if (threadIdx.x < kPieces * kBlockTiles) {
      const bool ok = step * (128 / kGroup) + static_cast<int>(threadIdx.x % kPieces) / 4 < groups &&
                      static_cast<int>(threadIdx.x) / kPieces < tiles;
      copy_async16(stage + S::kDataBytes + threadIdx.x * 16, ok ? params + step * (kPieces * 16ll) : params, ok);
    }
  }
};

template <class S, class T>
__device__ __forceinline__ void copy_tokens(char* stage, const LinearArgs& a, int step) {
  const int part = threadIdx.x % 16, token0 = threadIdx.x / 16;
  const int64_t column = step * 128ll + part * 8;
  const char* x = reinterpret_cast<const char*>(static_cast<const T*>(a.x) + column);
#pragma unroll
  for (int i = 0; i < (S::kTokens * 16 + S::kThreads - 1) / S::kThreads; ++i) {
    const int token = token0 + i * (S::kThreads / 16);
    if (token >= S::kTokens) break;
    const bool ok = token < a.m && column < a.k;
    copy_async16(stage + S::kDataBytes + S::kParamBytes + token * S::kRowBytes + part * 16,
                 ok ? x + token * a.x_stride * 2 : static_cast<const char*>(a.x), ok);
  }
}

// One chunk of 64 inputs of a warp's 32 rows.
template <class S, class T, int kGroup, int kTokenTiles>
__device__ __forceinline__ void multiply(float (&sum)[2][kTokenTiles][4], const char* stage, int row_group, int half,
                                         int chunk, int lane) {
  const int r = lane / 4, t = lane % 4;
  constexpr int kParts = kGroup == 32 ? 2 : 1;
  constexpr int kTogether = kTokenTiles < 4 ? kTokenTiles : kParts == 2 ? 2 : 4;  // independent chains of mma
  uint32_t w[2][4][4];
  float scale[2][kParts][2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int tile = row_group * 2 + i;
    const uint4 q = *reinterpret_cast<const uint4*>(stage + (tile * 64 + chunk * 32 + lane) * 16);
    const uint2* param =
        reinterpret_cast<const uint2*>(stage + S::kDataBytes) + (tile * (128 / kGroup) + chunk * 64 / kGroup) * 8 + r;
    uint2 own = param[0];
    scale[i][0][0] = scale_of(own.x), scale[i][0][1] = scale_of(own.y);
    unpack_word<T>(q.x, zero_pair<T>(own.x), zero_pair<T>(own.y), w[i][0]);
    unpack_word<T>(q.y, zero_pair<T>(own.x), zero_pair<T>(own.y), w[i][1]);
    if (kParts == 2) {
      own = param[8];
      scale[i][kParts - 1][0] = scale_of(own.x), scale[i][kParts - 1][1] = scale_of(own.y);
    }
    unpack_word<T>(q.z, zero_pair<T>(own.x), zero_pair<T>(own.y), w[i][2]);
    unpack_word<T>(q.w, zero_pair<T>(own.x), zero_pair<T>(own.y), w[i][3]);
  }
  const char* x =
      stage + S::kDataBytes + S::kParamBytes + (half * kTokenTiles * 8 + r) * S::kRowBytes + chunk * 128 + t * 4;
#pragma unroll
  for (int n0 = 0; n0 < kTokenTiles; n0 += kTogether) {
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      float d[kTogether][2][4] = {};
#pragma unroll
      for (int s = part * 4 / kParts; s < (part + 1) * 4 / kParts; ++s) {
#pragma unroll
        for (int n = 0; n < kTogether; ++n) {
          const char* step = x + (n0 + n) * 8 * S::kRowBytes + s * 32;
          const uint32_t b0 = *reinterpret_cast<const uint32_t*>(step);
          const uint32_t b1 = *reinterpret_cast<const uint32_t*>(step + 16);
#pragma unroll
          for (int i = 0; i < 2; ++i) mma<T>(d[n][i], w[i][s][0], w[i][s][1], w[i][s][2], w[i][s][3], b0, b1);
        }
      }
#pragma unroll
      for (int n = 0; n < kTogether; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          sum[i][n0 + n][0] = fmaf(scale[i][part][0], d[n][i][0], sum[i][n0 + n][0]);
          sum[i][n0 + n][1] = fmaf(scale[i][part][0], d[n][i][1], sum[i][n0 + n][1]);
          sum[i][n0 + n][2] = fmaf(scale[i][part][1], d[n][i][2], sum[i][n0 + n][2]);
          sum[i][n0 + n][3] = fmaf(scale[i][part][1], d[n][i][3], sum[i][n0 + n][3]);
        }
      }
    }
  }
}

template <class T, int kTokenTiles>
__device__ __forceinline__ void finish_tiles(const LinearArgs& a, const float (&sum)[2][kTokenTiles][4], int64_t row0,
                                             int token0, int lane) {
  const int r = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int64_t row = row0 + i * 16;
    if (row >= a.n) continue;
#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n) {
      finish_pair<T>(a, row + r, token0 + n * 8 + 2 * t, sum[i][n][0], sum[i][n][2]);
      finish_pair<T>(a, row + r, token0 + n * 8 + 2 * t + 1, sum[i][n][1], sum[i][n][3]);
    }
  }
}

// The block that does unit `u` of `units` cut over `blocks`.
__device__ __forceinline__ int64_t block_of(int64_t u, int64_t units, int64_t blocks) {
  return ((u + 1) * blocks - 1) / units;
}

template <class T, int kGroup, int kTokenTiles, int kHalves, int kStages, int kBlocks>
__global__ void __launch_bounds__(256 * kHalves, kBlocks)
    w4_mma_kernel(const LinearArgs a, const char* __restrict__ data, const char* __restrict__ params,
                  uint32_t* counters, float* parts) {
  using S = Shape<kGroup, kTokenTiles, kHalves, kStages>;
  extern __shared__ __align__(128) char shared[];
  __shared__ bool last_one;
  const int warp = threadIdx.x / 32 % 8, half = threadIdx.x / 256, lane = threadIdx.x % 32;
  const int steps = static_cast<int>((a.k + 127) / 128), chunks = static_cast<int>(a.k / 64);
  const int64_t tiles = (a.n + kBlockRows - 1) / kBlockRows, units = tiles * steps;
  int64_t unit = blockIdx.x * units / gridDim.x;
  const int64_t end = (blockIdx.x + 1) * units / gridDim.x;

  allow_next_grid();
  {  // the first stages' weights on their way into L2 before the tokens are there
    const int64_t tile = unit / steps * kBlockTiles + threadIdx.x % 256 / 16;
    const int64_t place = unit % steps * 1024 + threadIdx.x % 16 * 256;
    if (tile < a.n / 16 && place < chunks * 512ll) {
      prefetch_l2(data + tile * chunks * 512 + place);
      prefetch_l2(data + tile * chunks * 512 + place + 128);
    }
  }
  wait_prior_grid();

  while (unit < end) {
    const int64_t tile = unit / steps;
    const int first = static_cast<int>(unit % steps);
    const int64_t left = end - unit;
    const int last = left < steps - first ? first + static_cast<int>(left) : steps;
    WeightCopies<S, kGroup> copies;
    copies.aim(a, data, params, tile * kBlockTiles);

    float sum[2][kTokenTiles][4] = {};
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s) {
      if (first + s < last) {
        copies.copy(shared + s * S::kStageBytes, first + s);
        copy_tokens<S, T>(shared + s * S::kStageBytes, a, first + s);
      }
      copy_commit();
    }
    int read = 0, write = kStages - 1;
    for (int step = first; step < last; ++step) {
      copy_wait<kStages - 2>();
      __syncthreads();
      if (step + kStages - 1 < last) {
        copies.copy(shared + write * S::kStageBytes, step + kStages - 1);
        copy_tokens<S, T>(shared + write * S::kStageBytes, a, step + kStages - 1);
      }
      copy_commit();
      const char* stage = shared + read * S::kStageBytes;
      multiply<S, T, kGroup, kTokenTiles>(sum, stage, warp, half, 0, lane);
      if (2 * step + 1 < chunks) multiply<S, T, kGroup, kTokenTiles>(sum, stage, warp, half, 1, lane);
      read = read + 1 == kStages ? 0 : read + 1;
      write = write + 1 == kStages ? 0 : write + 1;
    }
    copy_wait<0>();
    __syncthreads();

    float* flat = &sum[0][0][0];
    const int64_t row0 = tile * kBlockRows + warp * 32;
    if (first == 0 && last == steps) {
      finish_tiles<T, kTokenTiles>(a, sum, row0, half * kTokenTiles * 8, lane);
    } else {
      constexpr int64_t kSlot = static_cast<int64_t>(S::kThreads) * S::kSumFloats;
      const int64_t block0 = block_of(tile * steps, units, gridDim.x);
      const int64_t block1 = block_of(tile * steps + steps - 1, units, gridDim.x);
      float4* mine = reinterpret_cast<float4*>(parts + (2 * blockIdx.x + (first == 0 ? 1 : 0)) * kSlot) + threadIdx.x;
#pragma unroll
      for (int i = 0; i < S::kSumFloats / 4; ++i) {
        __stcg(mine + i * S::kThreads, make_float4(flat[4 * i], flat[4 * i + 1], flat[4 * i + 2], flat[4 * i + 3]));
      }
      __threadfence();
      __syncthreads();
      if (threadIdx.x == 0) {
        const bool is_last = atomicAdd(counters + tile, 1u) == static_cast<uint32_t>(block1 - block0);
        if (is_last) counters[tile] = 0;
        last_one = is_last;
      }
      __syncthreads();
      if (last_one) {
        __threadfence();
#pragma unroll
        for (int i = 0; i < S::kSumFloats; ++i) flat[i] = 0.0f;
        for (int64_t b = block0; b <= block1; ++b) {
          const float4* slot =
              reinterpret_cast<const float4*>(parts + (2 * b + (b == block0 ? 1 : 0)) * kSlot) + threadIdx.x;
#pragma unroll
          for (int i = 0; i < S::kSumFloats / 4; ++i) {
            const float4 v = __ldcg(slot + i * S::kThreads);
            flat[4 * i] += v.x, flat[4 * i + 1] += v.y, flat[4 * i + 2] += v.z, flat[4 * i + 3] += v.w;
          }
        }
        finish_tiles<T, kTokenTiles>(a, sum, row0, half * kTokenTiles * 8, lane);
      }
    }
    unit += last - first;
  }
}

template <class T, int kGroup, int kTokenTiles, int kHalves, int kStages, int kBlocks>
void run_mma(const LinearArgs& a, const W4Weight& w, void* workspace, cudaStream_t stream) {
  using S = Shape<kGroup, kTokenTiles, kHalves, kStages>;
  const auto kernel = w4_mma_kernel<T, kGroup, kTokenTiles, kHalves, kStages, kBlocks>;
  static_assert(S::kSharedBytes * kBlocks <= 224 * 1024, "stages fit the multiprocessor");
  allow_shared("w4_mma", kernel, S::kSharedBytes);
  const int64_t tiles = ceil_div(a.n, kBlockRows), units = tiles * ceil_div(a.k, 128);
  require(tiles <= kCounters, "w4_mma", "n fits the counters");
  static_assert(kBlocks * S::kTokens <= kW4MmaMaxM, "the workspace holds every block's parts");
  int64_t blocks = (multiprocessors() < kMaxSms ? multiprocessors() : kMaxSms) * kBlocks;
  if (blocks > ceil_div(units, 2)) blocks = ceil_div(units, 2);  // parts cost more than idle multiprocessors
  launch("w4_mma", kernel, dim3(static_cast<unsigned>(blocks)), dim3(S::kThreads), S::kSharedBytes, stream, a,
         static_cast<const char*>(w.data), reinterpret_cast<const char*>(w.params), static_cast<uint32_t*>(workspace),
         reinterpret_cast<float*>(static_cast<char*>(workspace) + kCounters * 4));
}

template <class T, int kGroup>
void pick_mma(int variant, const LinearArgs& a, const W4Weight& w, void* workspace, cudaStream_t stream) {
  if (a.m <= 8) return run_mma<T, kGroup, 1, 1, 5, 2>(a, w, workspace, stream);
  if (a.m <= 16) {
    if (kGroup == 128 && variant == 1) return run_mma<T, 128, 1, 2, 4, 2>(a, w, workspace, stream);
    return run_mma<T, kGroup, 2, 1, 4, 2>(a, w, workspace, stream);
  }
  if (a.m <= 32) return run_mma<T, kGroup, 2, 2, 6, 1>(a, w, workspace, stream);
  return run_mma<T, kGroup, 4, 2, 5, 1>(a, w, workspace, stream);
}

}  // namespace

template <class T>
void w4_mma_typed(int variant, const LinearArgs& a, const W4Weight& w, void* workspace, cudaStream_t stream) {
  if (w.group == 32) return pick_mma<T, 32>(variant, a, w, workspace, stream);
  if (w.group == 64) return pick_mma<T, 64>(variant, a, w, workspace, stream);
  return pick_mma<T, 128>(variant, a, w, workspace, stream);
}

}  // namespace deploykit::cuda
