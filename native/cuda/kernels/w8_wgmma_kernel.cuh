// 8-bit weights times any number of tokens on wgmma (sm_90a).
//
// A block has one warp that copies (weights and tokens, through tensor maps, a ring of stages) and warpgroups that
// multiply: a lane takes 16 bytes of packed weights from shared memory, unpacks them into wgmma's first operand while the
// tensor cores work on the words before, and the tokens are the second operand where the copy left them. Sums stay in
// registers over all inputs. Blocks stay and do one tile after another; the copies of the next run while the last one is
// stored. Blocks of a cluster have the same tokens and neighbouring rows, and each fetches a part of the tokens for all.
#pragma once

#include "cuda/kernels/gemm16_sync.cuh"
#include "cuda/kernels/w8.cuh"
#include "cuda/kernels/wgmma.cuh"

namespace deploykit::cuda {

struct W8Plan {
  int32_t steps = 0;                        // stages over k
  int32_t row_tiles = 0, token_tiles = 0;   // row tiles of a whole cluster
  int32_t clusters = 0;                     // that run
};

namespace {

// A warpgroup has kBlocks times 64 rows; a stage kDepth inputs.
template <int kTokens_, int kWarpgroups_, int kBlocks_, int kDepth_, int kCluster_>
struct W8Shape {
  static constexpr int kTokens = kTokens_, kWarpgroups = kWarpgroups_, kBlocks = kBlocks_, kDepth = kDepth_;
  static constexpr int kCluster = kCluster_;
  static constexpr int kRows = kWarpgroups * kBlocks * 64;
  // Multiplying warps take registers of the copying ones.
  static constexpr bool kJuggle = kTokens * kBlocks >= 128;
  static constexpr int kRegisters = kWarpgroups == 2 ? 240 : 112;
  static constexpr int kConsumers = kWarpgroups * 128, kThreads = kConsumers + (kJuggle ? 128 : 32);
  static constexpr int kTokenBytes = kTokens * kDepth * 2, kDataBytes = kRows * kDepth;
  static constexpr int kStageBytes = kTokenBytes + kDataBytes;
  static constexpr int kBytes = 232448;  // of a block: one a multiprocessor
  static constexpr int kFit = (kBytes - 1024 - 256) / kStageBytes;
  static constexpr int kStages = kFit < 12 ? kFit : 12;
  static constexpr size_t kSharedBytes = 1024 + static_cast<size_t>(kStages) * kStageBytes;
  // Steps of 16 inputs multiplied between two waits.
  static constexpr int kWords = kTokens * kBlocks >= 128 || kDepth == 64 ? 2 : 4;
  static constexpr int kParts = kDepth / 16 / kWords;  // of a stage
  static_assert(kParts % 2 == 0, "two sets of operands in turn");
  static_assert(kTokens / kCluster >= 8, "a block's part of the tokens is whole swizzle tiles");
};

template <class T, class S>
__global__ void __launch_bounds__(S::kThreads, 1)
    w8_wgmma_kernel(const LinearArgs a, const W8Plan plan, const float* __restrict__ scales,
                    const __grid_constant__ CUtensorMap data_map, const __grid_constant__ CUtensorMap token_map) {
#ifdef DEPLOYKIT_WGMMA
  constexpr int kStages = S::kStages, kBlocks = S::kBlocks, kWords = S::kWords, kChunks = S::kDepth / 64;
  extern __shared__ char raw[];
  char* const stages = raw + ((1024 - (shared_address(raw) & 1023)) & 1023);
  __shared__ uint64_t full[kStages], empty[kStages];
  const int warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
    stage_barriers_init(full, empty, S::kConsumers / 32 * S::kCluster);
    barrier_init_fence();
  }
  __syncthreads();
  if constexpr (S::kCluster > 1) cluster_meet_relaxed();
  const int rank = S::kCluster > 1 ? static_cast<int>(cluster_rank()) : 0;
  const int cluster = static_cast<int>(blockIdx.x) / S::kCluster;
  const int tiles = plan.row_tiles * plan.token_tiles;

