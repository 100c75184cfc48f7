// The host's side of w4_wgmma_kernel.cuh: which shape, how many blocks a tile, the tensor maps and the launch.
#pragma once

#include <type_traits>

#include "cuda/kernels/w4_wgmma_kernel.cuh"

namespace deploykit::cuda {
namespace {

// Clusters of `split` blocks that the device holds at a time (cached).
template <class Kernel>
int32_t clusters_at_once(Kernel kernel, int threads, size_t shared, int split, int32_t (&known)[kW4MaxSplit + 1]) {
  if (known[split] == 0) {
    if (split == 1) {
      known[1] = multiprocessors();
    } else {
      cudaLaunchConfig_t config = {};
      config.gridDim = dim3(static_cast<unsigned>(split));
      config.blockDim = dim3(static_cast<unsigned>(threads));
      config.dynamicSmemBytes = shared;
      cudaLaunchAttribute attribute = {};
      attribute.id = cudaLaunchAttributeClusterDimension;
      attribute.val.clusterDim.x = static_cast<unsigned>(split);
      attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
      config.attrs = &attribute;
      config.numAttrs = 1;
      int count = 0;
      check_cuda(cudaOccupancyMaxActiveClusters(&count, kernel, &config), "w4_matmul");
      known[split] = count > 0 ? count : -1;
    }
  }
  return known[split];
}

struct W4Choice {
  int32_t split = 1;
  double time = 1e30;  // microseconds on an H100, as the model sees it
};

// How many blocks share a tile: waves of clusters, each its stages (`stage` microseconds) and what they cost besides.
template <class T, class S>
W4Choice w4_choose(const LinearArgs& a, double stage, double fixed, double shared, int forced) {
  static int32_t known[kW4MaxSplit + 1] = {};
  const auto kernel = w4_wgmma_kernel<T, S>;
  allow_shared("w4_matmul", kernel, S::kSharedBytes);
  const int64_t tiles = ceil_div(a.n, S::kRows) * ceil_div(a.m, S::kTokens), steps = ceil_div(a.k, 128);
  W4Choice best;
  for (int32_t split = 1; split <= kW4MaxSplit && split <= steps; ++split) {
    int64_t fit = clusters_at_once(kernel, S::kThreads, S::kSharedBytes, split, known);
    if (fit <= 0) continue;
    if (split == 1) fit *= S::kPerSm;
    // Where two blocks fit a multiprocessor some get two long before all have one.
    const double crowd = S::kPerSm > 1 && tiles * split > multiprocessors() * 3 / 4 ? 1.75 : 1.0;
    const double time = static_cast<double>(ceil_div(tiles, fit)) *
                        (static_cast<double>(ceil_div(steps, split)) * stage * crowd + fixed +
                         (split > 1 ? shared * split : 0.0));
    if (split == forced) return {split, time};
    if (time < best.time) best = {split, time};
  }
  return best;
}

template <class T, class S>
void launch_w4(const LinearArgs& a, const W4Weight& w, W4Plan plan, cudaStream_t stream) {
  const auto kernel = w4_wgmma_kernel<T, S>;
  const uint64_t tiles = static_cast<uint64_t>(a.n / 16);
  const uint64_t data_words = static_cast<uint64_t>(a.k * 2), param_words = static_cast<uint64_t>(a.k / w.group * 16);
  const uint64_t data_sizes[2] = {data_words, tiles}, data_strides[1] = {data_words * 4};
  const uint64_t param_sizes[2] = {param_words, tiles}, param_strides[1] = {param_words * 4};
  const uint64_t token_sizes[2] = {static_cast<uint64_t>(a.k), static_cast<uint64_t>(a.m)};
  const uint64_t token_strides[1] = {static_cast<uint64_t>(a.x_stride) * 2};
  const uint32_t data_box[2] = {256, S::kRows / 16}, token_box[2] = {64, S::kTokens};
  const uint32_t param_box[2] = {static_cast<uint32_t>(128 / w.group * 16), S::kRows / 16};
  const CUtensorMap data_map = tensor_map(CU_TENSOR_MAP_DATA_TYPE_UINT32, 2, w.data, data_sizes, data_strides, data_box, 0);
  const CUtensorMap param_map =
      tensor_map(CU_TENSOR_MAP_DATA_TYPE_UINT32, 2, w.params, param_sizes, param_strides, param_box, 0);
  const CUtensorMap token_map =
      tensor_map(sizeof(T) == 2 && std::is_same<T, __half>::value ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                                                  : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                 2, a.x, token_sizes, token_strides, token_box, 128);
  const int64_t clusters = S::kSplit ? static_cast<int64_t>(plan.row_tiles) * plan.token_tiles : plan.clusters;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(clusters * plan.split));
  config.blockDim = dim3(S::kThreads);
  config.dynamicSmemBytes = S::kSharedBytes;
  config.stream = stream;
  cudaLaunchAttribute attributes[2] = {};
  if (plan.split > 1) {
    attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
    attributes[config.numAttrs].val.clusterDim.x = static_cast<unsigned>(plan.split);
    attributes[config.numAttrs].val.clusterDim.y = attributes[config.numAttrs].val.clusterDim.z = 1;
    ++config.numAttrs;
  }
  if (dependent_launch()) {
    attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[config.numAttrs].val.programmaticStreamSerializationAllowed = 1;
    ++config.numAttrs;
  }
  config.attrs = attributes;
  check_cuda(cudaLaunchKernelEx(&config, kernel, a, plan, data_map, param_map, token_map), "w4_matmul");
}

template <class T, class S>
void run_w4(const LinearArgs& a, const W4Weight& w, int32_t split, cudaStream_t stream) {
  allow_shared("w4_matmul", w4_wgmma_kernel<T, S>, S::kSharedBytes);
  W4Plan plan;
  plan.steps = static_cast<int32_t>(ceil_div(a.k, 128));
  plan.row_tiles = static_cast<int32_t>(ceil_div(a.n, S::kRows));
  plan.token_tiles = static_cast<int32_t>(ceil_div(a.m, S::kTokens));
  plan.group = w.group;
  plan.split = split;
  const int64_t tiles = static_cast<int64_t>(plan.row_tiles) * plan.token_tiles;
  require(tiles < int64_t{1} << 24, "w4_matmul", "n x m fits the grid");
  plan.clusters = static_cast<int32_t>(tiles < multiprocessors() ? tiles : multiprocessors());
  // More at once only makes a queue in which the kernel in front waits too.
  if (split > 1) plan.early = S::kTokens <= 16 ? 3 : S::kTokens <= 64 ? 2 : 1;
  launch_w4<T, S>(a, w, plan, stream);
}

// At most 64 tokens: one tile of them.
template <class T, int kTokens, bool kWide>
void few_tokens(const LinearArgs& a, const W4Weight& w, int variant, cudaStream_t stream) {
  using S = W4Shape<kTokens, 1, 2, kWide, true, kWide>;
  const W4Choice choice = kTokens >= 64 ? w4_choose<T, S>(a, 0.56, 2.0, 1.2, variant & 15)
                                        : w4_choose<T, S>(a, 0.25, 4.0, 0.3, variant & 15);
  run_w4<T, S>(a, w, choice.split, stream);
}

template <class T, bool kWide>
void many_tokens(const LinearArgs& a, const W4Weight& w, int variant, cudaStream_t stream) {
  using Tall = W4Shape<128, 2, 1, kWide, false, false>;
  using Cut = W4Shape<128, 1, 1, kWide, true, false>;
  using Low = W4Shape<128, 1, 1, kWide, false, false>;
  const W4Choice low = w4_choose<T, Cut>(a, 0.7, 4.0, 0.8, variant & 15);
  const double waves = static_cast<double>(ceil_div(ceil_div(a.n, Tall::kRows) * ceil_div(a.m, 128), multiprocessors()));
  const double tall = waves * (static_cast<double>(ceil_div(a.k, 128)) * 1.4 + 4.0);
  const int shape = variant / 16;
  if (shape == 1 || (shape == 0 && tall <= low.time)) return run_w4<T, Tall>(a, w, 1, stream);
  if (low.split > 1) return run_w4<T, Cut>(a, w, low.split, stream);
  run_w4<T, Low>(a, w, 1, stream);
}

}  // namespace

// `variant`: 0 what the model prefers; the bench's others: 1 .. 8 force the split, and from 65 tokens on + 16 forces 256
// rows a block, + 32 forces 128.
template <class T, bool kWide>
void w4_wgmma_typed(int variant, const LinearArgs& a, const W4Weight& w, cudaStream_t stream) {
  if (a.m <= 16) return few_tokens<T, 16, kWide>(a, w, variant, stream);
  if (a.m <= 32) return few_tokens<T, 32, kWide>(a, w, variant, stream);
  if (a.m <= 64) return few_tokens<T, 64, kWide>(a, w, variant, stream);
  many_tokens<T, kWide>(a, w, variant, stream);
}

}  // namespace deploykit::cuda
