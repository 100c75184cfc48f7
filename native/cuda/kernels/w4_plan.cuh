// How w4_wgmma_kernel.cuh cuts its work: shared by the host, the copying and the multiplying warps.
#pragma once

#include "cuda/kernels/w4_finish.cuh"

namespace deploykit::cuda {

struct W4Plan {
  int32_t steps = 0;                        // stages over k
  int32_t row_tiles = 0, token_tiles = 0;
  int32_t split = 1;                        // parts of the inputs, a block of a cluster each
  int32_t clusters = 0;                     // that run, of a kernel that does tiles in turn
  int32_t group = 128;
  int32_t token_group = 1;  // token tiles that pass by a row tile before the next
  int32_t early = 16;  // stages of weights requested before the kernel in front has ended
};

namespace {

constexpr int kW4MaxSplit = 8;
constexpr int kW4RoundTokens = 1536;  // of a round over all rows: what stays in L2 meanwhile

// kPerSm: blocks that a multiprocessor holds, so that the next kernel's start while this one's end. kWide: groups of 128
// (else 32 or 64). kSplit: one tile a cluster, else tiles in turn.
template <int kTokens_, int kBlocks_, int kPerSm_, bool kWide_, bool kSplit_>
struct W4Shape {
  static constexpr int kTokens = kTokens_, kWarpgroups = 2, kBlocks = kBlocks_, kPerSm = kPerSm_;
  static constexpr bool kWide = kWide_, kSplit = kSplit_;
  static constexpr int kRows = kWarpgroups * kBlocks * 64;
  // Multiplying warps take registers of the copying ones.
  static constexpr bool kJuggle = kPerSm == 2 ? kTokens >= 32 : kTokens * kBlocks >= 256;
  static constexpr int kRegisters = kPerSm == 2 ? 104 : 240;
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

#ifdef __CUDACC__
struct W4Tile {
  int row_tile, token_tile;
};
__device__ __forceinline__ W4Tile w4_tile(const W4Plan& plan, int index) {
  const int whole = plan.token_group * plan.row_tiles, group = index / whole, left = index - group * whole;
  const int tokens = min(plan.token_group, plan.token_tiles - group * plan.token_group);
  return {left / tokens, group * plan.token_group + left % tokens};
}
#endif

}  // namespace
}  // namespace deploykit::cuda
