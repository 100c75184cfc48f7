// A layer's routed experts: the router's product, slots sorted by expert on the device, all experts' products at once,
// and each token's results added in the order of its ranking.
#include <algorithm>

#include "cuda/model/transformer.h"

namespace deploykit::cuda {
namespace {

// Of the slots' rows (gate-up's results and down's): a step with more is routed in parts, which read the experts again.
constexpr int64_t kSlotBytes = int64_t{1} << 30;
constexpr int64_t kLeastTokens = 512;

ExpertMatrix every(const Matrix& first, int32_t count) {
  ExpertMatrix all;
  all.experts = count;
  all.n = first.n;
  all.k = first.k;
  all.dense = first.dense;
  all.w4 = first.w4;
  all.bias = first.bias;
  return all;
}

}  // namespace

int64_t Transformer::slot_width(const LayerSpec& layer) const {
  return layer.mlp.moe.top_k * (int64_t{layer.mlp.intermediate} + model_.hidden);
}

void Transformer::reserve_routed() {
  int64_t width = 0, experts = 0;
  for (const LayerSpec& layer : model_.layers) {
    if (layer.mlp.moe.experts == 0) continue;
    width = std::max(width, slot_width(layer));
    experts = std::max<int64_t>(experts, layer.mlp.moe.experts);
  }
  if (experts == 0) return;
  routed_tokens_ = std::min(max_tokens_, std::max(kSlotBytes / (2 * width) / kLeastTokens * kLeastTokens, kLeastTokens));
  slots_.allocate(routed_tokens_ * width);
  router_logits_.allocate(routed_tokens_ * ((experts + 15) / 16 * 16));
  int64_t bytes = 0;
  for (const LayerSpec& layer : model_.layers) {
    if (layer.mlp.moe.experts > 0) bytes = std::max(bytes, moe_routes_bytes(routed_tokens_, layer.mlp.moe));
  }
  routes_.allocate(bytes);
}

void Transformer::routed_half(size_t index, const ForwardArgs& args, cudaStream_t stream) {
  const LayerSpec& layer = model_.layers[index];
  const LayerWeights& weights = weights_.layer(index);
  const bool few = stops_early(index, args);
  const int32_t tokens = few ? args.slices : args.tokens;
  const bool post_norm = weights.mlp_post_norm != nullptr;
  const int64_t hidden = model_.hidden, inner = layer.mlp.intermediate;
  const MoeSpec& spec = layer.mlp.moe;
  const Experts& experts = weights.experts;
  const ExpertMatrix up = every(experts.up, experts.count), down = every(experts.down, experts.count);
  const auto* in = static_cast<const uint16_t*>(
      normalized(weights.mlp_norm, weights.mlp_norm_bias, tokens, Linear::fuses_epilogue(experts.router, tokens), stream));
  const auto most = static_cast<int32_t>(routed_tokens_);
  for (int32_t first = 0; first < tokens; first += most) {
    const int32_t count = std::min(tokens - first, most);
    const MoeRoutes routes = moe_routes(routes_.get(), routed_tokens_, spec);
    LinearCall route = product(experts.router, count, in + first * hidden, router_logits_.get(), experts.router.n);
    route.y_f32 = true;
    linear_->run(experts.router, route, stream);
    // Rows that wait in a captured step are padding. Where only last tokens are left, each is of a row.
    moe_route(spec, router_logits_.get(), experts.router.n, count, few ? nullptr : args.step.token_rows + first, routes,
              stream);
    ExpertCall expand;
    expand.dtype = dtype_;
    expand.tokens = count;
    expand.x = route.x;
    expand.x_stride = hidden;
    expand.y = slots_.get();
    expand.y_stride = inner;
    expand.gated = layer.mlp.gated;
    expand.activation = layer.mlp.activation;
    uint16_t* behind = slots_.get() + routed_tokens_ * spec.top_k * inner;  // x by slot, and in its place down's results
    expand.gathered = behind;
    moe_expand(spec, expand, up, routes, stream);
    ExpertCall contract;
    contract.dtype = dtype_;
    contract.tokens = count;
    contract.x = slots_.get();
    contract.x_stride = inner;
    contract.y = behind;
    contract.y_stride = hidden;
    moe_contract(spec, contract, down, routes, stream);
    MoeCombineCall sum;
    sum.dtype = dtype_;
    sum.tokens = count;
    sum.n = hidden;
    sum.out = contract.y;
    sum.out_stride = hidden;
    sum.y = (post_norm ? branch_ : x_).get() + first * hidden;
    sum.y_stride = hidden;
    if (!post_norm) {
      sum.residual = sum.y;
      sum.residual_stride = hidden;
      sum.scale = layer.residual_multiplier;
    }
    moe_combine(spec, sum, routes, stream);
  }
  if (post_norm) {
    add_normed(weights.mlp_post_norm, weights.mlp_post_norm_bias, layer.residual_multiplier, tokens, stream);
  }
}

}  // namespace deploykit::cuda
