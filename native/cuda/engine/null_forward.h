#pragma once

#include "cuda/engine/device.h"
#include "cuda/engine/forward.h"

namespace deploykit::cuda {

class NullForward : public CudaForward {
 public:
  NullForward(const ModelDescription& model, const EngineOptions& options);
  void load_weight(const WeightTensor& tensor) override {
    throw Error("invalid", "the empty model takes no weights: " + tensor.spec.name);
  }
  void finish_loading(uint8_t*, cudaStream_t) override {}
  int64_t weight_bytes() const override { return 0; }
  int64_t scratch_bytes() const override { return logits_.bytes(); }
  int64_t block_bytes() const override { return 64; }
  void forward(const ForwardArgs& args, cudaStream_t stream) override;
  float* logits() override { return logits_.get(); }
  void logits_of(int32_t first, int32_t count, float* out, cudaStream_t stream) override;
  std::vector<float> hidden_of(int32_t index, cudaStream_t stream) override;
  void set_overrides(std::vector<Override>) override {}
  std::vector<std::pair<std::string, std::string>> info() const override { return {{"model", "empty"}}; }

 private:
  int32_t vocab_, hidden_;
  DeviceBuffer<float> logits_;
  StepArrays last_{};
};

}  // namespace deploykit::cuda
