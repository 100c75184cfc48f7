// How the 16-bit products (gemm16) cut their work: shared by the host, producers and consumers.
#pragma once

#include "cuda/kernels/linear.cuh"

namespace deploykit::cuda {

constexpr int kGemm16Counters = 16384;  // one a row group of a tile, 64 KiB
constexpr int kGemm16Depth = 64;        // inputs a stage: 128 bytes, the widest swizzle
constexpr int kGemm16TokenGroup = 8;    // token tiles that take a row tile's weights one after another, from L2

struct Gemm16Plan {
  int32_t steps = 0;        // stages over k
  int32_t row_tiles = 0;    // of a cluster's rows
  int32_t token_tiles = 0;
  // Stages that a cluster takes of the list of all (tile, stage), in order; tiles that several clusters share are summed
  // in the workspace. 0: whole tiles, dealt to the clusters in turn.
  int32_t share = 0;
  int32_t pace = 0;  // stages of weights on their way at a time, 0 = all that have room
};

// The bench's choice among the kernels; -1 = the tuned one.
struct Gemm16Variant {
  int32_t config = -1;
  int32_t cut = -1;  // 0: whole tiles, 1: even shares
  int32_t pace = -1;
};

#ifdef __CUDACC__
// The parts of tiles that block `part` of a cluster's `parts` along k works on, in order: stages [first, last) of tile
// `tile`.
struct Gemm16Work {
  int32_t tile = 0, first = 0, last = 0;

  __device__ __forceinline__ Gemm16Work(const Gemm16Plan& plan, int cluster, int clusters, int part, int parts)
      : plan_(plan) {
    const int32_t tiles = plan.row_tiles * plan.token_tiles;
    if (plan.share > 0) {
      next_ = cluster * plan.share;
      end_ = min(next_ + plan.share, tiles * plan.steps);
    } else {
      first = plan.steps * part / parts;
      last = plan.steps * (part + 1) / parts;
      next_ = cluster;
      end_ = tiles;
      stride_ = clusters;
    }
  }
  __device__ __forceinline__ bool next() {
    if (next_ >= end_) return false;
    if (plan_.share > 0) {
      tile = next_ / plan_.steps;
      first = next_ - tile * plan_.steps;
      last = min(plan_.steps, first + end_ - next_);
      next_ += last - first;
    } else {
      tile = next_;
      next_ += stride_;
    }
    return true;
  }
  // Stages of the parts after this one.
  __device__ __forceinline__ int32_t left() const {
    if (plan_.share > 0) return end_ - next_;
    return next_ < end_ ? (end_ - next_ + stride_ - 1) / stride_ * (last - first) : 0;
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
  __device__ __forceinline__ int group_size(int group) const {
    return min(kGemm16TokenGroup, plan_.token_tiles - group * kGemm16TokenGroup);
  }
  const Gemm16Plan& plan_;
  int32_t next_ = 0, end_ = 0, stride_ = 0;
};
#endif

}  // namespace deploykit::cuda