  if (warp >= S::kConsumers / 32) {
    if constexpr (S::kJuggle) registers_give<24>();
    if (warp == S::kConsumers / 32 && lane == 0) {
      const auto copy_weights = [&](int stage, int step, int tile) {
        const int row_tile = tile / plan.token_tiles * S::kCluster + rank;
        char* at = stages + stage * S::kStageBytes + S::kTokenBytes;
        barrier_expect(full + stage, S::kStageBytes);
        tensor_copy(at, &data_map, full + stage, step * (S::kDepth * 2), row_tile * (S::kRows / 16));
      };
      const auto copy_tokens = [&](int stage, int step, int tile) {
        constexpr int kPart = S::kTokens / S::kCluster;
        const int token = tile % plan.token_tiles * S::kTokens + rank * kPart;
#pragma unroll
        for (int chunk = 0; chunk < kChunks; ++chunk) {
          char* at = stages + stage * S::kStageBytes + chunk * S::kTokens * 128 + rank * kPart * 128;
          const int input = step * S::kDepth + chunk * 64;
          if constexpr (S::kCluster > 1) {
            tensor_copy_to_cluster(at, &token_map, full + stage, (1 << S::kCluster) - 1, input, token);
          } else {
            tensor_copy(at, &token_map, full + stage, input, token);
          }
        }
      };
      int ahead = 0;  // stages of the first tile whose weights are on their way
      if (cluster < tiles) {
#pragma unroll 1
        for (; ahead < kStages && ahead < plan.steps; ++ahead) copy_weights(ahead, ahead, cluster);
      }
      wait_prior_grid();
      allow_next_grid();
      int stage = 0;
      uint32_t phase = 1;  // of `empty`: a fresh one counts as ended
      for (int tile = cluster; tile < tiles; tile += plan.clusters) {
#pragma unroll 1
        for (int step = 0; step < plan.steps; ++step) {
          if (ahead > 0) {
            --ahead;
          } else {
            barrier_wait(empty + stage, phase);
            copy_weights(stage, step, tile);
          }
          copy_tokens(stage, step, tile);
          if (++stage == kStages) stage = 0, phase ^= 1;
        }
      }
    }
    __syncwarp();
  } else {
    if constexpr (S::kJuggle) registers_take<S::kRegisters>();
    wait_prior_grid();
    const int group = warp / 4;
    const int first_piece = group * kBlocks * 4 + warp % 4;  // 16 rows of the tile; block b has first_piece + 4b
    const uint32_t own = shared_address(empty);
    const uint32_t other = S::kCluster > 1 ? address_at(own, static_cast<uint32_t>(1 - rank)) : 0;
    const auto release_last = [&](bool on, int stage) {  // the stage before `stage` is read
      const uint32_t at = ((stage == 0 ? kStages : stage) - 1) * 8;
      arrive_if(on && lane == 0, own + at);
      if constexpr (S::kCluster > 1) arrive_in_cluster_if(on && lane == 0, other + at);
    };
    float acc[kBlocks][S::kTokens / 2];
    int stage = 0;
    uint32_t phase = 0;
    for (int tile = cluster; tile < tiles; tile += plan.clusters) {
      const int64_t row0 = static_cast<int64_t>(tile / plan.token_tiles * S::kCluster + rank) * S::kRows +
                           first_piece * 16 + lane / 4;
      W8Rows rows[kBlocks];
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
        if (row0 + b * 64 < a.n) rows[b].template load<T>(a, scales, row0 + b * 64);
#pragma unroll
        for (int i = 0; i < S::kTokens / 2; ++i) acc[b][i] = 0.0f;
      }
#pragma unroll 1
      for (int step = 0; step < plan.steps; ++step) {
        barrier_wait(full + stage, phase);
        const char* here = stages + stage * S::kStageBytes;
        const char* data = here + S::kTokenBytes + first_piece * (S::kDepth * 16) + lane * 16;
        const uint64_t tokens = matrix_descriptor(shared_address(here), 16, 1024);
        uint32_t weights[2][kBlocks][kWords][4];
#pragma unroll
        for (int part = 0; part < S::kParts; ++part) {
          const int turn = part % 2;
#pragma unroll
          for (int s = 0; s < kWords; s += 2) {
#pragma unroll
            for (int b = 0; b < kBlocks; ++b) {
              uint4 q = *reinterpret_cast<const uint4*>(data + b * (S::kDepth * 64) + (part * kWords + s) * 256);
              // Unpack here and no earlier: all of a stage at once needs too many registers.
              asm volatile("" : "+r"(q.x), "+r"(q.y), "+r"(q.z), "+r"(q.w));
              w8_operand<T>(q.x, q.y, weights[turn][b][s]);
              w8_operand<T>(q.z, q.w, weights[turn][b][s + 1]);
            }
          }
          wgmma_fence();
#pragma unroll
          for (int s = 0; s < kWords; ++s) {
            const int place = part * kWords + s;  // 16 inputs
            const uint64_t operand = tokens + (place / 4 * S::kTokens * 128 + place % 4 * 32) / 16;
#pragma unroll
            for (int b = 0; b < kBlocks; ++b) wgmma_rows<T, S::kTokens>(acc[b], weights[turn][b][s], operand, true);
          }
          wgmma_commit();
          wgmma_wait<1>();
          if (part == 0) release_last(step > 0, stage);
        }
        if (++stage == kStages) stage = 0, phase ^= 1;
      }
      wgmma_wait<0>();
      release_last(true, stage);
      const int64_t token = static_cast<int64_t>(tile % plan.token_tiles) * S::kTokens + lane % 4 * 2;
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
        if (row0 + b * 64 < a.n) w8_finish<T, S::kTokens / 8>(a, rows[b], row0 + b * 64, token, acc[b]);
      }
    }
  }
  if constexpr (S::kCluster > 1) cluster_meet();  // before that nobody's shared memory may go
