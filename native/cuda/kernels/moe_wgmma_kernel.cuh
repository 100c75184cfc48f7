// Grouped products on wgmma (sm_90a): 128 rows of one expert a block times the slots of a tile. One thread copies stages of
// 64 inputs through tensor maps; two warpgroups multiply 64 rows each, 16-bit weights from shared memory, 4-bit ones
// unpacked in registers. Blocks go through the tiles that moe_route listed, the copies of the next one run while one ends.
// Prompts: tiles of up to 256 slots, clusters of two blocks with the same slots, of which each fetches half for both.
// Batches: tiles of up to 64 slots, two blocks a multiprocessor.
//
// Tokens lie in the order of the slots (x is gathered in front for moe_expand), so a tile is a box; what it holds beyond
// the tile's slots is multiplied and not stored.
#pragma once

#include <type_traits>

#include "cuda/kernels/gemm16_finish.cuh"
#include "cuda/kernels/gemm16_sync.cuh"
#include "cuda/kernels/moe.cuh"
#include "cuda/kernels/w4_tile.cuh"
#include "cuda/kernels/wgmma.cuh"

namespace deploykit::cuda {
namespace {

constexpr int kMoeBand = 8;  // tiles that take a row tile's weights one after another, from L2

struct MoeWgmmaPlan {
  int32_t steps = 0, row_tiles = 0, group = 0, clusters = 0;  // row tiles: of a cluster
};

// kKind: 0 = 16-bit weights, 1 = 4-bit with groups of 128, 2 = of 32 or 64.
// kMany: prompts, else batches.
template <class T, int kKind_, bool kMany_>
struct MoeWgmma {
  using Type = T;
  static constexpr bool kMany = kMany_;
  static constexpr int kBuffers = kMany ? 2 : 1;  // of unpacked weights
  static constexpr int kKind = kKind_, kRows = 128, kTokens = kMany ? 256 : 64, kDepth = 64, kCluster = kMany ? 2 : 1;
  // The warpgroup of the copier gives its registers away.
  static constexpr int kConsumers = 256, kThreads = 384, kBlocks = kMany ? 1 : 2, kRegisters = kMany ? 240 : 104;
  static constexpr int kBoxTokens = 32, kBoxBytes = kBoxTokens * 128;
  static constexpr int kTokenBytes = kTokens * 128, kDataBytes = kKind == 0 ? kRows * 128 : kRows * 32;
  static constexpr int kParamBytes = kKind == 0 ? 0 : 1024;
  static constexpr int kStageBytes = kTokenBytes + kDataBytes + kParamBytes;
  static constexpr int kStages = kMany ? (kKind == 0 ? 4 : 5) : (kKind == 0 ? 4 : 7);
  static constexpr int kChunk = kMany ? 64 : 32, kScratchBytes = kChunk * kFinishRowBytes<4>;
  static constexpr size_t kSharedBytes = 1024 + static_cast<size_t>(kStages) * kStageBytes + 2 * kScratchBytes;
  static_assert((kSharedBytes + 1280) * kBlocks <= 233472, "the blocks fit a multiprocessor");
};

#ifdef DEPLOYKIT_WGMMA
// A cluster's tiles one after another. The next one's place is asked for a tile ahead.
struct MoeCursor {
  int32_t row_tile = 0, expert = 0, first = 0, count = 0;

  __device__ __forceinline__ MoeCursor(const ExpertArgs& a, const MoeWgmmaPlan& plan, int cluster)
      : a_(a), plan_(plan), next_(cluster) {
    asm volatile("ld.global.u32 %0, [%1];" : "=r"(tiles_) : "l"(a.tile_count) : "memory");
    ask();
  }
  __device__ __forceinline__ bool next() {
    if (next_ >= tiles_ * plan_.row_tiles) return false;
    row_tile = row_tile_;
    expert = static_cast<int32_t>(tile_.x), first = static_cast<int32_t>(tile_.y), count = static_cast<int32_t>(tile_.z);
    next_ += plan_.clusters;
    ask();
    return true;
  }

