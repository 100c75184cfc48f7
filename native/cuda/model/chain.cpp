// Decodes of a few tokens with 4-bit weights: what stands between two attentions is one kernel (w4_chain).
#include "cuda/model/transformer.h"

namespace deploykit::cuda {
namespace {

// Bytes of a layer's products from which one kernel is ahead of four: below, its blocks meet for longer than the weights
// take (measured on an H100, bench/cuda/NOTES-w4.md).
constexpr int64_t kChainedLeastBytes = int64_t{64} << 20;

}  // namespace

int32_t Transformer::chainable() const {
  int32_t most = kW4ChainMaxM;
  const int32_t group = weights_.layer(0).o.w4.group;
  for (size_t i = 0; i < model_.layers.size(); ++i) {
    const LayerSpec& layer = model_.layers[i];
    const LayerWeights& w = weights_.layer(i);
    const bool plain = model_.norm.kind == NormKind::rms && layer.mlp.moe.experts == 0 && layer.mlp.gated &&
                       w.attn_norm != nullptr && w.attn_norm_bias == nullptr && w.attn_post_norm == nullptr &&
                       w.mlp_norm != nullptr && w.mlp_norm_bias == nullptr && w.mlp_post_norm == nullptr;
    if (!plain) return 0;
    int64_t bytes = 0;
    for (const Matrix* matrix : {&w.qkv, &w.o, &w.up, &w.down}) {
      if (!matrix->quantized || matrix->w4.group != group) return 0;
      bytes += w4_data_bytes(matrix->n, matrix->k) + w4_param_bytes(matrix->n, matrix->k, group);
      while (most > 0 && !w4_chain_takes(matrix->w4, most)) --most;
    }
    if (bytes < kChainedLeastBytes) return 0;
  }
  return most;
}

bool Transformer::chained(const ForwardArgs& args) const {
  return args.tokens <= chained_tokens_ && args.tokens == args.slices;
}

void Transformer::chain(size_t index, const ForwardArgs& args, cudaStream_t stream) {
  const LayerSpec& layer = model_.layers[index];
  const LayerWeights& w = weights_.layer(index);
  W4ChainLink links[kW4ChainMost];
  int32_t count = 0;
  const auto link = [&](const Matrix& matrix, const void* x, void* y, int64_t y_stride) -> LinearCall& {
    links[count] = {product(matrix, args.tokens, x, y, y_stride), &matrix.w4};
    return links[count++].call;
  };
  fuse_residual(link(w.o, attended_.get(), x_.get(), model_.hidden), layer.residual_multiplier);
  LinearCall& up = link(w.up, x_.get(), inner_.get(), layer.mlp.intermediate);
  up.epilogue = Epilogue::gated;
  up.activation = layer.mlp.activation;
  fuse_norm(up, w.mlp_norm);
  fuse_residual(link(w.down, inner_.get(), x_.get(), model_.hidden), layer.residual_multiplier);
  if (index + 1 < model_.layers.size()) {
    const LayerWeights& next = weights_.layer(index + 1);
    fuse_norm(link(next.qkv, x_.get(), qkv_.get(), next.qkv.n), next.attn_norm);
  }
  w4_chain(links, count, arrivals_.get(), stream);
}

}  // namespace deploykit::cuda
