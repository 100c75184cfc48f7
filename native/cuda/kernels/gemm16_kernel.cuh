// 16-bit weights times any number of tokens (sm_90a).
//
// Rows of W are the first operand of wgmma (64 a warpgroup), tokens the second. One producer thread streams weights,
// one tokens, through stages of shared memory with tensor maps; two warpgroups multiply and turn a tile's sums into
// outputs while the producers are already at the next tile. Weights are requested before the wait for the kernel in
// front. A cluster is kShare x kSplit blocks: kShare row tiles with the same tokens (each block fetches a part of these
// for all), kSplit parts of k; a block sends the sums of its part to the block that ends those rows, into its shared
// memory, where they are added in a fixed order. So no memory is needed beside the output.
#pragma once

#include "cuda/kernels/gemm16_finish.cuh"
#include "cuda/kernels/gemm16_sync.cuh"
#include "cuda/kernels/wgmma.cuh"

namespace deploykit::cuda {
namespace {

template <class T, int kTokens_, int kStages_, int kShare_, int kSplit_>
struct Gemm16Shape {
  using Type = T;
  static constexpr int kTokens = kTokens_, kStages = kStages_, kShare = kShare_, kSplit = kSplit_;
  static constexpr int kCluster = kShare * kSplit;
  static constexpr int kGroups = 2, kWarps = 4 * kGroups;  // of consumers
  static constexpr int kRows = 64 * kGroups;               // of a block
  static constexpr int kWeightBytes = kRows * 128, kTokenBytes = kTokens * 128;
  static constexpr int kStageBytes = kWeightBytes + kTokenBytes;
  // Parties: warps that end rows together; where k is split, party p is ended by part p % kSplit.
  static constexpr int kFinishWarps = kSplit > 1 ? 2 : 4, kParties = kWarps / kFinishWarps;
  static constexpr int kMostOwned = (kParties + kSplit - 1) / kSplit;
  static constexpr int kChunk = kTokens < 32 ? kTokens : kTokens == 256 ? 64 : 32;  // tokens ended at a time
  static constexpr int kScratchBytes = kChunk * kFinishRowBytes<kFinishWarps>;      // of a party
  static constexpr int kPartyBytes = kFinishWarps * kTokens * 16 * 4;               // a party's sums
  static constexpr int kPartsBytes = kMostOwned * (kSplit - 1) * kPartyBytes;
  static constexpr int kSharedBytes = kStages * kStageBytes + kPartsBytes + kMostOwned * kScratchBytes + 1024;
  static constexpr bool kMovesRegisters = kTokens == 256;  // from a warpgroup of producers to the others
  static constexpr int kThreads = kGroups * 128 + (kMovesRegisters ? 128 : 64);
  static_assert(kSharedBytes + 512 <= 227 * 1024, "a block fits a multiprocessor");
};

#ifdef DEPLOYKIT_WGMMA
// Barriers of a stage: weights and tokens there, both read. `parts_full`: the sums of the other blocks of the cluster
// have come; `parts_free`: those this block sent have been read.
template <class S>
struct Gemm16Barriers {
  uint64_t weights[S::kStages], tokens[S::kStages], empty[S::kStages], parts_full, parts_free;
};
template <class S>
struct Gemm16Block {
  char *stages, *parts, *scratch;  // stages aligned to 1,024
  Gemm16Barriers<S>* barriers;
  int cluster, clusters, share_rank, split_rank;
  // Parties whose rows this block ends.
  __device__ __forceinline__ int owned() const { return (S::kParties - split_rank + S::kSplit - 1) / S::kSplit; }
  // The block of this cluster that has part `split` of the same rows.
  __device__ __forceinline__ uint32_t rank_of(int split) const { return share_rank * S::kSplit + split; }
  __device__ __forceinline__ Gemm16Work work(const Gemm16Plan& plan) const {
    return Gemm16Work(plan, cluster, clusters, split_rank, S::kSplit);
  }
};

// The stages of a block's work one by one: their coordinates in W and X.
template <class S>
struct Gemm16Cursor {
  Gemm16Work work;
  int input = 0, row = 0, token = 0;
  bool valid = false;
  __device__ __forceinline__ Gemm16Cursor(const Gemm16Plan& plan, const Gemm16Block<S>& block)
      : work(block.work(plan)), rank_(block.share_rank) {
    enter();
  }
  __device__ __forceinline__ void next() {
    if (++step_ == work.last) return enter();
    input = step_ * kGemm16Depth;
  }
  __device__ __forceinline__ int left() const { return valid ? work.left() + work.last - step_ : 0; }