 private:
  __device__ __forceinline__ void ask() {
    if (next_ >= tiles_ * plan_.row_tiles) return;
    const int32_t band = next_ / (kMoeBand * plan_.row_tiles), inside = next_ - band * kMoeBand * plan_.row_tiles;
    const int32_t width = min(kMoeBand, tiles_ - band * kMoeBand);
    row_tile_ = inside / width;
    tile_ = load16(a_.tiles + band * kMoeBand + (inside - row_tile_ * width));
  }
  const ExpertArgs& a_;
  const MoeWgmmaPlan& plan_;
  int32_t next_, tiles_ = 0, row_tile_ = 0;
  uint4 tile_ = make_uint4(0, 0, 0, 0);
};

template <class S>
__device__ __forceinline__ void moe_fetch(const ExpertArgs& a, const MoeWgmmaPlan& plan, char* stages, uint64_t* full,
                                          uint64_t* empty, int cluster, int rank, const CUtensorMap* data_map,
                                          const CUtensorMap* param_map, const CUtensorMap* token_map) {
  constexpr int kPieces = S::kRows / 16;
  const int param_words = S::kKind == 0 ? 0 : S::kKind == 1 ? 16 : 64 / plan.group * 16;  // of 16 rows and a stage
  const uint32_t weight_bytes = S::kDataBytes + kPieces * param_words * 4;
  int stage = 0;
  uint32_t phase = 1;  // of `empty`: a fresh one counts as ended
  for (MoeCursor at(a, plan, cluster); at.next();) {
    const int boxes = (at.count + S::kBoxTokens - 1) / S::kBoxTokens;  // of slots; this block fetches some of them
    const int box0 = boxes * rank / S::kCluster, box1 = boxes * (rank + 1) / S::kCluster;
    const int row_tile = at.row_tile * S::kCluster + rank;
    const uint32_t bytes = weight_bytes + boxes * S::kBoxBytes;
#pragma unroll 1
    for (int step = 0; step < plan.steps; ++step) {
      char* const to = stages + stage * S::kStageBytes;
      barrier_wait(empty + stage, phase);
      barrier_expect(full + stage, bytes);
      if constexpr (S::kKind == 0) {
        tensor_copy(to + S::kTokenBytes, data_map, full + stage, step * S::kDepth, row_tile * S::kRows, at.expert);
      } else {
        tensor_copy(to + S::kTokenBytes, data_map, full + stage, step * 128, row_tile * kPieces, at.expert);
        tensor_copy(to + S::kTokenBytes + S::kDataBytes, param_map, full + stage,
                    (S::kKind == 1 ? step / 2 : step) * param_words, row_tile * kPieces, at.expert);
      }
      for (int box = box0; box < box1; ++box) {
        if constexpr (S::kCluster > 1) {
          tensor_copy_to_cluster(to + box * S::kBoxBytes, token_map, full + stage, (1 << S::kCluster) - 1,
                                 step * S::kDepth, at.first + box * S::kBoxTokens);
        } else {
          tensor_copy(to + box * S::kBoxBytes, token_map, full + stage, step * S::kDepth,
                      at.first + box * S::kBoxTokens);
        }
      }
      if (++stage == S::kStages) stage = 0, phase ^= 1;
    }
  }
}

// Stages of a warpgroup: where it is in the ring, and how it gives them back.
template <class S>
struct MoeRing {
  uint64_t *full, *empty;
  uint32_t base, other, leads;
  int stage = 0;
  uint32_t phase = 0;
  __device__ __forceinline__ uint32_t enter() const {
    barrier_wait(full + stage, phase);
    return base + stage * S::kStageBytes;
  }
  __device__ __forceinline__ void release_last(bool on) const {  // the stage before `stage`
    const uint32_t at = ((stage == 0 ? S::kStages : stage) - 1) * 8;
    arrive_if(on && leads, shared_address(empty) + at);
    if constexpr (S::kCluster > 1) arrive_in_cluster_if(on && leads, other + at);
  }
  __device__ __forceinline__ void advance() {
    if (++stage == S::kStages) stage = 0, phase ^= 1;
  }
};

// One tile's sums of a warpgroup's 64 rows and the first N slots.
template <class S, int N>
__device__ __forceinline__ void moe_multiply(float (&d)[N / 2], MoeRing<S>& ring, const MoeWgmmaPlan& plan, int warp,
                                             int lane) {
  using T = typename S::Type;
  if constexpr (S::kKind == 0) {
#pragma unroll 1
    for (int step = 0; step < plan.steps; ++step) {
      const uint32_t x = ring.enter(), w = x + S::kTokenBytes + warp / 4 * 8192;
      wgmma_fence();
#pragma unroll
      for (int i = 0; i < S::kDepth / 16; ++i) {
        wgmma_shared<T, N>(d, matrix_descriptor(w + i * 32, 16, 1024), matrix_descriptor(x + i * 32, 16, 1024),
                           true);
      }
      wgmma_commit();
      wgmma_wait<1>();
      ring.release_last(step > 0);
      ring.advance();
    }
  } else {
    constexpr bool kWide = S::kKind == 1;
    const uint32_t data_at = S::kTokenBytes + warp * 512 + lane * 16;
    const uint32_t params_at =
        S::kTokenBytes + S::kDataBytes + warp * (kWide ? 64 : 64 / plan.group * 64) + lane / 4 * 8;
    uint32_t weights[S::kBuffers][4][4];
    W4Scales<T> scales;
#pragma unroll 1
    for (int step = 0; step < plan.steps; step += 2) {
#pragma unroll
      for (int turn = 0; turn < 2; ++turn) {
        const uint32_t here = ring.enter();
        uint32_t words[4];
        load_shared(here + data_at, words);
#pragma unroll
        for (int s = 0; s < 4; ++s) {
          if (kWide ? turn == 0 && s == 0 : s % 2 == 0) {
            uint32_t pair[2];
            load_shared(here + params_at + (kWide ? 0 : s * 16 / plan.group * 64), pair);
            scales.set(make_uint2(pair[0], pair[1]));
          }
          scales.unpack(words[s], weights[turn % S::kBuffers][s]);
        }
        const uint64_t tokens = matrix_descriptor(here, 16, 1024);
        wgmma_fence();
#pragma unroll
        for (int s = 0; s < 4; ++s) wgmma_rows<T, N>(d, weights[turn % S::kBuffers][s], tokens + s * 2, true);
        wgmma_commit();
        if constexpr (S::kBuffers == 2) {
          wgmma_wait<1>();
          ring.release_last(step + turn > 0);
          ring.advance();
        } else {
          wgmma_wait<0>();
          ring.advance();
          ring.release_last(true);
        }
      }
    }
  }
  if constexpr (S::kKind == 0 || S::kBuffers == 2) {
    wgmma_wait<0>();
    ring.release_last(true);
  }
}
#endif

#ifdef DEPLOYKIT_WGMMA
template <class S>
constexpr int kMoeBlocks = S::kBlocks;
#else
template <class S>
constexpr int kMoeBlocks = 1;  // nothing to run, and fewer threads a multiprocessor
#endif

template <class S>
__global__ void __launch_bounds__(S::kThreads, kMoeBlocks<S>)
    moe_wgmma_kernel(const ExpertArgs a, const MoeWgmmaPlan plan, const __grid_constant__ CUtensorMap data_map,
                     const __grid_constant__ CUtensorMap param_map, const __grid_constant__ CUtensorMap token_map) {
#ifdef DEPLOYKIT_WGMMA
  using T = typename S::Type;
  extern __shared__ char raw[];
  char* const stages = raw + ((1024 - (shared_address(raw) & 1023)) & 1023);
  __shared__ uint64_t full[S::kStages], empty[S::kStages];
  const int warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
    stage_barriers_init(full, empty, S::kConsumers / 32 * S::kCluster);
    barrier_init_fence();
  }
  __syncthreads();
  if constexpr (S::kCluster > 1) cluster_meet_relaxed();
  const int rank = S::kCluster > 1 ? static_cast<int>(cluster_rank()) : 0;
  const int cluster = static_cast<int>(blockIdx.x) / S::kCluster;
  wait_prior_grid();
  allow_next_grid();
  if (warp >= S::kConsumers / 32) {
    registers_give<24>();
    if (warp == S::kConsumers / 32 && lane == 0) {
      moe_fetch<S>(a, plan, stages, full, empty, cluster, rank, &data_map, &param_map, &token_map);
    }
    __syncwarp();
  } else {
    registers_take<S::kRegisters>();
    const int group = warp / 4;
    MoeRing<S> ring;
    ring.full = full, ring.empty = empty, ring.base = shared_address(stages);
    ring.other = S::kCluster > 1 ? address_at(shared_address(empty), static_cast<uint32_t>(1 - rank)) : 0u;
    ring.leads = lane == 0;
    char* const scratch = stages + S::kStages * S::kStageBytes + group * S::kScratchBytes;
    LinearArgs end = {};
    end.y_stride = a.y_stride, end.n = a.n, end.k = a.k, end.activation = a.activation;
    end.epilogue = a.end == ExpertEnd::gated ? Epilogue::gated : Epilogue::none;
    float d[S::kTokens / 2];
    for (MoeCursor at(a, plan, cluster); at.next();) {
#pragma unroll
      for (int i = 0; i < S::kTokens / 2; ++i) d[i] = 0.0f;
      const auto multiply = [&](auto width) {  // as many of the sums as the slots need
        constexpr int kWidth = decltype(width)::value;
        moe_multiply<S, kWidth>(reinterpret_cast<float(&)[kWidth / 2]>(d), ring, plan, warp, lane);
      };
      if constexpr (S::kMany) {
        constexpr int kStep = S::kKind == 0 ? 32 : 64;  // more kinds of loops are too much for the registers
        const int width = (at.count + kStep - 1) / kStep * kStep;
        if (kStep == 32 && width == 32) {
          multiply(std::integral_constant<int, kStep == 32 ? 32 : 64>());
        } else if (width == 64) {
          multiply(std::integral_constant<int, 64>());
        } else if (kStep == 32 && width == 96) {
          multiply(std::integral_constant<int, kStep == 32 ? 96 : 128>());
        } else if (width == 128) {
          multiply(std::integral_constant<int, 128>());
        } else if (kStep == 32 && width == 160) {
          multiply(std::integral_constant<int, kStep == 32 ? 160 : 192>());
        } else if (width == 192) {
          multiply(std::integral_constant<int, 192>());
        } else if (kStep == 32 && width == 224) {
          multiply(std::integral_constant<int, kStep == 32 ? 224 : 256>());
        } else {
          multiply(std::integral_constant<int, 256>());
        }
      } else if (at.count <= 16) {
        multiply(std::integral_constant<int, 16>());
      } else if (at.count <= 32) {
        multiply(std::integral_constant<int, 32>());
      } else {
        multiply(std::integral_constant<int, 64>());
      }
      end.m = at.count;
      end.y = static_cast<T*>(a.y) + at.first * a.y_stride;
      end.bias = a.bias == nullptr ? nullptr : static_cast<const T*>(a.bias) + at.expert * a.n;
      ResidualAhead<T, S::kChunk, 4> residual;
      const int64_t row0 = static_cast<int64_t>(at.row_tile * S::kCluster + rank) * S::kRows + group * 64;
      finish_tile<T, S::kTokens, S::kChunk, 4>(end, d, row0, 0, scratch, 1 + group, residual);
    }
  }
  if constexpr (S::kCluster > 1) cluster_meet();  // before that nobody's shared memory may go
#else
  __trap();
#endif
}

}  // namespace
}  // namespace deploykit::cuda
