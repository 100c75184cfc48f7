#pragma once

// 4-bit weights times any number of tokens on wgmma (sm_90a).
//
// A block has one warp that copies (weights, their params and tokens, through tensor maps, a ring of stages of 128
// inputs) and warpgroups that multiply: a lane takes 16 bytes of packed weights from shared memory, unpacks them into
// wgmma's first operand while the tensor cores work on the words before, and the tokens are the second operand where
// the copy left them. Sums stay in registers over all inputs: the scale is part of the unpacked weights.
//
// Few tiles: a cluster shares one, each block takes a part of the inputs, and all add up each other's sums through
// shared memory, in the order of their ranks. Many tiles: a block does one after another; the copies of the next run
// while the last one is stored.
#include "cuda/kernels/w4_finish.cuh"
#include "cuda/kernels/w4_tile.cuh"

namespace deploykit::cuda {

struct W4Plan {
  int32_t steps = 0;                        // stages over k
  int32_t row_tiles = 0, token_tiles = 0;
  int32_t split = 1;                        // blocks of a cluster, which share a tile
  int32_t group = 128;
  int32_t early = 16;  // stages of weights requested before the kernel in front has ended
  bool late = false;   // the next kernel may start when all weights are requested, not before
};

namespace {

constexpr int kW4TokenGroup = 16;  // token tiles that pass by a row tile before the next: their tokens stay in L2
constexpr int kW4MaxSplit = 8;
constexpr int kFinishTokens = 32, kFinishPitch = 68;

// kPerSm: blocks that a multiprocessor holds, so that the next kernel's start while this one's end. kWide: groups of 128
// (else 32 or 64). kSplit: one tile a cluster, else tiles in turn.
template <int kTokens_, int kWarpgroups_, int kBlocks_, int kPerSm_, bool kWide_, bool kSplit_, bool kUnits_>
struct W4Shape {
  static constexpr int kTokens = kTokens_, kWarpgroups = kWarpgroups_, kBlocks = kBlocks_, kPerSm = kPerSm_;
  static constexpr bool kWide = kWide_, kSplit = kSplit_;
  static constexpr int kRows = kWarpgroups * kBlocks * 64;
  // Few tokens: weights stay integers and sums are kept in units of the stage's scale, which takes fewer instructions
  // than to scale the weights.
  static constexpr bool kUnits = kUnits_;
  static_assert(!kUnits || (kWide && kBlocks == 1), "one group a stage, one unit a row");
  // Multiplying warps take registers of the copying ones.
  static constexpr bool kJuggle =
      kPerSm == 2 ? kTokens >= 32 : kTokens * kBlocks >= (kWarpgroups == 4 ? 32 : 256);
  static constexpr int kRegisters = kPerSm == 2 ? 104 : kWarpgroups == 4 ? 112 : 240;
  static constexpr int kConsumers = kWarpgroups * 128, kThreads = kConsumers + (kJuggle ? 128 : 32);
  static constexpr int kTokenBytes = kTokens * 256, kDataBytes = kRows * 64;
  static constexpr int kParamBytes = (kRows / 16 * (kWide ? 64 : 256) + 1023) / 1024 * 1024;
  static constexpr int kStageBytes = kTokenBytes + kDataBytes + kParamBytes;
  static constexpr int kFinishBytes = kSplit ? 0 : kWarpgroups * kFinishTokens * kFinishPitch * 4;
  static constexpr int kBytes = kPerSm == 1 ? 232448 : 115712;
  static constexpr int kFit = (kBytes - 1024 - 256 - kFinishBytes) / kStageBytes;
  static constexpr int kStages = kFit < 10 ? kFit : 10;
  static constexpr size_t kSharedBytes = 1024 + static_cast<size_t>(kStages) * kStageBytes + kFinishBytes;
  static constexpr int kPitch = kRows + 4;  // of a token's sums, where a cluster adds them
  // Steps of 16 inputs multiplied between two waits.
  static constexpr int kWords = kTokens * kBlocks >= 128 || kPerSm == 2 ? 2 : 4;
  static_assert(!kSplit || kTokens * kPitch * 4 <= kStages * kStageBytes, "the sums fit the stages");
};

struct W4Tile {
  int row_tile, token_tile;
};
__device__ __forceinline__ W4Tile w4_tile(const W4Plan& plan, int index) {
  const int whole = kW4TokenGroup * plan.row_tiles, group = index / whole, left = index - group * whole;
  const int tokens = min(kW4TokenGroup, plan.token_tiles - group * kW4TokenGroup);
  return {left / tokens, group * kW4TokenGroup + left % tokens};
}

template <class T, class S>
__global__ void __launch_bounds__(S::kThreads, S::kPerSm)
    w4_wgmma_kernel(const LinearArgs a, const W4Plan plan, const __grid_constant__ CUtensorMap data_map,
                    const __grid_constant__ CUtensorMap param_map, const __grid_constant__ CUtensorMap token_map) {
#ifdef DEPLOYKIT_WGMMA
  constexpr int kStages = S::kStages, kBlocks = S::kBlocks, kWords = S::kWords;
  extern __shared__ char raw[];
  char* const stages = raw + ((1024 - (shared_address(raw) & 1023)) & 1023);
  __shared__ uint64_t full[kStages], empty[kStages];
  const int warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
#pragma unroll
    for (int i = 0; i < kStages; ++i) {
      barrier_init(full + i, 1);
      barrier_init(empty + i, S::kConsumers / 32);
    }
    barrier_init_fence();
  }
  __syncthreads();

