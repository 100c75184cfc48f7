// The host's side of w4_wgmma_kernel.cuh: which shape, how many blocks a tile, the tensor maps and the launch.
#pragma once

#include "cuda/kernels/w4_prefill_launch.cuh"
#include "cuda/kernels/w4_split_kernel.cuh"
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
      const int count = clusters_that_fit("w4_matmul", kernel, split, threads, shared);
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
template <class S, class Kernel>
W4Choice w4_choose(Kernel kernel, const LinearArgs& a, double stage, double fixed, double shared, int forced) {
  static int32_t known[kW4MaxSplit + 1] = {};
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
void run_w4(const LinearArgs& a, const W4Weight& w, int32_t split, cudaStream_t stream) {
  allow_shared("w4_matmul", w4_wgmma_kernel<T, S>, S::kSharedBytes);
  W4Plan plan;
  plan.steps = static_cast<int32_t>(ceil_div(a.k, 128));
  plan.row_tiles = static_cast<int32_t>(ceil_div(a.n, S::kRows));
  plan.token_tiles = static_cast<int32_t>(ceil_div(a.m, S::kTokens));
  plan.group = w.group;
  plan.split = split;
  plan.token_group = kW4RoundTokens / S::kTokens;
  const int64_t tiles = static_cast<int64_t>(plan.row_tiles) * plan.token_tiles;
  require(tiles < int64_t{1} << 24, "w4_matmul", "n x m fits the grid");
  plan.clusters = static_cast<int32_t>(tiles < multiprocessors() ? tiles : multiprocessors());
  // More at once only makes a queue in which the kernel in front waits too.
  if (split > 1) plan.early = S::kTokens <= 16 ? 3 : S::kTokens <= 64 ? 2 : 1;
  const W4Maps maps = w4_maps<T>(a, w, 128, S::kRows, S::kTokens);
  const int64_t clusters = S::kSplit ? tiles : plan.clusters;
  launch_clusters("w4_matmul", w4_wgmma_kernel<T, S>, clusters, plan.split, S::kThreads, S::kSharedBytes, stream, a, plan, maps.data,
                     maps.params, maps.tokens);
}

template <class T, class S>
void run_split(const LinearArgs& a, const W4Weight& w, int32_t split, cudaStream_t stream) {
  const auto kernel = w4_split_kernel<T, S>;
  allow_shared("w4_matmul", kernel, S::kSharedBytes);
  W4Plan plan;
  plan.steps = static_cast<int32_t>(ceil_div(a.k, 128));
  plan.row_tiles = static_cast<int32_t>(ceil_div(a.n, S::kRows));
  plan.token_tiles = 1;
  plan.split = split;
  // More at once only makes a queue in which the kernel in front waits too.
  plan.early = split == 1 && S::kTokens <= 16 ? 6 : 2;
  const W4Maps maps = w4_maps<T>(a, w, 128, S::kRows, S::kTokens);
  launch_clusters("w4_matmul", kernel, plan.row_tiles, split, S::kThreads, S::kSharedBytes, stream, a, plan, maps.data, maps.params,
                     maps.tokens);
}

// In how many parts: as many, up to six, as shorten a block's work and let all clusters run at once. Measured on an H100
// (bench/cuda/NOTES-w4.md): seven and eight find fewer places, and a second round costs more than a split gains.
template <class S, class Kernel>
int32_t split_of(Kernel kernel, const LinearArgs& a, int32_t forced) {
  constexpr int32_t kMost = 6;
  static int32_t known[kW4MaxSplit + 1] = {};
  allow_shared("w4_matmul", kernel, S::kSharedBytes);
  const int64_t tiles = ceil_div(a.n, S::kRows), steps = ceil_div(a.k, 128);
  int32_t best = 1;
  for (int32_t split = 2; split <= (forced > 0 ? kW4MaxSplit : kMost) && split <= steps; ++split) {
    const int32_t fit = clusters_at_once(kernel, S::kThreads, S::kSharedBytes, split, known);
    if (split == forced && fit > 0) return split;
    if (forced == 0 && tiles <= fit && ceil_div(steps, split) < ceil_div(steps, best)) best = split;
  }
  return best;
}

// At most 64 tokens: one tile of them.
template <class T, int kTokens, bool kWide>
void few_tokens(const LinearArgs& a, const W4Weight& w, int variant, cudaStream_t stream) {
  if constexpr (kWide) {
    using S = W4Split<kTokens, !std::is_same<T, __half>::value>;
    run_split<T, S>(a, w, split_of<S>(w4_split_kernel<T, S>, a, variant & 15), stream);
  } else {
    using S = W4Shape<kTokens, 1, 2, kWide, true>;
    const auto kernel = w4_wgmma_kernel<T, S>;
    const W4Choice choice = kTokens >= 64 ? w4_choose<S>(kernel, a, 0.56, 2.0, 1.2, variant & 15)
                                          : w4_choose<S>(kernel, a, 0.25, 4.0, 0.3, variant & 15);
    run_w4<T, S>(a, w, choice.split, stream);
  }
}

template <class T, bool kWide>
void many_tokens(const LinearArgs& a, const W4Weight& w, int variant, cudaStream_t stream) {
  using Tall = W4Shape<128, 2, 1, kWide, false>;
  using Cut = W4Shape<128, 1, 1, kWide, true>;
  using Low = W4Shape<128, 1, 1, kWide, false>;
  const W4Choice low = w4_choose<Cut>(w4_wgmma_kernel<T, Cut>, a, 0.7, 4.0, 0.8, variant & 15);
  using Prompt = W4Prefill<kWide>;
  // Both take as long for a round; where they tie, the one that unpacks half as much.
  const double round = static_cast<double>(ceil_div(a.k, 128)) * 1.4 + 4.0;
  const int64_t row_tiles = ceil_div(a.n, Tall::kRows);
  const double tall = static_cast<double>(ceil_div(row_tiles * ceil_div(a.m, 128), multiprocessors())) * round;
  const double prompt =
      static_cast<double>(ceil_div(row_tiles * ceil_div(a.m, Prompt::kTokens), multiprocessors() / Prompt::kCluster)) * round;
  const int shape = variant / 16;
  if (shape == 3 || (shape == 0 && prompt <= tall && prompt <= low.time)) return run_prefill<T, Prompt>(a, w, stream);
  if (shape == 1 || (shape == 0 && tall <= low.time)) return run_w4<T, Tall>(a, w, 1, stream);
  if (low.split > 1) return run_w4<T, Cut>(a, w, low.split, stream);
  run_w4<T, Low>(a, w, 1, stream);
}

}  // namespace

// `variant`: 0 what the model prefers; the bench's others: 1 .. 8 force the split, and from 65 tokens on + 16 forces 256
// rows and 128 tokens a block, + 32 forces 128 rows, + 48 128 rows and 256 tokens.
template <class T, bool kWide>
void w4_wgmma_typed(int variant, const LinearArgs& a, const W4Weight& w, cudaStream_t stream) {
  if (a.m <= 16) return few_tokens<T, 16, kWide>(a, w, variant, stream);
  if (a.m <= 32) return few_tokens<T, 32, kWide>(a, w, variant, stream);
  if (a.m <= 64) return few_tokens<T, 64, kWide>(a, w, variant, stream);
  many_tokens<T, kWide>(a, w, variant, stream);
}

}  // namespace deploykit::cuda
