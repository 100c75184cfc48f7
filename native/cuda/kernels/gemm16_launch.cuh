// gemm16 from the host: which kernel, how the work is cut, the launch.
#pragma once

#include <algorithm>

#include "cuda/kernels/gemm16_kernel.cuh"

namespace deploykit::cuda {
namespace {

inline CUtensorMap gemm16_map(DType dtype, const void* data, int64_t rows, int64_t k, int64_t stride, int box_rows) {
  const uint64_t sizes[2] = {static_cast<uint64_t>(k), static_cast<uint64_t>(rows)};
  const uint64_t strides[1] = {static_cast<uint64_t>(stride) * 2};
  const uint32_t box[2] = {kGemm16Depth, static_cast<uint32_t>(box_rows)};
  return tensor_map(dtype == DType::f16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, data,
                    sizes, strides, box, 128);
}

// Stages of weights on their way: about 6.5 MB over the device, twice what keeps memory busy.
inline int32_t gemm16_pace(int64_t blocks) { return static_cast<int32_t>((400 + blocks / 2) / blocks); }

// Clusters that run at a time (cached).
template <class S>
int64_t gemm16_clusters() {
  if (S::kCluster == 1) return multiprocessors();
  static const int count = [] {
    allow_shared("gemm16", gemm16_kernel<S>, S::kSharedBytes);
    const int found = clusters_that_fit("gemm16", gemm16_kernel<S>, S::kCluster, S::kThreads, S::kSharedBytes);
    require(found > 0, "gemm16", "the device runs clusters of this size");
    return found;
  }();
  return count;
}

template <class S>
int64_t gemm16_tiles(const LinearArgs& a) {
  return ceil_div(a.n, S::kRows * S::kShare) * ceil_div(a.m, S::kTokens);
}

template <class S>
void run_gemm16(const LinearArgs& a, DType dtype, const void* w, int32_t pace, cudaStream_t stream) {
  const auto kernel = gemm16_kernel<S>;
  allow_shared("gemm16", kernel, S::kSharedBytes);
  const int64_t clusters = std::min(gemm16_clusters<S>(), gemm16_tiles<S>(a));
  Gemm16Plan plan;
  plan.steps = static_cast<int32_t>(ceil_div(a.k, kGemm16Depth));
  plan.row_tiles = static_cast<int32_t>(ceil_div(a.n, S::kRows * S::kShare));
  plan.token_tiles = static_cast<int32_t>(ceil_div(a.m, S::kTokens));
  plan.pace = pace >= 0 ? pace : plan.token_tiles > 1 ? 0 : gemm16_pace(clusters * S::kCluster);
  plan.pace = std::min(plan.pace, S::kStages);
  require(gemm16_tiles<S>(a) * plan.steps <= INT32_MAX / 2, "gemm16", "n * k * m fits the work list");
  require(plan.steps >= S::kSplit, "gemm16", "every part of k has inputs");
  const CUtensorMap w_map = gemm16_map(dtype, w, a.n, a.k, a.k, S::kRows);
  const CUtensorMap x_map = gemm16_map(dtype, a.x, a.m, a.k, a.x_stride, S::kTokens / S::kShare);
  launch_clusters("gemm16", kernel, clusters, S::kCluster, S::kThreads, S::kSharedBytes, stream, a, plan, w_map, x_map);
}

// Stages fill what shared memory leaves beside the sums of the other parts of k.
template <class T, int kTokens, int kSplit>
using Gemm16Few = Gemm16Shape<T, kTokens, kTokens == 16 ? 10 : kTokens == 32 ? 9 : kSplit == 3 ? 7 : 8, 1, kSplit>;
template <class T>
using Gemm16Short = Gemm16Shape<T, 64, 8, 1, 1>;  // any number of tokens, k too short for a split
template <class T>
using Gemm16Middle = Gemm16Shape<T, 128, 5, 1, 2>;
template <class T>
using Gemm16Many128 = Gemm16Shape<T, 128, 6, 2, 1>;
template <class T>
using Gemm16Many256 = Gemm16Shape<T, 256, 4, 2, 1>;

// The largest split of k with which every row tile has a cluster of its own; where there are more tiles, 4: its uneven
// rounds weigh least.
template <class T, int kTokens>
int32_t gemm16_split(const LinearArgs& a) {
  const int64_t tiles = ceil_div(a.n, 128);
  if (tiles <= gemm16_clusters<Gemm16Few<T, kTokens, 4>>()) return 4;
  if (tiles <= gemm16_clusters<Gemm16Few<T, kTokens, 3>>()) return 3;
  return tiles <= gemm16_clusters<Gemm16Few<T, kTokens, 2>>() ? 2 : 4;
}

// Measured on an H100 (bench/cuda/NOTES-gemm16.md).
template <class T>
int32_t gemm16_choose(const LinearArgs& a) {
  if (a.k < 8 * kGemm16Depth) return 9;
  if (a.m <= 16) return gemm16_split<T, 16>(a) - 2;
  if (a.m <= 32) return gemm16_split<T, 32>(a) + 1;
  if (a.m <= 64) return gemm16_split<T, 64>(a) + 4;
  if (a.m <= 256) return 10;
  // A round of 128 tokens takes 0.61 times as long as one of 256.
  const int64_t rounds128 = ceil_div(gemm16_tiles<Gemm16Many128<T>>(a), gemm16_clusters<Gemm16Many128<T>>());
  const int64_t rounds256 = ceil_div(gemm16_tiles<Gemm16Many256<T>>(a), gemm16_clusters<Gemm16Many256<T>>());
  return rounds128 * 61 < rounds256 * 100 ? 11 : 12;
}

}  // namespace

template <class T>
void gemm16_typed(const LinearArgs& a, DType dtype, const void* w, const Gemm16Variant& v, cudaStream_t stream) {
  switch (v.config >= 0 ? v.config : gemm16_choose<T>(a)) {
    case 0: return run_gemm16<Gemm16Few<T, 16, 2>>(a, dtype, w, v.pace, stream);
    case 1: return run_gemm16<Gemm16Few<T, 16, 3>>(a, dtype, w, v.pace, stream);
    case 2: return run_gemm16<Gemm16Few<T, 16, 4>>(a, dtype, w, v.pace, stream);
    case 3: return run_gemm16<Gemm16Few<T, 32, 2>>(a, dtype, w, v.pace, stream);
    case 4: return run_gemm16<Gemm16Few<T, 32, 3>>(a, dtype, w, v.pace, stream);
    case 5: return run_gemm16<Gemm16Few<T, 32, 4>>(a, dtype, w, v.pace, stream);
    case 6: return run_gemm16<Gemm16Few<T, 64, 2>>(a, dtype, w, v.pace, stream);
    case 7: return run_gemm16<Gemm16Few<T, 64, 3>>(a, dtype, w, v.pace, stream);
    case 8: return run_gemm16<Gemm16Few<T, 64, 4>>(a, dtype, w, v.pace, stream);
    case 9: return run_gemm16<Gemm16Short<T>>(a, dtype, w, v.pace, stream);
    case 10: return run_gemm16<Gemm16Middle<T>>(a, dtype, w, v.pace, stream);
    case 11: return run_gemm16<Gemm16Many128<T>>(a, dtype, w, v.pace, stream);
    case 12: return run_gemm16<Gemm16Many256<T>>(a, dtype, w, v.pace, stream);
    default: throw Error("internal", "gemm16 has no such kernel");
  }
}

}  // namespace deploykit::cuda
