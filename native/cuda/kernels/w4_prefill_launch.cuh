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
  plan.steps = static_cast<int32_t>(ceil_div(a.k, S::kStages * S::kDepth) * S::kStages);
  plan.row_tiles = static_cast<int32_t>(ceil_div(a.n, S::kRows * S::kCluster));
  plan.token_tiles = static_cast<int32_t>(ceil_div(a.m, S::kTokens));
  plan.group = w.group;
  plan.token_group = kW4RoundTokens / S::kTokens;
  const int64_t tiles = static_cast<int64_t>(plan.row_tiles) * plan.token_tiles;
  require(tiles < int64_t{1} << 24, "w4_matmul", "n x m fits the grid");
  const int64_t most = multiprocessors() / S::kCluster;
  plan.clusters = static_cast<int32_t>(tiles < most ? tiles : most);
  const W4Maps maps = w4_maps<T>(a, w, S::kDepth, S::kRows, S::kTokens / S::kCluster);
  const auto outputs = [&](const void* data, int64_t stride, uint32_t width) {
    const uint64_t sizes[2] = {static_cast<uint64_t>(a.n) * width / 64, static_cast<uint64_t>(a.m)};
    const uint64_t strides[1] = {static_cast<uint64_t>(stride) * 2};
    const uint32_t box[2] = {width, S::kTokens};
    return tensor_map(kW4MapType<T>, 2, data, sizes, strides, box, static_cast<int>(width * 2));
  };
  // Sums in float32 leave without a map.
  const CUtensorMap y_map = a.y_f32 ? maps.tokens : outputs(a.y, a.y_stride, a.epilogue == Epilogue::gated ? 32 : 64);
  const CUtensorMap residual_map =
      a.epilogue == Epilogue::residual ? outputs(a.residual, a.residual_stride, 64) : maps.tokens;
  launch_clusters("w4_matmul", kernel, plan.clusters, S::kCluster, S::kThreads, S::kSharedBytes, stream, a, plan, maps.data,
                     maps.params, maps.tokens, y_map, residual_map);
}

}  // namespace
}  // namespace deploykit::cuda
