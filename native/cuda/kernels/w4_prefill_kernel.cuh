// 4-bit weights times many tokens on wgmma (sm_90a): what a prompt's products are made of.
//
// The card runs at its power limit here, so what counts is energy: as few instructions for a product as can be. A
// warpgroup has 64 rows and 256 tokens, so a weight is unpacked (in registers, where wgmma takes it from) once for 256
// products. Two blocks of a cluster have the same tokens and neighbouring rows, each fetches half of the tokens for both.
// One warp copies stages of 64 inputs through tensor maps; a block does one tile after another, the copies of the next
// run while the last one is stored. Each warpgroup has memory for a whole tile's outputs, and a warp that brings the
// residual there while the tile is multiplied and stores the outputs while the next one is.
#pragma once

#include "cuda/kernels/gemm16_sync.cuh"
#include "cuda/kernels/w4_plan.cuh"
#include "cuda/kernels/w4_store.cuh"
#include "cuda/kernels/w4_tile.cuh"

namespace deploykit::cuda {
namespace {

// kWide: groups of 128, else 32 or 64.
template <bool kWide_>
struct W4Prefill {
  static constexpr bool kWide = kWide_;
  static constexpr int kRows = 128, kTokens = 256, kDepth = 64, kCluster = 2;
  static constexpr int kConsumers = 256, kThreads = 384, kRegisters = 240;
  static constexpr int kHalfBytes = kTokens / kCluster * kDepth * 2;  // of a stage's tokens
  static constexpr int kTokenBytes = kCluster * kHalfBytes, kDataBytes = kRows * kDepth / 2;
  static constexpr int kParamBytes = 1024;
  static constexpr int kStageBytes = kTokenBytes + kDataBytes + kParamBytes;
  static constexpr int kStages = 4;
  static_assert(kStoreBytes >= kFinishTokens * kFinishPitch * 4, "and for sums in float32");
  static constexpr size_t kSharedBytes = 1024 + static_cast<size_t>(kStages) * kStageBytes + 2 * kStoreBytes;
  static_assert(kSharedBytes + 256 <= 232448, "a block fits a multiprocessor");
};

#ifdef DEPLOYKIT_WGMMA
template <class S>
__device__ __forceinline__ void w4_prefill_fetch(const W4Plan& plan, char* stages, uint64_t* full, uint64_t* empty,
                                                 int cluster, int rank, const CUtensorMap* data_map,
                                                 const CUtensorMap* param_map, const CUtensorMap* token_map) {
  constexpr int kPieces = S::kRows / 16;  // of 16 rows
  const int tiles = plan.row_tiles * plan.token_tiles;
  const int param_words = S::kWide ? 16 : 64 / plan.group * 16;  // of a piece and stage
  const uint32_t bytes = S::kTokenBytes + S::kDataBytes + kPieces * param_words * 4;
  const auto copy_weights = [&](int stage, int step, int row_tile) {
    char* at = stages + stage * S::kStageBytes + S::kTokenBytes;
    const int piece = (row_tile * S::kCluster + rank) * kPieces;
    barrier_expect(full + stage, bytes);
    tensor_copy(at, data_map, full + stage, step * 128, piece);
    tensor_copy(at + S::kDataBytes, param_map, full + stage, (S::kWide ? step / 2 : step) * param_words, piece);
  };
  const auto copy_tokens = [&](int stage, int step, int token_tile) {
    tensor_copy_to_cluster(stages + stage * S::kStageBytes + rank * S::kHalfBytes, token_map, full + stage,
                           (1 << S::kCluster) - 1, step * S::kDepth,
                           token_tile * S::kTokens + rank * (S::kTokens / S::kCluster));
  };
  int ahead = 0;  // stages of the first tile whose weights are on their way
  if (cluster < tiles) {
    const W4Tile tile = w4_tile(plan, cluster);
#pragma unroll 1
    for (; ahead < S::kStages && ahead < plan.steps; ++ahead) copy_weights(ahead, ahead, tile.row_tile);
  }
  wait_prior_grid();
  allow_next_grid();
  int stage = 0;
  uint32_t phase = 1;  // of `empty`: a fresh one counts as ended
  for (int t = cluster; t < tiles; t += plan.clusters) {
    const W4Tile tile = w4_tile(plan, t);
#pragma unroll 1
    for (int step = 0; step < plan.steps; ++step) {
      if (ahead > 0) {
        --ahead;
      } else {
        barrier_wait(empty + stage, phase);
        copy_weights(stage, step, tile.row_tile);
      }
      copy_tokens(stage, step, tile.token_tile);
      if (++stage == S::kStages) stage = 0, phase ^= 1;
    }
  }
}

// The residual into a warpgroup's staging and the outputs out of it, tile by tile. `ready`: the staging may be written,
// the residual has come; `given`: the outputs are there.
template <class S>
__device__ __forceinline__ void w4_prefill_store(const LinearArgs& a, const W4Plan& plan, char* staging, uint64_t* ready,
                                                 uint64_t* given, int cluster, int rank, int group,
                                                 const CUtensorMap* y_map, const CUtensorMap* residual_map) {
  const int tiles = plan.row_tiles * plan.token_tiles, width = a.epilogue == Epilogue::gated ? 2 : 1;
  uint32_t phase = 0;
  wait_prior_grid();
  for (int t = cluster; t < tiles; t += plan.clusters) {
    const W4Tile tile = w4_tile(plan, t);
    const int row0 = (tile.row_tile * S::kCluster + rank) * S::kRows + group * 64, token0 = tile.token_tile * S::kTokens;
    if (row0 >= a.n) continue;
    if (a.epilogue == Epilogue::residual) {
      barrier_expect(ready, kStoreBytes);
      tensor_copy(staging, residual_map, ready, row0, token0);
    } else {
      barrier_arrive(ready);
    }
    barrier_wait(given, phase);
    phase ^= 1;
    tensor_store(y_map, shared_address(staging), row0 / width, token0);
    tensor_stores_wait();
  }
}
#endif

// plan.steps is a multiple of the stages (copies beyond k bring zeros), so the loop names them at compile time.
template <class T, class S>
__global__ void __launch_bounds__(S::kThreads, 1)
    w4_prefill_kernel(const LinearArgs a, const W4Plan plan, const __grid_constant__ CUtensorMap data_map,
                      const __grid_constant__ CUtensorMap param_map, const __grid_constant__ CUtensorMap token_map,
                      const __grid_constant__ CUtensorMap y_map, const __grid_constant__ CUtensorMap residual_map) {
#ifdef DEPLOYKIT_WGMMA
  constexpr int kStages = S::kStages;
  extern __shared__ char raw[];
  char* const stages = raw + ((1024 - (shared_address(raw) & 1023)) & 1023);
  __shared__ uint64_t full[kStages], empty[kStages], ready[2], given[2];
  const int warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
    stage_barriers_init(full, empty, S::kConsumers / 32 * S::kCluster);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      barrier_init(ready + i, 1);
      barrier_init(given + i, 4);
    }
    barrier_init_fence();
  }
  __syncthreads();
  cluster_meet_relaxed();
  const int rank = static_cast<int>(cluster_rank());
  const int cluster = static_cast<int>(blockIdx.x) / S::kCluster;
  const bool by_store = !a.y_f32 && (a.epilogue != Epilogue::gated || a.activation == Activation::silu);
  const auto staging = [&](int group) { return stages + kStages * S::kStageBytes + group * kStoreBytes; };