  const int rank = S::kSplit ? static_cast<int>(blockIdx.x) % plan.split : 0;
  const int first_tile = S::kSplit ? static_cast<int>(blockIdx.x) / plan.split : static_cast<int>(blockIdx.x);
  const int tiles = plan.row_tiles * plan.token_tiles;
  const int tile_stride = S::kSplit ? tiles : static_cast<int>(gridDim.x);
  const int begin = S::kSplit ? plan.steps * rank / plan.split : 0;
  const int end = S::kSplit ? plan.steps * (rank + 1) / plan.split : plan.steps;

  if (warp >= S::kConsumers / 32) {
    if constexpr (S::kJuggle) registers_give<24>();
    if (warp == S::kConsumers / 32 && lane == 0) {
      const int param_words = 128 / plan.group * 16;  // of 16 rows and a stage
      const uint32_t bytes = S::kTokenBytes + S::kDataBytes + S::kRows / 16 * param_words * 4;
      const auto copy_weights = [&](int stage, int step, int row_tile) {
        char* at = stages + stage * S::kStageBytes + S::kTokenBytes;
        barrier_expect(full + stage, bytes);
        tensor_copy(at, &data_map, full + stage, step * 256, row_tile * (S::kRows / 16));
        tensor_copy(at + S::kDataBytes, &param_map, full + stage, step * param_words, row_tile * (S::kRows / 16));
      };
      const auto copy_tokens = [&](int stage, int step, int token_tile) {
        char* at = stages + stage * S::kStageBytes;
        tensor_copy(at, &token_map, full + stage, step * 128, token_tile * S::kTokens);
        tensor_copy(at + S::kTokenBytes / 2, &token_map, full + stage, step * 128 + 64, token_tile * S::kTokens);
      };
      int ahead = 0;  // stages of the first tile whose weights are on their way
      if (first_tile < tiles) {
        const W4Tile tile = w4_tile(plan, first_tile);
#pragma unroll 1
        for (; ahead < min(kStages, plan.early) && begin + ahead < end; ++ahead) copy_weights(ahead, begin + ahead, tile.row_tile);
      }
      wait_prior_grid();
      if (!plan.late) allow_next_grid();
      int stage = 0;
      uint32_t phase = 1;  // of `empty`: a fresh one counts as ended
      for (int t = first_tile; t < tiles; t += tile_stride) {
        const W4Tile tile = w4_tile(plan, t);
#pragma unroll 1
        for (int step = begin; step < end; ++step) {
          if (ahead > 0) {
            --ahead;
          } else {
            barrier_wait(empty + stage, phase);
            copy_weights(stage, step, tile.row_tile);
          }
          copy_tokens(stage, step, tile.token_tile);
          if (++stage == kStages) stage = 0, phase ^= 1;
        }
      }
      if (plan.late) allow_next_grid();
    }
    __syncwarp();
    if constexpr (S::kSplit) {
      cluster_meet();
      cluster_meet();
    }
  } else {
    if constexpr (S::kJuggle) registers_take<S::kRegisters>();
    wait_prior_grid();
    const int group = warp / 4, r = lane / 4;
    const int param_stride = 128 / plan.group * 64;
    const int first_piece = group * kBlocks * 4 + warp % 4;  // 16 rows of the tile; block b has first_piece + 4b
    float acc[kBlocks][S::kTokens / 2];
    int stage = 0;
    uint32_t phase = 0;
    for (int t = first_tile; t < tiles; t += tile_stride) {
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
        for (int i = 0; i < S::kTokens / 2; ++i) acc[b][i] = 0.0f;
      }
      float unit_lo = 1.0f, unit_hi = 1.0f;  // what the sums of rows r and r + 8 are multiples of
      for (int step = begin; step < end; ++step) {
        barrier_wait(full + stage, phase);
        const char* here = stages + stage * S::kStageBytes;
        const char* data = here + S::kTokenBytes + first_piece * 1024 + lane * 16;
        const char* params = here + S::kTokenBytes + S::kDataBytes + first_piece * param_stride + r * 8;
        uint4 q[2][kBlocks];
        uint32_t weights[2][kBlocks][kWords][4];
        W4Scales<T> scales[kBlocks];
#pragma unroll
        for (int b = 0; b < kBlocks; ++b) {
          q[0][b] = *reinterpret_cast<const uint4*>(data + b * 4096);
          q[1][b] = *reinterpret_cast<const uint4*>(data + b * 4096 + 512);
        }
        float ratio_lo = 1.0f, ratio_hi = 1.0f;
        bool zero_lo = false, zero_hi = false;
        if constexpr (S::kUnits) {
          const uint2 param = *reinterpret_cast<const uint2*>(params);
          const float lo = scale_of(param.x), hi = scale_of(param.y);
          scales[0].set(param);
          zero_lo = lo == 0.0f, zero_hi = hi == 0.0f;
          ratio_lo = zero_lo ? 1.0f : __fdividef(unit_lo, lo), ratio_hi = zero_hi ? 1.0f : __fdividef(unit_hi, hi);
          unit_lo = zero_lo ? unit_lo : lo, unit_hi = zero_hi ? unit_hi : hi;
        }
        const uint64_t tokens = matrix_descriptor(shared_address(here), 16, 1024);
#pragma unroll
        for (int chunk = 0; chunk < 2; ++chunk) {
#pragma unroll
          for (int part = 0; part < 4 / kWords; ++part) {
            const int turn = (chunk * (4 / kWords) + part) % 2;
            // Unpack here and no earlier: all of a stage at once needs too many registers.
#pragma unroll
            for (int b = 0; b < kBlocks; ++b) {
              asm volatile("" : "+r"(q[chunk][b].x), "+r"(q[chunk][b].y), "+r"(q[chunk][b].z), "+r"(q[chunk][b].w));
            }
#pragma unroll
            for (int s = 0; s < kWords; ++s) {
              const int word = part * kWords + s;
#pragma unroll
              for (int b = 0; b < kBlocks; ++b) {
                if (!S::kUnits && (S::kWide ? chunk == 0 && word == 0 : word % 2 == 0)) {
                  const int place = S::kWide ? 0 : (chunk * 64 + word * 16) / plan.group * 64;
                  scales[b].set(*reinterpret_cast<const uint2*>(params + b * 4 * param_stride + place));
                }
                const uint32_t words[4] = {q[chunk][b].x, q[chunk][b].y, q[chunk][b].z, q[chunk][b].w};
                if constexpr (S::kUnits) {
                  scales[b].unpack_integers(words[word], weights[turn][b][s]);
                } else {
                  scales[b].unpack(words[word], weights[turn][b][s]);
                }
              }
            }
            if constexpr (S::kUnits) {
              if (chunk == 0 && part == 0) {
                // Scales of zero are no units: integers of zero then. (The branch also keeps the unpacking above it.)
                if (zero_lo || zero_hi) {
                  const uint32_t keep = (zero_lo ? 0u : 0x0f0f0f0fu) | (zero_hi ? 0u : 0xf0f0f0f0u);
#pragma unroll
                  for (int i = 0; i < 2; ++i) q[i][0].x &= keep, q[i][0].y &= keep, q[i][0].z &= keep, q[i][0].w &= keep;
                  const uint2 param = *reinterpret_cast<const uint2*>(params);
                  scales[0].set(make_uint2(zero_lo ? 0u : param.x, zero_hi ? 0u : param.y));
#pragma unroll
                  for (int i = 0; i < kWords * 4; ++i) {
                    if (i % 2 == 0 ? zero_lo : zero_hi) weights[0][0][i / 4][i % 4] = 0;
                  }
                }
                wgmma_wait<0>();
#pragma unroll
                for (int i = 0; i < S::kTokens / 2; ++i) acc[0][i] *= i % 4 < 2 ? ratio_lo : ratio_hi;
              }
            }
            wgmma_fence();
#pragma unroll
            for (int s = 0; s < kWords; ++s) {
#pragma unroll
              for (int b = 0; b < kBlocks; ++b) {
                const int word = part * kWords + s;
                const uint64_t operand = tokens + (chunk * S::kTokens * 128 + word * 32) / 16;
                wgmma_rows<T, S::kTokens>(acc[b], weights[turn][b][s], operand, true);
              }
            }
            wgmma_commit();
            wgmma_wait<1>();
            if (chunk == 0 && part == 0 && lane == 0 && step > begin) {
              barrier_arrive(empty + (stage == 0 ? kStages : stage) - 1);
            }
          }
        }
        if (++stage == kStages) stage = 0, phase ^= 1;
      }
      wgmma_wait<0>();
      if (lane == 0) barrier_arrive(empty + (stage == 0 ? kStages : stage) - 1);
      if constexpr (S::kUnits) {
#pragma unroll
        for (int i = 0; i < S::kTokens / 2; ++i) acc[0][i] *= i % 4 < 2 ? unit_lo : unit_hi;
      }

      const W4Tile tile = w4_tile(plan, t);
      const int64_t row0 = static_cast<int64_t>(tile.row_tile) * S::kRows;
      const int64_t token0 = static_cast<int64_t>(tile.token_tile) * S::kTokens;
      const int here = a.m - token0 < S::kTokens ? static_cast<int>(a.m - token0) : S::kTokens;
      const bool gated = a.epilogue == Epilogue::gated;
      if constexpr (S::kSplit) {
        float* sums = reinterpret_cast<float*>(stages);
        named_barrier(1, S::kConsumers);  // nobody reads the stages any more
#pragma unroll
        for (int b = 0; b < kBlocks; ++b) {
          lay_out<S::kTokens / 8>(sums + (group * kBlocks + b) * 64, S::kPitch, acc[b], 0, warp % 4, lane);
        }
        cluster_meet();
        const int pieces = S::kRows / (gated ? 16 : 8), all = here * pieces;
        for (int i = all * rank / plan.split + threadIdx.x; i < all * (rank + 1) / plan.split; i += S::kConsumers) {
          const int token = i / pieces, column = i % pieces * (gated ? 16 : 8);
          if (row0 + column >= a.n) continue;
          float v[8];
          gather(v, sums, token * S::kPitch + column, plan.split);
          if (gated) {
            float up[8];
            gather(up, sums, token * S::kPitch + column + 8, plan.split);
            finish_gated<T>(a, row0 + column, token0 + token, v, up);
          } else {
            const bool adds = a.epilogue == Epilogue::residual;
            uint4 residual = {};
            if (adds) {
              residual = load16(static_cast<const T*>(a.residual) + (token0 + token) * a.residual_stride + row0 + column);
            }
            finish_eight<T>(a, row0 + column, token0 + token, v, adds, residual);
          }
        }
        cluster_meet();  // before that nobody's shared memory may go
      } else {
        float* sums = reinterpret_cast<float*>(stages + kStages * S::kStageBytes) + group * kFinishTokens * kFinishPitch;
        const int thread = threadIdx.x % 128;
        if (!a.y_f32 && (gated ? a.activation == Activation::silu : a.epilogue == Epilogue::none)) {
          finish_16bit<T, S::kTokens, kBlocks>(a, acc, sums, row0 + group * kBlocks * 64, token0, here, group);
          continue;
        }
        constexpr int kRounds = S::kTokens / kFinishTokens;
        const int width = gated ? 16 : 8;  // rows of a thread's piece
        const int token = thread / (64 / width), column = thread % (64 / width) * width;
        const bool adds = a.epilogue == Epilogue::residual;
        // Of a round (32 tokens of a block of rows) a thread finishes one piece, or two pieces 16 tokens apart.
        const auto place = [&](int round, int i, int64_t& row, int64_t& at) {
          row = row0 + (group * kBlocks + round / kRounds) * 64 + column;
          const int within = round % kRounds * kFinishTokens + token + 16 * i;
          at = token0 + within;
          return within < here && row < a.n;
        };
        uint4 residual[2] = {}, next[2] = {};
        const auto fetch = [&](int round) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            int64_t row, at;
            if (adds && place(round, i, row, at)) {
              next[i] = load16(static_cast<const T*>(a.residual) + at * a.residual_stride + row);
            }
          }
        };
        fetch(0);
#pragma unroll 1
        for (int round = 0; round < kBlocks * kRounds; ++round) {
          residual[0] = next[0], residual[1] = next[1];
          if (round + 1 < kBlocks * kRounds) fetch(round + 1);
#pragma unroll
          for (int i = 0; i < kBlocks * kRounds; ++i) {  // registers have no run-time index
            if (i == round) {
              lay_out<kFinishTokens / 8>(sums, kFinishPitch, acc[i / kRounds], i % kRounds * kFinishTokens, warp % 4,
                                         lane);
            }
          }
          named_barrier(1 + group, 128);
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            int64_t row, at;
            if ((gated && i == 1) || !place(round, i, row, at)) continue;
            float v[8];
            const float* from = sums + (token + 16 * i) * kFinishPitch + column;
            read_eight(v, from);
            if (gated) {
              float up[8];
              read_eight(up, from + 8);
              finish_gated<T>(a, row, at, v, up);
            } else {
              finish_eight<T>(a, row, at, v, adds, residual[i]);
            }
          }
          named_barrier(1 + group, 128);
        }
      }
    }
  }
