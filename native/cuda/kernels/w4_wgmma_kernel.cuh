// 4-bit weights times any number of tokens on wgmma (sm_90a).
//
// A block has one warp that copies (weights, their params and tokens, through tensor maps, a ring of stages of 128
// inputs) and warpgroups that multiply: a lane takes 16 bytes of packed weights from shared memory, unpacks them into
// wgmma's first operand while the tensor cores work on the words before, and the tokens are the second operand where
// the copy left them. Sums stay in registers over all inputs: the scale is part of the unpacked weights. (At most 64 tokens
// and groups of 128: w4_split_kernel.cuh. Prompts: w4_prefill_kernel.cuh.)
//
// Few tiles: a cluster shares one, each block takes a part of the inputs, and all add up each other's sums through
// shared memory, in the order of their ranks. Many tiles: a block does one after another; the copies of the next run
// while the last one is stored.
#pragma once

#include "cuda/kernels/w4_plan.cuh"
#include "cuda/kernels/w4_tile.cuh"

namespace deploykit::cuda {
namespace {

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
    stage_barriers_init(full, empty, S::kConsumers / 32);
    barrier_init_fence();
  }
  __syncthreads();

  const int rank = S::kSplit ? static_cast<int>(blockIdx.x) % plan.split : 0;
  const int cluster = S::kSplit ? static_cast<int>(blockIdx.x) / plan.split : static_cast<int>(blockIdx.x);
  const int tiles = plan.row_tiles * plan.token_tiles, tile_stride = S::kSplit ? tiles : plan.clusters;
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
      if (cluster < tiles) {
        const W4Tile tile = w4_tile(plan, cluster);
#pragma unroll 1
        for (; ahead < min(kStages, plan.early) && begin + ahead < end; ++ahead) {
          copy_weights(ahead, begin + ahead, tile.row_tile);
        }
      }
      wait_prior_grid();
      allow_next_grid();
      int stage = 0;
      uint32_t phase = 1;  // of `empty`: a fresh one counts as ended
      for (int t = cluster; t < tiles; t += tile_stride) {
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
    const uint32_t empty_address = shared_address(empty);
    const auto release_last = [&](bool on, int stage) {  // the stage before `stage` is read
      arrive_if(on && lane == 0, empty_address + ((stage == 0 ? kStages : stage) - 1) * 8);
    };
    int stage = 0;
    uint32_t phase = 0;
    for (int t = cluster; t < tiles; t += tile_stride) {
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
        for (int i = 0; i < S::kTokens / 2; ++i) acc[b][i] = 0.0f;
      }
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
                if (S::kWide ? chunk == 0 && word == 0 : word % 2 == 0) {
                  const int place = S::kWide ? 0 : (chunk * 64 + word * 16) / plan.group * 64;
                  scales[b].set(*reinterpret_cast<const uint2*>(params + b * 4 * param_stride + place));
                }
                const uint32_t words[4] = {q[chunk][b].x, q[chunk][b].y, q[chunk][b].z, q[chunk][b].w};
                scales[b].unpack(words[word], weights[turn][b][s]);
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
            if (chunk == 0 && part == 0) release_last(step > begin, stage);
          }
        }
        if (++stage == kStages) stage = 0, phase ^= 1;
      }
      wgmma_wait<0>();
      release_last(true, stage);

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
        const int64_t first_row = row0 + group * kBlocks * 64;
        if (!a.y_f32 && (!gated || a.activation == Activation::silu)) {
          finish_16bit<T, S::kTokens, kBlocks>(a, acc, reinterpret_cast<char*>(sums), first_row, token0, here, group);
        } else {
          finish_float<T, S::kTokens, kBlocks>(a, acc, sums, first_row, token0, here, group);
        }
      }
    }
  }
#else
  __trap();
#endif
}

}  // namespace
}  // namespace deploykit::cuda
