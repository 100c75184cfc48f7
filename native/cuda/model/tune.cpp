// Which algorithm of the library each large product takes: measured once, while loading.
#include <algorithm>

#include "cuda/model/transformer.h"

namespace deploykit::cuda {
namespace {

constexpr int kCandidates = 8;  // algorithms that are timed for each shape

}  // namespace

// Products that the library does get their algorithm by time, once for each shape.
void Transformer::plan_products(cudaStream_t stream) {
  std::vector<int32_t> counts;
  for (int32_t m = 8; m <= std::min<int64_t>(max_tokens_, 256); m += m < 64 ? 8 : 32) counts.push_back(m);
  for (int32_t m = 320; m <= std::min<int64_t>(max_tokens_, 1024); m += 64) counts.push_back(m);  // mixed steps
  for (int32_t m = 1536; m <= max_tokens_; m += m < 4096 ? 512 : m) counts.push_back(m);
  const auto plan = [&](const Matrix& matrix, const void* x, void* y, bool y_f32, bool residual, int64_t most) {
    for (const int32_t m : counts) {
      if (m > most) break;
      LinearCall call = product(matrix, m, x, y, matrix.n);
      call.y_f32 = y_f32;
      if (residual) {
        call.epilogue = Epilogue::residual;
        call.residual = y;
        call.residual_stride = matrix.n;
      }
      linear_->plan(matrix, call, kCandidates, stream);
    }
  };
  const LayerWeights& first = weights_.layer(0);
  plan(first.qkv, normed_.get(), qkv_.get(), false, false, max_tokens_);
  plan(first.o, attended_.get(), x_.get(), false, true, max_tokens_);
  const auto with = [&](bool routed) -> const LayerWeights* {  // the first layer whose MLP is so
    for (size_t i = 0; i < model_.layers.size(); ++i) {
      if ((model_.layers[i].mlp.moe.experts > 0) == routed) return &weights_.layer(i);
    }
    return nullptr;
  };
  if (const LayerWeights* dense = with(false)) {
    plan(dense->up, normed_.get(), up_.get(), false, false, max_tokens_);
    plan(dense->down, inner_.get(), x_.get(), false, true, max_tokens_);
  }
  if (const LayerWeights* routed = with(true)) {
    plan(routed->experts.router, normed_.get(), router_logits_.get(), true, false, routed_tokens_);
  }
  plan(weights_.head(), last_.get(), logits_.get(), true, false, max_rows_);
}

}  // namespace deploykit::cuda