#else
  __trap();
#endif
}

// Clusters of `split` blocks that the device holds at a time (cached).
template <class Kernel>
int32_t clusters_at_once(Kernel kernel, int threads, size_t shared, int split, int32_t (&known)[kW4MaxSplit + 1]) {
  if (known[split] == 0) {
    if (split == 1) {
      known[1] = multiprocessors();
    } else {
      cudaLaunchConfig_t config = {};
      config.gridDim = dim3(static_cast<unsigned>(split));
      config.blockDim = dim3(static_cast<unsigned>(threads));
      config.dynamicSmemBytes = shared;
      cudaLaunchAttribute attribute = {};
      attribute.id = cudaLaunchAttributeClusterDimension;
      attribute.val.clusterDim.x = static_cast<unsigned>(split);
      attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
      config.attrs = &attribute;
      config.numAttrs = 1;
      int count = 0;
      check_cuda(cudaOccupancyMaxActiveClusters(&count, kernel, &config), "w4_matmul");
      known[split] = count > 0 ? count : -1;
    }
  }
  return known[split];
}

struct W4Choice {
  int32_t split = 1;
  double time = 1e30;  // microseconds on an H100, as the model sees it
};

// How many blocks share a tile: waves of clusters, each its stages (`stage` microseconds) and what they cost besides.
template <class T, class S>
W4Choice w4_choose(const LinearArgs& a, double stage, double fixed, double shared, int forced) {
  static int32_t known[kW4MaxSplit + 1] = {};
  const auto kernel = w4_wgmma_kernel<T, S>;
  allow_shared("w4_matmul", kernel, S::kSharedBytes);
  const int64_t tiles = ceil_div(a.n, S::kRows) * ceil_div(a.m, S::kTokens), steps = ceil_div(a.k, 128);
  W4Choice best;
  for (int32_t split = 1; split <= kW4MaxSplit && split <= steps; ++split) {
    int64_t fit = clusters_at_once(kernel, S::kThreads, S::kSharedBytes, split, known);
    if (fit <= 0) continue;
    if (split == 1) fit *= S::kPerSm;
    // Two blocks of a multiprocessor are slower than one, but not twice.
    const double crowd = tiles * split > multiprocessors() && S::kPerSm > 1 ? 1.15 : 1.0;
    const double time =
        static_cast<double>(ceil_div(tiles, fit)) *
        (static_cast<double>(ceil_div(steps, split)) * stage * crowd + fixed + (split > 1 ? shared + 0.1 * split : 0.0));
    if (split == forced) return {split, time};
    if (time < best.time) best = {split, time};
  }
  return best;
}