 private:
  __device__ __forceinline__ void enter() {
    valid = work.next();
    if (!valid) return;
    step_ = work.first;
    input = step_ * kGemm16Depth;
    row = (work.row_tile() * S::kShare + rank_) * S::kRows;
    token = work.token_tile() * S::kTokens;
  }
  int rank_, step_ = 0;
};

// One thread: weights. They depend on no kernel in front. More requests at a time than memory needs to be busy would
// only make everybody else's loads wait behind them.
template <class S>
__device__ __forceinline__ void gemm16_fetch_weights(const Gemm16Plan& plan, const Gemm16Block<S>& block,
                                                     const CUtensorMap* map) {
  Gemm16Barriers<S>& b = *block.barriers;
  int stage = 0, paced = 0, filled = 0;
  uint32_t parity = 1, paced_parity = 0;
  for (Gemm16Cursor<S> at(plan, block); at.valid; at.next()) {
    barrier_wait(b.empty + stage, parity);
    if (plan.pace > 0 && filled++ >= plan.pace) {
      barrier_wait(b.weights + paced, paced_parity);
      if (++paced == S::kStages) paced = 0, paced_parity ^= 1;
    }
    barrier_expect(b.weights + stage, S::kWeightBytes);
    tensor_copy(block.stages + stage * S::kStageBytes, map, b.weights + stage, at.input, at.row);
    if (++stage == S::kStages) stage = 0, parity ^= 1;
  }
  if constexpr (S::kCluster > 1) {  // this block's memory stays until all arrivals of the others are in
    for (int i = 0; i < S::kStages; ++i) {
      barrier_wait(b.empty + stage, parity);
      if (++stage == S::kStages) stage = 0, parity ^= 1;
    }
  }
}

// One thread: tokens.
template <class S>
__device__ __forceinline__ void gemm16_fetch_tokens(const Gemm16Plan& plan, const Gemm16Block<S>& block,
                                                    const CUtensorMap* map) {
  Gemm16Barriers<S>& b = *block.barriers;
  wait_prior_grid();
  Gemm16Cursor<S> at(plan, block);
  // The next kernel's first weights shall come while this one ends, not before: they would only take its bandwidth.
  int left = at.left(), stage = 0;
  uint32_t parity = 1;
  for (; at.valid; at.next()) {
    if (left-- == 1) allow_next_grid();
    barrier_wait(b.empty + stage, parity);
    barrier_expect(b.tokens + stage, S::kTokenBytes);
    char* to = block.stages + stage * S::kStageBytes + S::kWeightBytes;
    if constexpr (S::kShare == 1) {
      tensor_copy(to, map, b.tokens + stage, at.input, at.token);
    } else {
      constexpr int kPart = S::kTokens / S::kShare;
      uint32_t blocks = 0;
#pragma unroll
      for (int i = 0; i < S::kShare; ++i) blocks |= 1u << (i * S::kSplit);
      tensor_copy_to_cluster(to + block.share_rank * kPart * 128, map, b.tokens + stage,
                             static_cast<uint16_t>(blocks << block.split_rank), at.input,
                             at.token + block.share_rank * kPart);
    }
    if (++stage == S::kStages) stage = 0, parity ^= 1;
  }
}

// The sums of a tile whose inputs the cluster's blocks share: each warp sends its own to the block that ends its rows;
// there, with true, it ends with the totals. `turn`: tiles before this one.
template <class S>
__device__ __forceinline__ bool gemm16_exchange(const Gemm16Block<S>& block, int turn, float (&d)[S::kTokens / 2]) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, party = warp / S::kFinishWarps;
  const int owner = party % S::kSplit;
  const uint32_t lane_at = shared_address(block.parts) + party / S::kSplit * (S::kSplit - 1) * S::kPartyBytes +
                           warp % S::kFinishWarps * (S::kPartyBytes / S::kFinishWarps) + lane * 16;
  if (owner != block.split_rank) {
    const int sender = block.split_rank - (block.split_rank > owner ? 1 : 0);
    const uint32_t there = address_at(lane_at + sender * S::kPartyBytes, block.rank_of(owner));
    const uint32_t barrier = address_at(shared_address(&block.barriers->parts_full), block.rank_of(owner));
    barrier_wait(&block.barriers->parts_free, (turn & 1) ^ 1);
#pragma unroll
    for (int j = 0; j < S::kTokens / 8; ++j) {
      send16(there + j * 512, barrier, d[4 * j], d[4 * j + 1], d[4 * j + 2], d[4 * j + 3]);
    }
    return false;
  }
  if (party < S::kSplit && warp % S::kFinishWarps == 0 && lane == 0) {
    barrier_expect(&block.barriers->parts_full, block.owned() * (S::kSplit - 1) * S::kPartyBytes);
  }
  barrier_wait(&block.barriers->parts_full, turn & 1);
#pragma unroll
  for (int p = 0; p < S::kSplit - 1; ++p) {
#pragma unroll
    for (int j = 0; j < S::kTokens / 8; ++j) {
      const float4 v = load_shared16(lane_at + p * S::kPartyBytes + j * 512);
      d[4 * j] += v.x, d[4 * j + 1] += v.y, d[4 * j + 2] += v.z, d[4 * j + 3] += v.w;
    }
  }
  __syncwarp();
  if (lane < S::kSplit && lane != block.split_rank) {
    release_at(&block.barriers->parts_free, block.rank_of(lane));
  }
  return true;
}

// A warpgroup: multiplies stage by stage, then ends each tile.
template <class S>
__device__ __forceinline__ void gemm16_consume(const LinearArgs& a, const Gemm16Plan& plan,
                                               const Gemm16Block<S>& block) {
  using T = typename S::Type;
  Gemm16Barriers<S>& b = *block.barriers;
  const int group = threadIdx.x / 128, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint32_t base = shared_address(block.stages);
  const auto release = [&](int stage) {  // to every block that fills it
    if constexpr (S::kShare == 1) {
      if (lane == 0) barrier_arrive(b.empty + stage);
    } else {
      if (lane < S::kShare) release_at(b.empty + stage, lane * S::kSplit + block.split_rank);
    }
  };
  wait_prior_grid();
  float d[S::kTokens / 2];
#pragma unroll
  for (int i = 0; i < S::kTokens / 2; ++i) d[i] = 0.0f;
  Gemm16Work work = block.work(plan);
  int stage = 0;
  uint32_t parity = 0;
  int turn = 0;
  for (; work.next(); ++turn) {
    int before = 0;
    for (int step = work.first; step < work.last; ++step) {
      const uint32_t w = base + stage * S::kStageBytes + group * 8192;
      const uint32_t x = base + stage * S::kStageBytes + S::kWeightBytes;
      barrier_wait(b.weights + stage, parity);
      barrier_wait(b.tokens + stage, parity);
      wgmma_fence();
#pragma unroll
      for (int i = 0; i < kGemm16Depth / 16; ++i) {
        wgmma_shared<T, S::kTokens>(d, matrix_descriptor(w + i * 32, 16, 1024),
                                        matrix_descriptor(x + i * 32, 16, 1024), step > work.first || i > 0);
      }
      wgmma_commit();
      if (step > work.first) {
        wgmma_wait<1>();
        release(before);
      }
      before = stage;
      if (++stage == S::kStages) stage = 0, parity ^= 1;
    }
    const int party = warp / S::kFinishWarps, token0 = work.token_tile() * S::kTokens;
    const int64_t row0 = (work.row_tile() * static_cast<int64_t>(S::kShare) + block.share_rank) * S::kRows +
                         party * S::kFinishWarps * 16;
    ResidualAhead<T, S::kChunk, S::kFinishWarps> residual;
    residual.load(a, row0, token0);
    wgmma_wait<0>();
    release(before);
    if constexpr (S::kSplit > 1) {
      if (!gemm16_exchange<S>(block, turn, d)) continue;
    }
    finish_tile<T, S::kTokens, S::kChunk, S::kFinishWarps>(
        a, d, row0, token0, block.scratch + party / S::kSplit * S::kScratchBytes, 1 + party, residual);
  }
  // The block stays until the others have arrived at its barrier for the last time. These warps have waited for every
  // phase before, so the parity names the last one; to anybody else it could be the last but two.
  if constexpr (S::kSplit > 1) {
    if (warp / S::kFinishWarps % S::kSplit != block.split_rank) barrier_wait(&b.parts_free, (turn - 1) & 1);
  }
}
#endif

template <class S>
__global__ void __launch_bounds__(S::kThreads, 1)
    gemm16_kernel(const LinearArgs a, const Gemm16Plan plan, const __grid_constant__ CUtensorMap w_map,
                  const __grid_constant__ CUtensorMap x_map) {
#ifdef DEPLOYKIT_WGMMA
  extern __shared__ char raw[];
  __shared__ Gemm16Barriers<S> barriers;
  const int rank = S::kCluster > 1 ? static_cast<int>(cluster_rank()) : 0;
  Gemm16Block<S> block;
  block.stages = raw + ((1024 - (shared_address(raw) & 1023)) & 1023);
  block.parts = block.stages + S::kStages * S::kStageBytes;
  block.scratch = block.parts + S::kPartsBytes;
  block.barriers = &barriers;
  block.cluster = blockIdx.x / S::kCluster, block.clusters = gridDim.x / S::kCluster;
  block.share_rank = rank / S::kSplit, block.split_rank = rank % S::kSplit;
  if (threadIdx.x == S::kWarps * 32) {
    tensor_map_prefetch(&w_map);
    tensor_map_prefetch(&x_map);
    for (int i = 0; i < S::kStages; ++i) {
      barrier_init(barriers.weights + i, 1);
      barrier_init(barriers.tokens + i, 1);
      barrier_init(barriers.empty + i, S::kShare * S::kWarps);
    }
    barrier_init(&barriers.parts_full, 1);
    barrier_init(&barriers.parts_free, S::kSplit > 1 ? (S::kParties - block.owned()) * S::kFinishWarps : 1);
    barrier_init_fence();
  }
  if constexpr (S::kCluster > 1) {
    __syncwarp();
    cluster_meet_relaxed();
  } else {
    __syncthreads();
  }
  if (threadIdx.x >= S::kWarps * 32) {
    if constexpr (S::kMovesRegisters) registers_give<24>();
    if (threadIdx.x == S::kWarps * 32) gemm16_fetch_weights<S>(plan, block, &w_map);
    if (threadIdx.x == S::kWarps * 32 + 32) gemm16_fetch_tokens<S>(plan, block, &x_map);
  } else {
    if constexpr (S::kMovesRegisters) registers_take<240>();
    gemm16_consume<S>(a, plan, block);
  }
#else
  __trap();
#endif
}

}  // namespace
}  // namespace deploykit::cuda
