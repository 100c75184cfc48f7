// The host's side of w4_prefill_kernel.cuh.
#pragma once

#include "cuda/kernels/w4_maps.cuh"
#include "cuda/kernels/w4_prefill_kernel.cuh"

namespace deploykit::cuda {
namespace {

template <class T, class S>
void run_prefill(const LinearArgs& a, const W4Weight& w, cudaStream_t stream) {
  const auto kernel = w4_prefill_kernel<T, S>;
  allow_shared("w4_matmul", kernel, S::kSharedBytes);
  W4Plan plan;
  plan.steps = static_cast<int32_t>(ceil_div(a.k, 2 * S::kDepth) * 2);
  plan.row_tiles = static_cast<int32_t>(ceil_div(a.n, S::kRows * S::kCluster));
  plan.token_tiles = static_cast<int32_t>(ceil_div(a.m, S::kTokens));
  plan.group = w.group;
  plan.token_group = kW4RoundTokens / S::kTokens;
  const int64_t tiles = static_cast<int64_t>(plan.row_tiles) * plan.token_tiles;
  require(tiles < int64_t{1} << 24, "w4_matmul", "n x m fits the grid");
  const int64_t most = multiprocessors() / S::kCluster;
  plan.clusters = static_cast<int32_t>(tiles < most ? tiles : most);
  const W4Maps maps = w4_maps<T>(a, w, S::kDepth, S::kRows, S::kTokens / S::kCluster);
  const bool gated = a.epilogue == Epilogue::gated;
  const uint64_t y_sizes[2] = {static_cast<uint64_t>(gated ? a.n / 2 : a.n), static_cast<uint64_t>(a.m)};
  const uint64_t y_strides[1] = {static_cast<uint64_t>(a.y_stride) * 2};
  const uint32_t y_box[2] = {gated ? 32u : 64u, kStoreTokens};
  // Sums in float32 leave without it.
  const CUtensorMap y_map =
      a.y_f32 ? maps.tokens : tensor_map(kW4MapType<T>, 2, a.y, y_sizes, y_strides, y_box, gated ? 64 : 128);
  launch_w4_clusters(kernel, plan.clusters, S::kCluster, S::kThreads, S::kSharedBytes, stream, a, plan, maps.data,
                     maps.params, maps.tokens, y_map);
}

}  // namespace
}  // namespace deploykit::cuda
