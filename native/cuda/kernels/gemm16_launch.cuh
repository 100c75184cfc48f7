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

// How the stages are cut over `clusters`: evenly where whole tiles would leave many of them idle.
inline int32_t gemm16_share(const Gemm16Plan& plan, int64_t clusters, int cut) {
  const int64_t tiles = static_cast<int64_t>(plan.row_tiles) * plan.token_tiles, units = tiles * plan.steps;
  const int64_t rounds = ceil_div(tiles, clusters);
  if (cut == 0 || (cut < 0 && tiles * 100 >= rounds * clusters * 90)) return 0;
  int64_t share = std::max(ceil_div(units, clusters), std::min<int64_t>(plan.steps, 4));
  if (share < plan.steps) {  // equal parts of every tile, where they are nearly as even
    const int64_t equal = ceil_div(plan.steps, plan.steps / share);
    if (equal * 100 <= share * 106) share = equal;
  }
  return static_cast<int32_t>(share);
}

// Stages of weights on their way: about 6.5 MB over the device, twice what keeps memory busy.
inline int32_t gemm16_pace(int64_t blocks) { return static_cast<int32_t>((400 + blocks / 2) / blocks); }

// The launch's attributes but for the grid; `attributes` has room for two.
template <class S>
cudaLaunchConfig_t gemm16_config(cudaLaunchAttribute* attributes) {
  cudaLaunchConfig_t config = {};
  config.blockDim = dim3(S::kThreads);
  config.dynamicSmemBytes = S::kSharedBytes;
  config.attrs = attributes;
  if (S::kCluster > 1) {
    attributes[0].id = cudaLaunchAttributeClusterDimension;
    attributes[0].val.clusterDim.x = S::kCluster;
    attributes[0].val.clusterDim.y = attributes[0].val.clusterDim.z = 1;
    config.numAttrs = 1;
  }
  return config;
}

// Clusters that run at a time: whole ones within the groups of multiprocessors that the device has.
template <class S>
int64_t gemm16_clusters() {
  if (S::kCluster == 1) return multiprocessors();
  static const int count = [] {
    cudaLaunchAttribute attributes[2] = {};
    cudaLaunchConfig_t config = gemm16_config<S>(attributes);
    config.gridDim = dim3(S::kCluster);
    allow_shared("gemm16", gemm16_kernel<S>, S::kSharedBytes);
    int found = 0;
    check_cuda(cudaOccupancyMaxActiveClusters(&found, gemm16_kernel<S>, &config), "gemm16");
    require(found > 0, "gemm16", "the device runs clusters of this size");
    return found;
  }();
  return count;
}

template <class S>
void run_gemm16(const LinearArgs& a, DType dtype, const void* w, const Gemm16Variant& variant, void* workspace,
                cudaStream_t stream) {
  const auto kernel = gemm16_kernel<S>;
  allow_shared("gemm16", kernel, S::kSharedBytes);
  Gemm16Plan plan;
  plan.steps = static_cast<int32_t>(ceil_div(a.k, kGemm16Depth));
  plan.row_tiles = static_cast<int32_t>(ceil_div(a.n, S::kRows * S::kShare));
  plan.token_tiles = static_cast<int32_t>(ceil_div(a.m, S::kTokens));
  const int64_t tiles = static_cast<int64_t>(plan.row_tiles) * plan.token_tiles, units = tiles * plan.steps;
  require(units <= INT32_MAX / 2, "gemm16", "n * k * m fits the work list");
  require(plan.steps >= S::kSplit, "gemm16", "every part of k has inputs");
  int64_t clusters = gemm16_clusters<S>();
  plan.share = S::kSplit > 1 ? 0 : gemm16_share(plan, clusters, variant.cut);
  clusters = plan.share > 0 ? ceil_div(units, plan.share) : std::min(clusters, tiles);
  require(plan.share == 0 || tiles * S::kShare * S::kGroups <= kGemm16Counters, "gemm16", "n fits the counters");
  plan.pace = variant.pace >= 0 ? variant.pace : plan.token_tiles > 1 ? 0 : gemm16_pace(clusters * S::kCluster);
  plan.pace = std::min(plan.pace, S::kStages);
  const CUtensorMap w_map = gemm16_map(dtype, w, a.n, a.k, a.k, S::kRows);
  const CUtensorMap x_map = gemm16_map(dtype, a.x, a.m, a.k, a.x_stride, S::kTokens / S::kShare);

  cudaLaunchAttribute attributes[2] = {};
  cudaLaunchConfig_t config = gemm16_config<S>(attributes);
  config.gridDim = dim3(static_cast<unsigned>(clusters * S::kCluster));
  config.stream = stream;
  if (dependent_launch()) {
    attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[config.numAttrs].val.programmaticStreamSerializationAllowed = 1;
    ++config.numAttrs;
  }
  check_cuda(cudaLaunchKernelEx(&config, kernel, a, plan, static_cast<uint32_t*>(workspace),
                                reinterpret_cast<float*>(static_cast<char*>(workspace) + kGemm16Counters * 4), w_map,
                                x_map),
             "gemm16");
}

}  // namespace

