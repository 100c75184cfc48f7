// What the kernels of a mixture of experts share: their arguments, the tiles of a launch, the end of a row.
//
// A tile is up to `height` slots of one expert, neighbours in the sorted list; moe_route lists the tiles of every height
// in device memory. A launch has a block for each row tile of each tile there could be; those beyond the real count
// leave at once.
#pragma once

#include "cuda/kernels/common.cuh"

namespace deploykit::cuda {

constexpr int kMoeHeights = 6;
constexpr int32_t kMoeHeight[kMoeHeights] = {8, 16, 32, 64, 128, 256};
constexpr int32_t kMoeMostExperts = 512, kMoeMostRanks = 32;

inline void require_moe(const char* name, const MoeSpec& spec) {
  require(spec.experts >= 1 && spec.experts <= kMoeMostExperts, name, "1 <= experts <= 512");
  require(spec.top_k >= 1 && spec.top_k <= kMoeMostRanks && spec.top_k <= spec.experts, name,
          "1 <= top_k <= 32, at most the experts");
}

// Tiles of at most `height` slots: every expert that has slots may end with a part of one.
inline int64_t moe_tile_bound(const MoeSpec& spec, int64_t tokens, int64_t height) {
  const int64_t slots = tokens * spec.top_k, experts = slots < spec.experts ? slots : spec.experts;
  // As many experts as there are slots beyond the whole tiles; an expert has at most a slot of each token.
  const int64_t bound = experts + (slots - experts) / height;
  const int64_t widest = ceil_div(tokens, height) * spec.experts;
  return bound < widest ? bound : widest;
}
// Where the list of a height begins among all tiles.
inline int64_t moe_tile_offset(const MoeSpec& spec, int64_t capacity, int index) {
  int64_t at = 0;
  for (int i = 0; i < index; ++i) at += moe_tile_bound(spec, capacity, kMoeHeight[i]);
  return at;
}

enum class ExpertEnd : int32_t { plain = 0, activated = 1, gated = 2 };

struct ExpertArgs {
  const char* weights;  // of expert 0: T [n, k] or packed 4-bit data
  const char* params;   // of 4-bit weights
  int64_t weight_stride, param_stride;  // bytes between experts
  const void* bias;                     // T [experts][n] or nullptr
  int64_t n, k;
  const void* x;
  int64_t x_stride;
  void* y;
  int64_t y_stride;
  const int32_t* token;  // x's row of a slot; nullptr = the slot's own number
  const int4* tiles;     // (expert, first slot, slots, 0)
  const int32_t* tile_count;
  int32_t row_tiles, tiles_bound;
  ExpertEnd end;
  Activation activation;
  bool reads_routes_early;  // the kernel right in front doesn't write them
};

#ifdef __CUDACC__
// Blocks go through 16 tiles, then the next row tile: tiles of one expert share its weights in L2, and a prompt's row
// tiles the tokens of the 16.
struct ExpertUnit {
  int32_t row_tile, expert, first, count;  // count 0: nothing to do
};
__device__ __forceinline__ ExpertUnit expert_unit(const ExpertArgs& a) {
  constexpr int kTogether = 16;
  const int32_t band = static_cast<int32_t>(blockIdx.x) / (kTogether * a.row_tiles);
  const int32_t inside = static_cast<int32_t>(blockIdx.x) - band * kTogether * a.row_tiles;
  const int32_t width = min(kTogether, a.tiles_bound - band * kTogether);
  const int32_t row_tile = inside / width, tile = band * kTogether + inside - row_tile * width;
  const uint4 v = load16(a.tiles + tile);
  int32_t tiles;
  asm volatile("ld.global.u32 %0, [%1];" : "=r"(tiles) : "l"(a.tile_count) : "memory");
  return {row_tile, static_cast<int32_t>(v.x), static_cast<int32_t>(v.y), tile < tiles ? static_cast<int32_t>(v.z) : 0};
}

// x's row of slot `slot`.
template <class T>
__device__ __forceinline__ const T* expert_input(const ExpertArgs& a, int32_t slot) {
  const int64_t row = a.token != nullptr ? a.token[slot] : slot;
  return static_cast<const T*>(a.x) + row * a.x_stride;
}

__device__ __forceinline__ float expert_end(const ExpertArgs& a, float lo, float hi) {
  return activation(a.activation, lo) * hi;
}

// The end of rows `row` and `row + 8` (row % 16 < 8) of one slot: their sums are lo and hi.
template <class T>
__device__ __forceinline__ void finish_slot(const ExpertArgs& a, int32_t expert, int64_t row, int32_t slot, float lo,
                                            float hi) {
  if (a.bias != nullptr) {
    const T* bias = static_cast<const T*>(a.bias) + expert * a.n;
    lo += Num<T>::to_float(bias[row]);
    hi += Num<T>::to_float(bias[row + 8]);
  }
  T* y = static_cast<T*>(a.y) + slot * a.y_stride;
  if (a.end == ExpertEnd::gated) {
    y[(row >> 4) * 8 + (row & 7)] = Num<T>::from_float(expert_end(a, lo, hi));
    return;
  }
  if (a.end == ExpertEnd::activated) lo = activation(a.activation, lo), hi = activation(a.activation, hi);
  y[row] = Num<T>::from_float(lo);
  y[row + 8] = Num<T>::from_float(hi);
}
#endif

// The kernels by tier, chosen in moe.cu. `variant` picks among shapes of one tier (bench/cuda/moe.cu compares them).
void moe_few(DType dtype, int32_t group, int variant, ExpertArgs a, cudaStream_t stream);
template <class T>
void moe_mma_typed(int32_t group, int32_t height, ExpertArgs a, cudaStream_t stream);
// On sm_90a; tiles of 64 or 256 slots, in x's own order, a.end not `activated`.
template <class T>
void moe_wgmma_typed(int32_t height, const ExpertArgs& a, int64_t experts, int64_t slots, int32_t group,
                     cudaStream_t stream);

}  // namespace deploykit::cuda