  if (warp >= S::kConsumers / 32) {
    registers_give<24>();
    const int group = warp - S::kConsumers / 32 - 1;
    if (group == -1 && lane == 0) {
      w4_prefill_fetch<S>(plan, stages, full, empty, cluster, rank, &data_map, &param_map, &token_map);
    } else if (group >= 0 && group < 2 && lane == 0 && by_store) {
      w4_prefill_store<S>(a, plan, staging(group), ready + group, given + group, cluster, rank, group, &y_map,
                          &residual_map);
    }
    __syncwarp();
  } else {
    registers_take<S::kRegisters>();
    wait_prior_grid();
    const int tiles = plan.row_tiles * plan.token_tiles;
    const int group = warp / 4, r = lane / 4;
    const int param_bytes = S::kWide ? 64 : 64 / plan.group * 64;  // of 16 rows
    const uint32_t base = shared_address(stages);
    uint32_t data_at = base + S::kTokenBytes + warp * 512 + lane * 16;
    uint32_t params_at = base + S::kTokenBytes + S::kDataBytes + warp * param_bytes + r * 8;
    // A lane for each block of the cluster.
    uint32_t empty_at = address_at(shared_address(empty), static_cast<uint32_t>(lane < S::kCluster ? lane : 0));
    uint32_t leads = lane < S::kCluster;
    asm volatile("" : "+r"(data_at), "+r"(params_at), "+r"(empty_at), "+r"(leads));  // kept, not made anew for every stage
    const uint64_t tokens = matrix_descriptor(base, 16, 1024);
    float acc[1][128];
    uint32_t weights[2][4][4];
    W4Scales<T> scales;
    uint32_t phase = 0, turn = 0;
    for (int t = cluster; t < tiles; t += plan.clusters) {
      const W4Tile tile = w4_tile(plan, t);
      const int64_t row0 = static_cast<int64_t>(tile.row_tile * S::kCluster + rank) * S::kRows + group * 64;
      const int64_t token0 = static_cast<int64_t>(tile.token_tile) * S::kTokens;
#pragma unroll
      for (int i = 0; i < 128; ++i) acc[0][i] = 0.0f;
#pragma unroll 1
      for (int step = 0; step < plan.steps; step += kStages) {
#pragma unroll
        for (int stage = 0; stage < kStages; ++stage) {
          barrier_wait(full + stage, phase);
          const uint32_t here = stage * S::kStageBytes;
          uint32_t words[4];
          load_shared(data_at + here, words);
#pragma unroll
          for (int s = 0; s < 4; ++s) {
            if (S::kWide ? stage % 2 == 0 && s == 0 : s % 2 == 0) {
              const int place = S::kWide ? 0 : s * 16 / plan.group * 64;
              uint32_t pair[2];
              load_shared(params_at + here + place, pair);
              scales.set(make_uint2(pair[0], pair[1]));
            }
            scales.unpack(words[s], weights[stage % 2][s]);
          }
          wgmma_fence();
#pragma unroll
          for (int s = 0; s < 4; ++s) {
            wgmma_rows<T, 256>(acc[0], weights[stage % 2][s], tokens + here / 16 + s * 2, true);
          }
          wgmma_commit();
          wgmma_wait<1>();
          // The stage in front of this one is read.
          arrive_in_cluster_if((stage > 0 || step > 0) && leads, empty_at + (stage + kStages - 1) % kStages * 8);
        }
        phase ^= 1;
      }
      wgmma_wait<0>();
      arrive_in_cluster_if(leads, empty_at + (kStages - 1) * 8);
      if (!by_store) {
        const int exist = a.m - token0 < S::kTokens ? static_cast<int>(a.m - token0) : S::kTokens;
        finish_float<T, 256, 1>(a, acc, reinterpret_cast<float*>(staging(group)), row0, token0, exist, group);
      } else if (row0 < a.n) {
        barrier_wait(ready + group, turn);
        turn ^= 1;
        finish_in_shared<T>(a, acc[0], shared_address(staging(group)), row0);
        async_proxy_fence();
        __syncwarp();
        if (lane == 0) barrier_arrive(given + group);
      }
    }
  }
  cluster_meet();  // before that nobody's shared memory may go
#else
  __trap();
#endif
}

}  // namespace
}  // namespace deploykit::cuda
