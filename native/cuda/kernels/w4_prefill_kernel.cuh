// 4-bit weights times many tokens on wgmma (sm_90a): what a prompt's products are made of.
//
// The card runs at its power limit here, so what counts is energy: as few instructions for a product as can be. A
// warpgroup has 64 rows and 256 tokens, so a weight is unpacked (in registers, where wgmma takes it from) once for 256
// products. Two blocks of a cluster have the same tokens and neighbouring rows, each fetches half of the tokens for both.
// One warp copies stages of 64 inputs through tensor maps; a block does one tile after another, the copies of the next
// run while the last one is stored.
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
  static constexpr int kStages = 5;
  static constexpr int kFinishBytes = 2 * kStoreBytes;  // of a warpgroup
  static_assert(kFinishBytes >= kFinishTokens * kFinishPitch * 4, "and for sums in float32");
  static constexpr size_t kSharedBytes = 1024 + static_cast<size_t>(kStages) * kStageBytes + 2 * kFinishBytes;
  static_assert(kSharedBytes + 256 <= 232448, "a block fits a multiprocessor");
};

#ifdef DEPLOYKIT_WGMMA
__device__ __forceinline__ void load_shared(uint32_t address, uint32_t (&v)[4]) {
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void load_shared(uint32_t address, uint32_t (&v)[2]) {
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(v[0]), "=r"(v[1]) : "r"(address) : "memory");
}

// The residual of 64 rows and two tokens 128 apart into L2: at a tile's end there is no time for memory.
template <class T>
__device__ __forceinline__ void prefetch_residual(const LinearArgs& a, int64_t row0, int64_t token) {
#pragma unroll
  for (int i = 0; i < 2; ++i, token += 128) {
    if (token < a.m && row0 < a.n) {
      asm volatile("prefetch.global.L2 [%0];" ::"l"(static_cast<const T*>(a.residual) + token * a.residual_stride + row0));
    }
  }
}

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
#endif

// plan.steps is even (where k isn't, copies beyond it bring zeros).
template <class T, class S>
__global__ void __launch_bounds__(S::kThreads, 1)
    w4_prefill_kernel(const LinearArgs a, const W4Plan plan, const __grid_constant__ CUtensorMap data_map,
                      const __grid_constant__ CUtensorMap param_map, const __grid_constant__ CUtensorMap token_map,
                      const __grid_constant__ CUtensorMap y_map) {
#ifdef DEPLOYKIT_WGMMA
  constexpr int kStages = S::kStages;
  extern __shared__ char raw[];
  char* const stages = raw + ((1024 - (shared_address(raw) & 1023)) & 1023);
  __shared__ uint64_t full[kStages], empty[kStages];
  const int warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
#pragma unroll
    for (int i = 0; i < kStages; ++i) {
      barrier_init(full + i, 1);
      barrier_init(empty + i, S::kConsumers / 32 * S::kCluster);
    }
    barrier_init_fence();
  }
  __syncthreads();
  cluster_meet_relaxed();
  const int rank = static_cast<int>(cluster_rank());
  const int cluster = static_cast<int>(blockIdx.x) / S::kCluster;

  if (warp >= S::kConsumers / 32) {
    registers_give<24>();
    if (warp == S::kConsumers / 32 && lane == 0) {
      w4_prefill_fetch<S>(plan, stages, full, empty, cluster, rank, &data_map, &param_map, &token_map);
    }
    __syncwarp();
  } else {
    registers_take<S::kRegisters>();
    wait_prior_grid();
    const int tiles = plan.row_tiles * plan.token_tiles;
    const int group = warp / 4, r = lane / 4;
    const int param_bytes = S::kWide ? 64 : 64 / plan.group * 64;  // of 16 rows
    uint32_t data_at = S::kTokenBytes + warp * 512 + lane * 16;
    uint32_t params_at = S::kTokenBytes + S::kDataBytes + warp * param_bytes + r * 8;
    const uint32_t own = shared_address(empty), base = shared_address(stages);
    uint32_t other = address_at(own, static_cast<uint32_t>(1 - rank)), leads = lane == 0;
    asm volatile("" : "+r"(data_at), "+r"(params_at), "+r"(other), "+r"(leads));  // kept, not made anew for every stage
    const auto release_last = [&](bool on, int stage) {  // the stage before `stage` is read
      const uint32_t at = ((stage == 0 ? kStages : stage) - 1) * 8;
      arrive_if(on && leads, own + at);
      arrive_in_cluster_if(on && leads, other + at);
    };
    float acc[1][128];
    uint32_t weights[2][4][4];
    W4Scales<T> scales;
    int stage = 0;
    uint32_t phase = 0;
    for (int t = cluster; t < tiles; t += plan.clusters) {
      const W4Tile tile = w4_tile(plan, t);
      const int64_t row0 = static_cast<int64_t>(tile.row_tile * S::kCluster + rank) * S::kRows + group * 64;
      const int64_t token0 = static_cast<int64_t>(tile.token_tile) * S::kTokens;
      if (a.epilogue == Epilogue::residual) prefetch_residual<T>(a, row0, token0 + threadIdx.x % 128);
#pragma unroll
      for (int i = 0; i < 128; ++i) acc[0][i] = 0.0f;
#pragma unroll 1
      for (int step = 0; step < plan.steps; step += 2) {
#pragma unroll
        for (int turn = 0; turn < 2; ++turn) {
          barrier_wait(full + stage, phase);
          const uint32_t here = base + stage * S::kStageBytes;
          uint32_t words[4];
          load_shared(here + data_at, words);
#pragma unroll
          for (int s = 0; s < 4; ++s) {
            if (S::kWide ? turn == 0 && s == 0 : s % 2 == 0) {
              const int place = S::kWide ? 0 : s * 16 / plan.group * 64;
              uint32_t pair[2];
              load_shared(here + params_at + place, pair);
              scales.set(make_uint2(pair[0], pair[1]));
            }
            scales.unpack(words[s], weights[turn][s]);
          }
          const uint64_t tokens = matrix_descriptor(here, 16, 1024);
          wgmma_fence();
#pragma unroll
          for (int s = 0; s < 4; ++s) wgmma_rows<T, 256>(acc[0], weights[turn][s], tokens + s * 2, true);
          wgmma_commit();
          wgmma_wait<1>();
          release_last(step + turn > 0, stage);
          if (++stage == kStages) stage = 0, phase ^= 1;
        }
      }
      const auto drain = [&] {
        wgmma_wait<0>();
        release_last(true, stage);
      };
      const int exist = a.m - token0 < S::kTokens ? static_cast<int>(a.m - token0) : S::kTokens;
      const uint32_t staging = kStages * S::kStageBytes + group * S::kFinishBytes;
      if (!a.y_f32 && (a.epilogue != Epilogue::gated || a.activation == Activation::silu)) {
        finish_by_store<T>(a, acc[0], base + staging, &y_map, row0, token0, exist, group, drain);
      } else {
        drain();
        finish_float<T, 256, 1>(a, acc, reinterpret_cast<float*>(stages + staging), row0, token0, exist, group);
      }
    }
    if (threadIdx.x % 128 == 0) tensor_stores_wait();
    __syncwarp();
  }
  cluster_meet();  // before that nobody's shared memory may go
#else
  __trap();
#endif
}

}  // namespace
}  // namespace deploykit::cuda