template <class T, class S>
void launch_w4(const LinearArgs& a, const W4Weight& w, W4Plan plan, cudaStream_t stream) {
  const auto kernel = w4_wgmma_kernel<T, S>;
  const uint64_t tiles = static_cast<uint64_t>(a.n / 16);
  const uint64_t data_words = static_cast<uint64_t>(a.k * 2), param_words = static_cast<uint64_t>(a.k / w.group * 16);
  const uint64_t data_sizes[2] = {data_words, tiles}, data_strides[1] = {data_words * 4};
  const uint64_t param_sizes[2] = {param_words, tiles}, param_strides[1] = {param_words * 4};
  const uint64_t token_sizes[2] = {static_cast<uint64_t>(a.k), static_cast<uint64_t>(a.m)};
  const uint64_t token_strides[1] = {static_cast<uint64_t>(a.x_stride) * 2};
  const uint32_t data_box[2] = {256, S::kRows / 16}, token_box[2] = {64, S::kTokens};
  const uint32_t param_box[2] = {static_cast<uint32_t>(128 / w.group * 16), S::kRows / 16};
  const CUtensorMap data_map = tensor_map(CU_TENSOR_MAP_DATA_TYPE_UINT32, 2, w.data, data_sizes, data_strides, data_box, 0);
  const CUtensorMap param_map =
      tensor_map(CU_TENSOR_MAP_DATA_TYPE_UINT32, 2, w.params, param_sizes, param_strides, param_box, 0);
  const CUtensorMap token_map =
      tensor_map(sizeof(T) == 2 && std::is_same<T, __half>::value ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                                                  : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                 2, a.x, token_sizes, token_strides, token_box, 128);
  const int64_t work = static_cast<int64_t>(plan.row_tiles) * plan.token_tiles;
  const int64_t blocks = S::kSplit ? work * plan.split : work < multiprocessors() ? work : multiprocessors();
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(S::kThreads);
  config.dynamicSmemBytes = S::kSharedBytes;
  config.stream = stream;
  cudaLaunchAttribute attributes[2] = {};
  if (plan.split > 1) {
    attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
    attributes[config.numAttrs].val.clusterDim.x = static_cast<unsigned>(plan.split);
    attributes[config.numAttrs].val.clusterDim.y = attributes[config.numAttrs].val.clusterDim.z = 1;
    ++config.numAttrs;
  }
  if (dependent_launch()) {
    attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[config.numAttrs].val.programmaticStreamSerializationAllowed = 1;
    ++config.numAttrs;
  }
  config.attrs = attributes;
  check_cuda(cudaLaunchKernelEx(&config, kernel, a, plan, data_map, param_map, token_map), "w4_matmul");
}

