#include "cuda/model/transformer.h"

#include <algorithm>

#include "cuda/model/place.h"

namespace deploykit::cuda {
namespace {

constexpr int64_t kUnpackedTokens = 65536;  // of one layer's KV memory, where it is quantized

}  // namespace

Transformer::Transformer(const ModelDescription& model, const std::vector<WeightSpec>& manifest,
                         const EngineOptions& options)
    : model_(model),
      options_(options),
      weights_(model, manifest, options.dtype, options.int8_head),
      dtype_(options.dtype),
      max_tokens_(GemmLt::bucket(std::max(options.max_step_tokens, options.max_rows))),
      max_rows_(GemmLt::bucket(options.max_rows)) {
  for (const LayerSpec& layer : model.layers) {
    const AttentionSpec& attention = layer.attention;
    const int64_t heads = attention.heads + 2 * int64_t{attention.kv_heads};
    qkv_width_ = std::max(qkv_width_, heads * attention.head_dim);
    if (layer.mlp.moe.experts == 0) {
      inner_width_ = std::max<int64_t>(inner_width_, layer.mlp.intermediate);
      up_width_ = std::max<int64_t>(up_width_, int64_t{layer.mlp.intermediate} * (layer.mlp.gated ? 2 : 1));
    }
    layer_offsets_.push_back(block_bytes_);
    block_bytes_ += attention.kv_heads * kv_head_bytes(options.kv, options.block_len, attention.head_dim);
    block_bytes_ = (block_bytes_ + 15) / 16 * 16;
  }
}

void Transformer::load_weight(const WeightTensor& tensor) { weights_.load(tensor, load_stream_.get()); }

int64_t Transformer::scratch_bytes() const {
  int64_t bytes = logits_.bytes() + attention_workspace_.bytes() + unpacked_.bytes() + plan_.bytes() +
                  (linear_ ? linear_->scratch_bytes() : 0);
  bytes += arrivals_.bytes();
  for (const auto* buffer : {&x_, &normed_, &qkv_, &attended_, &up_, &inner_, &branch_, &last_, &slots_})
    bytes += buffer->bytes();
  bytes += router_logits_.bytes() + routes_.bytes();
  return bytes;
}

void Transformer::finish_loading(uint8_t* pool, cudaStream_t stream) {
  weights_.finish(load_stream_.get());
  pool_ = pool;
  const int64_t hidden = model_.hidden;
  x_.allocate(max_tokens_ * hidden);
  normed_.allocate(max_tokens_ * hidden);
  branch_.allocate(max_tokens_ * hidden);
  qkv_.allocate(max_tokens_ * qkv_width_);
  attended_.allocate(max_tokens_ * qkv_width_);
  up_.allocate(max_tokens_ * up_width_);
  inner_.allocate(max_tokens_ * inner_width_);
  reserve_routed();
  last_.allocate(max_rows_ * hidden);
  logits_.allocate(max_rows_ * model_.vocab);
  int64_t workspace = 0, dequantized = 0;
  for (size_t i = 0; i < model_.layers.size(); ++i) {
    const AttentionSpec& a = model_.layers[i].attention;
    const int64_t needed =
        planned(a) ? attention_planned_workspace_bytes(options_.max_rows, a.heads, a.kv_heads, a.head_dim)
                   : attention_decode_workspace_bytes(options_.max_rows, a.heads, a.kv_heads, a.head_dim, kMaxDecodeSplits);
    workspace = std::max(workspace, needed);
    const LayerWeights& w = weights_.layer(i);
    for (const Matrix* matrix : {&w.qkv, &w.o, &w.up, &w.down}) {
      if (matrix->quantized) dequantized = std::max(dequantized, matrix->n * matrix->k);
    }
  }
  if (const Matrix& head = weights_.head(); head.quantized) dequantized = std::max(dequantized, head.n * head.k);
  attention_workspace_.allocate(workspace + 65536);
  DK_CUDA(cudaMemset(attention_workspace_.get(), 0, static_cast<size_t>(attention_workspace_.bytes())));
  const AttentionSpec& first = model_.layers[0].attention;
  plan_.allocate((attention_plan_bytes(options_.max_rows, first.heads, first.kv_heads) + 3) / 4);
  for (const Rope& rope : model_.ropes) {
    DeviceBuffer<float> table(static_cast<int64_t>(rope.inv_freq.size()));
    DK_CUDA(cudaMemcpy(table.get(), rope.inv_freq.data(), static_cast<size_t>(table.bytes()), cudaMemcpyHostToDevice));
    inv_freq_.push_back(std::move(table));
  }
  linear_ = std::make_unique<Linear>(dtype_, dequantized);
  chained_tokens_ = chainable();
  arrivals_.allocate(1);
  DK_CUDA(cudaMemset(arrivals_.get(), 0, sizeof(uint32_t)));
  if (options_.kv != KvType::f16 && options_.kv != KvType::bf16) {
    int64_t block = 0;
    for (const LayerSpec& layer : model_.layers) {
      const AttentionSpec& a = layer.attention;
      block = std::max(block, a.kv_heads * kv_head_bytes(KvType::bf16, options_.block_len, a.head_dim));
    }
    const int64_t tokens = std::max<int64_t>(options_.session_len, kUnpackedTokens);
    unpacked_blocks_ = (tokens + options_.block_len - 1) / options_.block_len;
    unpacked_.allocate(unpacked_blocks_ * block);
    // 0, 1, 2, ...: the block table of any group (its rows follow one another) and the row of every sequence.
    std::vector<int32_t> counting(static_cast<size_t>(unpacked_blocks_));
    for (size_t i = 0; i < counting.size(); ++i) counting[i] = static_cast<int32_t>(i);
    unpacked_table_.allocate(unpacked_blocks_);
    DK_CUDA(cudaMemcpy(unpacked_table_.get(), counting.data(), counting.size() * 4, cudaMemcpyHostToDevice));
  }
  plan_products(stream);
}

void Transformer::embed_tokens(const ForwardArgs& args, cudaStream_t stream) {
  const int64_t hidden = model_.hidden;
  embed(dtype_, weights_.embedding(), model_.vocab, hidden, model_.embedding_multiplier, args.step.token_ids, args.tokens,
        x_.get(), hidden, stream);
  for (const Override& span : overrides_) {
    place_rows(DType::f32, span.data, 0, span.count, hidden, dtype_, x_.get(), span.first, RowMap::plain, stream);
  }
}

const void* Transformer::normalized(void* weight, void* bias, int32_t tokens, bool frees_next, cudaStream_t stream) {
  if (weight == nullptr) return x_.get();
  NormCall pre;
  pre.dtype = dtype_;
  pre.norm = model_.norm;
  pre.weight = weight;
  pre.bias = bias;
  pre.rows = tokens;
  pre.n = model_.hidden;
  pre.x = x_.get();
  pre.x_stride = model_.hidden;
  pre.y = normed_.get();
  pre.y_stride = model_.hidden;
  pre.frees_next = frees_next;
  norm(pre, stream);
  return normed_.get();
}

LinearCall Transformer::product(const Matrix& matrix, int32_t tokens, const void* x, void* y, int64_t y_stride) const {
  LinearCall call;
  call.dtype = dtype_;
  call.m = tokens;
  call.x = x;
  call.x_stride = matrix.k;
  call.y = y;
  call.y_stride = y_stride;
  call.bias = matrix.bias;
  return call;
}

void Transformer::fuse_norm(LinearCall& call, const void* weight) const {
  call.norm_weight = weight;
  call.norm_eps = model_.norm.eps;
  call.norm_offset = model_.norm.weight_offset;
}

void Transformer::fuse_residual(LinearCall& call, float multiplier) const {
  call.y = x_.get();
  call.y_stride = model_.hidden;
  call.epilogue = Epilogue::residual;
  call.residual = x_.get();
  call.residual_stride = model_.hidden;
  call.residual_scale = multiplier;
}

void Transformer::normed_linear(const Matrix& matrix, void* weight, void* bias, LinearCall call, cudaStream_t stream) {
  if (weight != nullptr && model_.norm.kind == NormKind::rms && bias == nullptr && Linear::fuses_norm(call.m)) {
    fuse_norm(call, weight);
  } else {
    // The product is one of our kernels where its epilogue is fused.
    call.x = normalized(weight, bias, call.m, Linear::fuses_epilogue(matrix, call.m), stream);
  }
  linear_->run(matrix, call, stream);
}

void Transformer::add_branch(const Matrix& matrix, const void* x, void* post_norm, void* post_bias, float multiplier,
                             int32_t tokens, cudaStream_t stream) {
  LinearCall call = product(matrix, tokens, x, branch_.get(), model_.hidden);
  const bool fused = post_norm == nullptr && (multiplier == 1.0f || Linear::fuses_epilogue(matrix, tokens));
  if (fused) fuse_residual(call, multiplier);
  linear_->run(matrix, call, stream);
  if (!fused) add_normed(post_norm, post_bias, multiplier, tokens, stream);
}

void Transformer::add_normed(void* post_norm, void* post_bias, float multiplier, int32_t tokens, cudaStream_t stream) {
  const int64_t hidden = model_.hidden;
  if (post_norm == nullptr) {
    add_scaled(dtype_, x_.get(), hidden, branch_.get(), hidden, multiplier, tokens, hidden, stream);
    return;
  }
  NormCall post;
  post.dtype = dtype_;
  post.norm = model_.norm;
  post.weight = post_norm;
  post.bias = post_bias;
  post.rows = tokens;
  post.n = hidden;
  post.x = branch_.get();
  post.x_stride = hidden;
  post.y = branch_.get();
  post.y_stride = hidden;
  norm(post, stream);
  add_scaled(dtype_, x_.get(), hidden, branch_.get(), hidden, multiplier, tokens, hidden, stream);
}

void Transformer::project(size_t index, const ForwardArgs& args, cudaStream_t stream) {
  const LayerWeights& weights = weights_.layer(index);
  normed_linear(weights.qkv, weights.attn_norm, weights.attn_norm_bias,
                product(weights.qkv, args.tokens, x_.get(), qkv_.get(), weights.qkv.n), stream);
}

void Transformer::normalize_heads(size_t index, const ForwardArgs& args, cudaStream_t stream) {
  const AttentionSpec& spec = model_.layers[index].attention;
  if (spec.qk_norm != QkNorm::full) return;
  const LayerWeights& weights = weights_.layer(index);
  const int64_t q_width = int64_t{spec.heads} * spec.head_dim, kv_width = int64_t{spec.kv_heads} * spec.head_dim;
  const int64_t width = q_width + 2 * kv_width;
  for (const bool query : {true, false}) {
    NormCall full;
    full.dtype = dtype_;
    full.norm = model_.norm;
    full.weight = query ? weights.q_norm : weights.k_norm;
    full.rows = args.tokens;
    full.n = query ? q_width : kv_width;
    full.x = qkv_.get() + (query ? 0 : q_width);
    full.x_stride = width;
    full.y = qkv_.get() + (query ? 0 : q_width);
    full.y_stride = width;
    norm(full, stream);
  }
}

void Transformer::attended_half(size_t index, const ForwardArgs& args, cudaStream_t stream) {
  const LayerSpec& layer = model_.layers[index];
  const LayerWeights& weights = weights_.layer(index);
  const int64_t q_width = int64_t{layer.attention.heads} * layer.attention.head_dim, hidden = model_.hidden;
  const void* attended = attended_.get();
  int32_t tokens = args.tokens;
  if (stops_early(index, args)) {  // from here on only each slice's last token is worth computing
    take_rows(x_.get(), hidden, args.step.last, args.slices, hidden, normed_.get(), stream);
    DK_CUDA(cudaMemcpyAsync(x_.get(), normed_.get(), static_cast<size_t>(args.slices * hidden * 2),
                            cudaMemcpyDeviceToDevice, stream));
    take_rows(attended_.get(), q_width, args.step.last, args.slices, q_width, qkv_.get(), stream);
    attended = qkv_.get();
    tokens = args.slices;
  }
  add_branch(weights.o, attended, weights.attn_post_norm, weights.attn_post_norm_bias, layer.residual_multiplier, tokens,
             stream);
}

bool Transformer::stops_early(size_t index, const ForwardArgs& args) const {
  return index + 1 == model_.layers.size() && !args.every_token && args.tokens > args.slices;
}

void Transformer::mlp_half(size_t index, const ForwardArgs& args, cudaStream_t stream) {
  const LayerSpec& layer = model_.layers[index];
  const LayerWeights& weights = weights_.layer(index);
  const int64_t inner = layer.mlp.intermediate;
  const int32_t tokens = stops_early(index, args) ? args.slices : args.tokens;
  const bool fused = layer.mlp.gated && Linear::fuses_gate(weights.up, tokens), apart = layer.mlp.gated && !fused;
  LinearCall call = product(weights.up, tokens, x_.get(), (apart ? up_ : inner_).get(), apart ? 2 * inner : inner);
  call.activation = layer.mlp.activation;
  if (fused) call.epilogue = Epilogue::gated;
  normed_linear(weights.up, weights.mlp_norm, weights.mlp_norm_bias, call, stream);
  if (apart) {
    gate_activate(dtype_, layer.mlp.activation, up_.get(), 2 * inner, tokens, inner, inner_.get(), inner, stream);
  } else if (!fused) {
    activate(dtype_, layer.mlp.activation, inner_.get(), inner, tokens, inner, stream);
  }
  add_branch(weights.down, inner_.get(), weights.mlp_post_norm, weights.mlp_post_norm_bias, layer.residual_multiplier, tokens,
             stream);
}

void Transformer::forward(const ForwardArgs& args, cudaStream_t stream) {
  rows_ = args.rows;
  if (const int32_t singles = single_tokens(args); singles > 0) {
    const AttentionSpec& first = model_.layers[0].attention;
    attention_plan(singles, first.heads, first.kv_heads, args.step.token_rows, args.step.positions, plan_.get(), stream);
  }
  embed_tokens(args, stream);
  const bool chain_all = chained(args);
  for (size_t i = 0; i < model_.layers.size(); ++i) {
    if (i == 0 || !chain_all) project(i, args, stream);
    normalize_heads(i, args, stream);
    attend(i, args, stream);
    if (chain_all) {
      chain(i, args, stream);
      continue;
    }
    attended_half(i, args, stream);
    if (model_.layers[i].mlp.moe.experts > 0) {
      routed_half(i, args, stream);
    } else {
      mlp_half(i, args, stream);
    }
  }
  const bool compact = args.decode || stops_early(model_.layers.size() - 1, args);
  final_norm(compact ? nullptr : args.step.last, x_.get(), args.slices, last_.get(), stream);
  head(last_.get(), args.slices, logits_.get(), stream);
}

std::vector<std::pair<std::string, std::string>> Transformer::info() const {
  std::vector<std::pair<std::string, std::string>> facts = {
      {"layers", std::to_string(model_.layers.size())},
      {"weights", weights_.any_quantized() ? "4-bit" : "16-bit"},
      {"activations", dtype_ == DType::bf16 ? "bf16" : "f16"}};
  if (options_.int8_head) facts.emplace_back("int8_head_error", weights_.rounding().relative());
  return facts;
}

}  // namespace deploykit::cuda
