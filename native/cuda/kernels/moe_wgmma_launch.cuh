// Grouped products on wgmma from the host: tensor maps, the launch, the choice by how weights are stored.
#pragma once

#include "cuda/kernels/moe_wgmma_kernel.cuh"

namespace deploykit::cuda {
namespace {

template <class T>
constexpr CUtensorMapDataType kMoeMapType =
    sizeof(T) == 2 && Num<T>::kMagic == Num<__half>::kMagic ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                                           : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;

template <class T, int kKind, bool kMany>
void run_moe_wgmma(const ExpertArgs& a, int64_t experts, int64_t slots, int32_t group, cudaStream_t stream) {
  using S = MoeWgmma<T, kKind, kMany>;
  const auto kernel = moe_wgmma_kernel<S>;
  allow_shared("moe", kernel, S::kSharedBytes);
  MoeWgmmaPlan plan;
  plan.steps = static_cast<int32_t>(kKind == 0 ? ceil_div(a.k, S::kDepth) : ceil_div(a.k, 2 * S::kDepth) * 2);
  plan.row_tiles = static_cast<int32_t>(ceil_div(a.n, S::kRows * S::kCluster));
  plan.group = group;
  const int64_t units = static_cast<int64_t>(plan.row_tiles) * a.tiles_bound;
  require(units < int64_t{1} << 30, "moe", "the tiles fit a launch");
  const int64_t most = multiprocessors() * S::kBlocks / S::kCluster;
  plan.clusters = static_cast<int32_t>(units < most ? units : most);
  const auto k = static_cast<uint64_t>(a.k), n = static_cast<uint64_t>(a.n), count = static_cast<uint64_t>(experts);
  const auto stride = static_cast<uint64_t>(a.weight_stride), param_stride = static_cast<uint64_t>(a.param_stride);
  const uint64_t token_sizes[2] = {k, static_cast<uint64_t>(slots)}, token_strides[1] = {static_cast<uint64_t>(a.x_stride) * 2};
  const uint32_t token_box[2] = {S::kDepth, S::kBoxTokens};
  const CUtensorMap tokens = tensor_map(kMoeMapType<T>, 2, a.x, token_sizes, token_strides, token_box, 128);
  CUtensorMap data, params;
  if (kKind == 0) {
    const uint64_t sizes[3] = {k, n, count}, strides[2] = {k * 2, stride};
    const uint32_t box[3] = {S::kDepth, S::kRows, 1};
    data = params = tensor_map(kMoeMapType<T>, 3, a.weights, sizes, strides, box, 128);
  } else {
    const uint64_t words = k / static_cast<uint64_t>(group) * 16;
    const uint64_t sizes[3] = {k * 2, n / 16, count}, strides[2] = {k * 8, stride};
    const uint64_t param_sizes[3] = {words, n / 16, count}, param_strides[2] = {words * 4, param_stride};
    const uint32_t box[3] = {128, S::kRows / 16, 1};
    const uint32_t param_box[3] = {group >= 64 ? 16u : 32u, S::kRows / 16, 1};
    data = tensor_map(CU_TENSOR_MAP_DATA_TYPE_UINT32, 3, a.weights, sizes, strides, box, 0);
    params = tensor_map(CU_TENSOR_MAP_DATA_TYPE_UINT32, 3, a.params, param_sizes, param_strides, param_box, 0);
  }
  launch_clusters("moe", kernel, plan.clusters, S::kCluster, S::kThreads, S::kSharedBytes, stream, a, plan, data, params,
                  tokens);
}

}  // namespace

template <class T, bool kMany>
void pick_moe_wgmma(const ExpertArgs& a, int64_t experts, int64_t slots, int32_t group, cudaStream_t stream) {
  if (group == 0) return run_moe_wgmma<T, 0, kMany>(a, experts, slots, group, stream);
  if (group == 128) return run_moe_wgmma<T, 1, kMany>(a, experts, slots, group, stream);
  run_moe_wgmma<T, 2, kMany>(a, experts, slots, group, stream);
}

template <class T>
void moe_wgmma_typed(int32_t height, const ExpertArgs& a, int64_t experts, int64_t slots, int32_t group,
                     cudaStream_t stream) {
  if (height == 64) return pick_moe_wgmma<T, false>(a, experts, slots, group, stream);
  pick_moe_wgmma<T, true>(a, experts, slots, group, stream);
}

}  // namespace deploykit::cuda