template <class T, class S>
void run_w4(const LinearArgs& a, const W4Weight& w, int32_t split, int variant, cudaStream_t stream) {
  allow_shared("w4_matmul", w4_wgmma_kernel<T, S>, S::kSharedBytes);
  W4Plan plan;
  plan.steps = static_cast<int32_t>(ceil_div(a.k, 128));
  plan.row_tiles = static_cast<int32_t>(ceil_div(a.n, S::kRows));
  plan.token_tiles = static_cast<int32_t>(ceil_div(a.m, S::kTokens));
  plan.group = w.group;
  plan.split = split;
  if (variant / 64 % 8 != 0) plan.early = variant / 64 % 8;
  plan.late = variant / 512 != 0;
  require(static_cast<int64_t>(plan.row_tiles) * plan.token_tiles < int64_t{1} << 24, "w4_matmul", "n x m fits the grid");
  launch_w4<T, S>(a, w, plan, stream);
}

// At most 64 tokens: one tile of them.
template <class T, class S>
void few_tokens(const LinearArgs& a, const W4Weight& w, int variant, cudaStream_t stream) {
  const double stage = (S::kTokens >= 64 ? 0.4 : 0.25) * S::kRows / 128;
  run_w4<T, S>(a, w, w4_choose<T, S>(a, stage, 4.0, 0.5, variant & 15).split, variant, stream);
}