// The largest split of k with which every row tile has a cluster of its own; where there are more tiles, 4: uneven rounds
// weigh least.
template <class T, int kTokens, int kStages2, int kStages3, int kStages4>
int32_t gemm16_split(const LinearArgs& a) {
  const int64_t tiles = ceil_div(a.n, 128) * ceil_div(a.m, kTokens), steps = ceil_div(a.k, kGemm16Depth);
  if (steps < 8) return 1;
  const int64_t two = gemm16_clusters<Gemm16Shape<T, kTokens, kStages2, 1, 2>>();
  if (tiles > two || tiles <= gemm16_clusters<Gemm16Shape<T, kTokens, kStages4, 1, 4>>()) return 4;
  return tiles <= gemm16_clusters<Gemm16Shape<T, kTokens, kStages3, 1, 3>>() ? 3 : 2;
}

template <class T>
int32_t gemm16_choose(const LinearArgs& a) {
  if (a.m <= 16) return gemm16_split<T, 16, 10, 10, 10>(a) - 1;
  if (a.m <= 32) return gemm16_split<T, 32, 9, 9, 9>(a) + 3;
  if (a.m <= 64) return gemm16_split<T, 64, 8, 7, 8>(a) + 7;
  if (a.m <= 128) return gemm16_split<T, 128, 5, 4, 5>(a) + 11;
  return 17;
}

template <class T>
void gemm16_typed(const LinearArgs& a, DType dtype, const void* w, Gemm16Variant v, void* workspace,
                  cudaStream_t stream) {
  if (v.config < 0) v.config = gemm16_choose<T>(a);
  switch (v.config) {
    case 0: return run_gemm16<Gemm16Shape<T, 16, 11, 1, 1>>(a, dtype, w, v, workspace, stream);
    case 1: return run_gemm16<Gemm16Shape<T, 16, 10, 1, 2>>(a, dtype, w, v, workspace, stream);
    case 2: return run_gemm16<Gemm16Shape<T, 16, 10, 1, 3>>(a, dtype, w, v, workspace, stream);
    case 3: return run_gemm16<Gemm16Shape<T, 16, 10, 1, 4>>(a, dtype, w, v, workspace, stream);
    case 4: return run_gemm16<Gemm16Shape<T, 32, 10, 1, 1>>(a, dtype, w, v, workspace, stream);
    case 5: return run_gemm16<Gemm16Shape<T, 32, 9, 1, 2>>(a, dtype, w, v, workspace, stream);
    case 6: return run_gemm16<Gemm16Shape<T, 32, 9, 1, 3>>(a, dtype, w, v, workspace, stream);
    case 7: return run_gemm16<Gemm16Shape<T, 32, 9, 1, 4>>(a, dtype, w, v, workspace, stream);
    case 8: return run_gemm16<Gemm16Shape<T, 64, 8, 1, 1>>(a, dtype, w, v, workspace, stream);
    case 9: return run_gemm16<Gemm16Shape<T, 64, 8, 1, 2>>(a, dtype, w, v, workspace, stream);
    case 10: return run_gemm16<Gemm16Shape<T, 64, 7, 1, 3>>(a, dtype, w, v, workspace, stream);
    case 11: return run_gemm16<Gemm16Shape<T, 64, 8, 1, 4>>(a, dtype, w, v, workspace, stream);
    case 12: return run_gemm16<Gemm16Shape<T, 128, 6, 1, 1>>(a, dtype, w, v, workspace, stream);
    case 13: return run_gemm16<Gemm16Shape<T, 128, 5, 1, 2>>(a, dtype, w, v, workspace, stream);
    case 14: return run_gemm16<Gemm16Shape<T, 128, 4, 1, 3>>(a, dtype, w, v, workspace, stream);
    case 15: return run_gemm16<Gemm16Shape<T, 128, 5, 1, 4>>(a, dtype, w, v, workspace, stream);
    case 16: return run_gemm16<Gemm16Shape<T, 128, 6, 2, 1>>(a, dtype, w, v, workspace, stream);
    case 17: return run_gemm16<Gemm16Shape<T, 256, 4, 2, 1>>(a, dtype, w, v, workspace, stream);
    case 18: return run_gemm16<Gemm16Shape<T, 64, 8, 2, 1>>(a, dtype, w, v, workspace, stream);
    case 19: return run_gemm16<Gemm16Shape<T, 128, 5, 2, 2>>(a, dtype, w, v, workspace, stream);
    case 20: return run_gemm16<Gemm16Shape<T, 64, 7, 2, 3>>(a, dtype, w, v, workspace, stream);
    case 21: return run_gemm16<Gemm16Shape<T, 128, 4, 2, 3>>(a, dtype, w, v, workspace, stream);
    default: throw Error("internal", "gemm16 has no such kernel");
  }
}

}  // namespace deploykit::cuda
