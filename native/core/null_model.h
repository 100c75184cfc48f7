// DeviceKind::null: a model without weights, to measure what the step API itself costs and to test what drives it.
//
// Its KV memory holds, for each token, a hash of all tokens and positions up to it, made from the entry before (which
// is read through the block table); its logits are a hash of that. So a result depends on the whole prefix and on
// every block of it, and a block that is shared, copied or overwritten wrongly shows in the tokens.
#pragma once

#include <cstdint>
#include <vector>

#include "core/forward.h"

namespace deploykit {

class NullModel : public ForwardModel {
 public:
  NullModel(int32_t hidden, int32_t vocab, int32_t block_len, int64_t num_blocks);

  static int64_t block_bytes(int32_t block_len) { return int64_t{block_len} * int64_t{sizeof(uint64_t)}; }

  void load_weight(const WeightTensor&) override {}
  void finish_loading() override {}
  Capacity capacity() const override;
  void forward(const Batch& batch) override;
  void logits(int64_t first, int64_t count, float* out) override;
  const float* hidden(int64_t index) const override;
  void copy_block(int32_t src, int32_t dst) override;
  void scrub_block(int32_t block) override;
  void parallel_for(int64_t n, const std::function<void(int64_t)>& fn) override;
  std::vector<std::pair<std::string, std::string>> info() const override;

 private:
  uint64_t* block(int32_t index) { return kv_.data() + int64_t{index} * block_len_; }

  int32_t hidden_, vocab_, block_len_;
  int64_t num_blocks_;
  std::vector<uint64_t> kv_;      // [num_blocks, block_len]
  std::vector<uint64_t> states_;  // of the wanted tokens
  mutable std::vector<float> hidden_state_;
};

}  // namespace deploykit