template <class T, bool kWide>
void many_tokens(const LinearArgs& a, const W4Weight& w, int variant, cudaStream_t stream) {
  const int shape = variant / 16 % 4;
  using Tall = W4Shape<128, 2, 2, 1, kWide, false, false>;
  using Cut = W4Shape<128, 2, 1, 1, kWide, true, false>;
  using Low = W4Shape<128, 2, 1, 1, kWide, false, false>;
  const W4Choice low = w4_choose<T, Cut>(a, 0.7, 4.0, 1.7, variant & 15);
  const double waves = static_cast<double>(ceil_div(ceil_div(a.n, Tall::kRows) * ceil_div(a.m, 128), multiprocessors()));
  const double tall = waves * (static_cast<double>(ceil_div(a.k, 128)) * 1.4 + 4.0);
  if (shape == 1 || (shape == 0 && tall <= low.time)) return run_w4<T, Tall>(a, w, 1, variant, stream);
  if (low.split > 1) return run_w4<T, Cut>(a, w, low.split, variant, stream);
  run_w4<T, Low>(a, w, 1, variant, stream);
}

}  // namespace

// `variant`: 0 the tuned kernel; the bench's others: 1 .. 8 force the split, + 16 256 rows a block, + 32 128 rows, + 48 256
// rows and scaled weights; + 64 early, + 512 late.
template <class T, bool kWide>
void w4_wgmma_typed(int variant, const LinearArgs& a, const W4Weight& w, cudaStream_t stream) {
  if (a.m > 64) return many_tokens<T, kWide>(a, w, variant, stream);
#ifdef DEPLOYKIT_W4_VARIANTS
  if constexpr (kWide && std::is_same<T, __nv_bfloat16>::value) {
    if (variant / 16 % 4 == 1 && a.m <= 16) return few_tokens<T, W4Shape<16, 4, 1, 1, true, true, true>>(a, w, variant, stream);
    if (variant / 16 % 4 == 1 && a.m <= 32) return few_tokens<T, W4Shape<32, 4, 1, 1, true, true, true>>(a, w, variant, stream);
    if (variant / 16 % 4 == 1) return few_tokens<T, W4Shape<64, 4, 1, 1, true, true, true>>(a, w, variant, stream);
    if (variant / 16 % 4 == 3) return few_tokens<T, W4Shape<64, 4, 1, 1, true, true, false>>(a, w, variant, stream);
  }
#endif
  if (a.m <= 16) return few_tokens<T, W4Shape<16, 2, 1, 2, kWide, true, kWide>>(a, w, variant, stream);
  if (a.m <= 32) return few_tokens<T, W4Shape<32, 2, 1, 2, kWide, true, kWide>>(a, w, variant, stream);
  few_tokens<T, W4Shape<64, 2, 1, 2, kWide, true, kWide>>(a, w, variant, stream);
}

}  // namespace deploykit::cuda
