// How the 16-bit products (gemm16) cut their work: shared by the host, producers and consumers.
#pragma once

#include "cuda/kernels/linear.cuh"

namespace deploykit::cuda {

constexpr int kGemm16Depth = 64;      // inputs a stage: 128 bytes, the widest swizzle
constexpr int kGemm16TokenGroup = 8;  // token tiles that take a row tile's weights one after another, from L2

struct Gemm16Plan {
  int32_t steps = 0;      // stages over k
  int32_t row_tiles = 0;  // of a cluster's rows
  int32_t token_tiles = 0;
  int32_t pace = 0;  // stages of weights on their way to a block at a time, 0 = all that have room
};

// The bench's choice among the kernels; -1 = the tuned one.
struct Gemm16Variant {
  int32_t config = -1;
  int32_t pace = -1;
};

#ifdef __CUDACC__
// The tiles of a cluster, and of each the stages [first, last) that are for its part `part` of `parts` along k.
struct Gemm16Work {
  int32_t tile = 0, first = 0, last = 0;

  __device__ __forceinline__ Gemm16Work(const Gemm16Plan& plan, int cluster, int clusters, int part, int parts)
      : first(plan.steps * part / parts),
        last(plan.steps * (part + 1) / parts),
        plan_(plan),
        next_(cluster),
        stride_(clusters) {}
  __device__ __forceinline__ bool next() {
    tile = next_;
    next_ += stride_;
    return tile < tiles();
  }
  // Stages of the tiles after this one.
  __device__ __forceinline__ int32_t left() const {
    return next_ < tiles() ? (tiles() - next_ + stride_ - 1) / stride_ * (last - first) : 0;
  }
  // A tile's place: groups of token tiles, in each all row tiles, in each of these the group's token tiles.
  __device__ __forceinline__ int row_tile() const {
    const int group = tile / (kGemm16TokenGroup * plan_.row_tiles);
    return (tile - group * kGemm16TokenGroup * plan_.row_tiles) / group_size(group);
  }
  __device__ __forceinline__ int token_tile() const {
    const int group = tile / (kGemm16TokenGroup * plan_.row_tiles);
    return group * kGemm16TokenGroup + (tile - group * kGemm16TokenGroup * plan_.row_tiles) % group_size(group);
  }

 private:
  __device__ __forceinline__ int32_t tiles() const { return plan_.row_tiles * plan_.token_tiles; }
  __device__ __forceinline__ int group_size(int group) const {
    return min(kGemm16TokenGroup, plan_.token_tiles - group * kGemm16TokenGroup);
  }
  const Gemm16Plan& plan_;
  int32_t next_, stride_;
};
#endif

}  // namespace deploykit::cuda