#else
  __trap();
#endif
}

// ------------------------------------------------------------------------------------------------------------- host
template <class T, class S>
void run_w8(const LinearArgs& a, const W8Weight& w, cudaStream_t stream) {
  const auto kernel = w8_wgmma_kernel<T, S>;
  allow_shared("w8_matmul", kernel, S::kSharedBytes);
  W8Plan plan;
  plan.steps = static_cast<int32_t>(ceil_div(a.k, S::kDepth));
  plan.row_tiles = static_cast<int32_t>(ceil_div(a.n, S::kRows * S::kCluster));
  plan.token_tiles = static_cast<int32_t>(ceil_div(a.m, S::kTokens));
  const int64_t tiles = static_cast<int64_t>(plan.row_tiles) * plan.token_tiles;
  require(tiles < int64_t{1} << 30, "w8_matmul", "n x m fits the grid");
  const int64_t most = static_cast<int64_t>(multiprocessors()) / S::kCluster;
  plan.clusters = static_cast<int32_t>(tiles < most ? tiles : most);

  const uint64_t units = static_cast<uint64_t>(a.k) * 2;  // of 8 bytes, of 16 rows
  const uint64_t data_sizes[2] = {units, static_cast<uint64_t>(a.n / 16)}, data_strides[1] = {units * 8};
  const uint32_t data_box[2] = {S::kDepth * 2, S::kRows / 16};
  const uint64_t token_sizes[2] = {static_cast<uint64_t>(a.k), static_cast<uint64_t>(a.m)};
  const uint64_t token_strides[1] = {static_cast<uint64_t>(a.x_stride) * 2};
  const uint32_t token_box[2] = {64, S::kTokens / S::kCluster};
  const CUtensorMap data_map =
      tensor_map(CU_TENSOR_MAP_DATA_TYPE_UINT64, 2, w.data, data_sizes, data_strides, data_box, 0);
  const CUtensorMap token_map =
      tensor_map(std::is_same<T, __half>::value ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                                                  : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                 2, a.x, token_sizes, token_strides, token_box, 128);

  launch_clusters("w8_matmul", kernel, plan.clusters, S::kCluster, S::kThreads, S::kSharedBytes, stream, a, plan,
                  static_cast<const float*>(w.scales), data_map, token_map);
}

}  // namespace

// `tokens` of a tile, where the bench forces them; 0: the smallest tile that holds them all.
template <class T>
void w8_wgmma(int tokens, const LinearArgs& a, const W8Weight& w, cudaStream_t stream) {
  const int tile = tokens > 0 ? tokens : a.m;
  if (tile <= 16) return run_w8<T, W8Shape<16, 4, 1, 128, 1>>(a, w, stream);
  if (tile <= 32) return run_w8<T, W8Shape<32, 4, 1, 128, 1>>(a, w, stream);
  if (tile <= 64) return run_w8<T, W8Shape<64, 4, 1, 128, 1>>(a, w, stream);
  if (tile <= 128) return run_w8<T, W8Shape<128, 2, 2, 128, 1>>(a, w, stream);
  run_w8<T, W8Shape<256, 2, 1, 64, 2>>(a, w, stream);
}

}  // namespace deploykit::cuda
