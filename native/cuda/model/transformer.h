// The forward of a ModelDescription on CUDA: kernels/ for what is small, cuBLASLt for large products.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cuda/engine/device.h"
#include "cuda/engine/forward.h"
#include "cuda/model/linear.h"
#include "cuda/model/weights.h"

namespace deploykit::cuda {

inline constexpr int32_t kMaxDecodeSplits = 32;  // of a row, where a step has no plan of decode attention

class Transformer : public CudaForward {
 public:
  Transformer(const ModelDescription& model, const std::vector<WeightSpec>& manifest, const EngineOptions& options);

  void load_weight(const WeightTensor& tensor) override;
  void finish_loading(uint8_t* pool, cudaStream_t stream) override;
  int64_t weight_bytes() const override { return weights_.bytes(); }
  int64_t scratch_bytes() const override;
  int64_t block_bytes() const override { return block_bytes_; }
  void forward(const ForwardArgs& args, cudaStream_t stream) override;
  float* logits() override { return logits_.get(); }
  void logits_of(int32_t first, int32_t count, float* out, cudaStream_t stream) override;
  std::vector<float> hidden_of(int32_t index, cudaStream_t stream) override;
  void set_overrides(std::vector<Override> overrides) override { overrides_ = std::move(overrides); }
  std::vector<std::pair<std::string, std::string>> info() const override;

 private:
  void embed_tokens(const ForwardArgs& args, cudaStream_t stream);
  void project(size_t index, const ForwardArgs& args, cudaStream_t stream);          // queries, keys and values
  void normalize_heads(size_t index, const ForwardArgs& args, cudaStream_t stream);  // QkNorm::full
  // What follows attention, up to the residual stream.
  void attended_half(size_t index, const ForwardArgs& args, cudaStream_t stream);
  // The most tokens that every layer's products can be chained for (w4_chain); 0: none.
  int32_t chainable() const;
  bool chained(const ForwardArgs& args) const;
  // What follows layer `index`'s attention, up to and with the next layer's product for its queries, keys and values.
  void chain(size_t index, const ForwardArgs& args, cudaStream_t stream);
  void mlp_half(size_t index, const ForwardArgs& args, cudaStream_t stream);
  void routed_half(size_t index, const ForwardArgs& args, cudaStream_t stream);
  void reserve_routed();
  // Elements of a token's slots: each has a row of gate-up's results and one of down's.
  int64_t slot_width(const LayerSpec& layer) const;
  RopeCall rope_call(size_t index, const ForwardArgs& args) const;
  AttentionCall attention_call(size_t index, const ForwardArgs& args) const;
  void attend(size_t index, const ForwardArgs& args, cudaStream_t stream);
  void attend_prompts(RopeCall rope, const AttentionCall& call, const KvView& kv, const ForwardArgs& args,
                      cudaStream_t stream);
  static int32_t single_tokens(const ForwardArgs& args);
  bool planned(const AttentionSpec& spec) const;
  // Prefill with quantized KV memory: prompts without a history attend to this step's own keys and values, unrounded; of
  // the others, groups are unpacked first, as many as the scratch holds.
  void attend_quantized(const AttentionCall& call, const KvView& kv, const FreshKv& fresh, const ForwardArgs& args,
                        int32_t singles, cudaStream_t stream);
  // Whether the rest of this layer is computed for each slice's last token alone (it is the last layer of a prefill).
  bool stops_early(size_t index, const ForwardArgs& args) const;
  void plan_products(cudaStream_t stream);
  // The normalized residual stream: normed_, or x_ itself without a norm. `frees_next`: see NormCall.
  const void* normalized(void* weight, void* bias, int32_t tokens, bool frees_next, cudaStream_t stream);
  // qkv or gate-up of the normalized residual stream, the norm inside the product where a kernel can.
  void normed_linear(const Matrix& matrix, void* weight, void* bias, LinearCall call, cudaStream_t stream);
  // A product of `tokens` rows of x, which lie matrix.k elements apart.
  LinearCall product(const Matrix& matrix, int32_t tokens, const void* x, void* y, int64_t y_stride) const;
  void fuse_norm(LinearCall& call, const void* weight) const;
  // y is added to the residual stream, x_.
  void fuse_residual(LinearCall& call, float multiplier) const;
  void add_branch(const Matrix& matrix, const void* x, void* post_norm, void* post_bias, float multiplier, int32_t tokens,
                  cudaStream_t stream);
  // x_ += multiplier * norm(branch_), or branch_ itself without a norm.
  void add_normed(void* post_norm, void* post_bias, float multiplier, int32_t tokens, cudaStream_t stream);
  void head(const void* hidden, int32_t rows, float* out, cudaStream_t stream);
  // The last norm of tokens index[0 .. rows) of the batch, or of the first `rows` where index is nullptr.
  void final_norm(const int32_t* index, const void* x, int32_t rows, void* out, cudaStream_t stream);
  KvView view(size_t layer) const;

  ModelDescription model_;
  EngineOptions options_;
  ModelWeights weights_;
  std::unique_ptr<Linear> linear_;
  Stream load_stream_;
  DType dtype_;
  // Rows of the buffers: upper ends of the library's buckets.
  int64_t max_tokens_ = 0, max_rows_ = 0;
  int64_t qkv_width_ = 0, up_width_ = 0, inner_width_ = 0;
  int64_t block_bytes_ = 0;
  std::vector<int64_t> layer_offsets_;
  std::vector<DeviceBuffer<float>> inv_freq_;
  uint8_t* pool_ = nullptr;
  Rows rows_{};
  DeviceBuffer<uint16_t> x_, normed_, qkv_, attended_, up_, inner_, branch_, last_;
  DeviceBuffer<float> logits_;
  // Layers with experts: of so many tokens at a time.
  int64_t routed_tokens_ = 0;
  DeviceBuffer<uint16_t> slots_;
  DeviceBuffer<float> router_logits_;
  DeviceBuffer<uint8_t> routes_;
  DeviceBuffer<uint8_t> attention_workspace_, unpacked_;
  DeviceBuffer<int32_t> unpacked_table_, plan_;
  Stream side_stream_;
  Event fork_, join_;
  int64_t unpacked_blocks_ = 0;
  int32_t chained_tokens_ = 0;  // steps of so many tokens at most take one kernel from attention to attention
  DeviceBuffer<uint32_t> arrivals_;
  std::vector<Override> overrides_;
};

}  // namespace deploykit::cuda
