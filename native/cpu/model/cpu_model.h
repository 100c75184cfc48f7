// The ForwardModel of the CPU, as tests and benchmarks see it; everyone else uses create_cpu_model.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "cpu/model/pass.h"
#include "cpu/model/weight_store.h"

namespace deploykit::cpu {

class CpuModel final : public ForwardModel {
 public:
  CpuModel(const ModelDescription& model, const std::vector<WeightSpec>& manifest, const EngineOptions& options);

  void load_weight(const WeightTensor& tensor) override;
  void finish_loading() override;
  Capacity capacity() const override;
  void forward(const Batch& batch) override;
  void logits(int64_t first, int64_t count, float* out) override;
  const float* hidden(int64_t index) const override;
  void copy_block(int32_t src, int32_t dst) override;
  void scrub_block(int32_t block) override;
  void parallel_for(int64_t n, const std::function<void(int64_t)>& fn) override;
  std::vector<std::pair<std::string, std::string>> info() const override;
  // Add up where the time goes from here on; nullptr = no longer.
  void set_profile(Profile* profile) { context_.profile = profile; }

 private:
  void run_pass();
  void layers(Worker& worker);
  void compact();
  void head_rows(Worker& worker, const Activations& a, float* out);
  uint8_t* block(int32_t index) const;

  const ModelDescription model_;
  const EngineOptions options_;
  const Isa isa_;
  ThreadPool pool_;
  WeightStore weights_;
  const Program program_;
  Workspace space_;
  const KvLayout layout_;
  Mapping kv_;
  Context context_;
  bool loaded_ = false;
  int64_t wanted_ = 0;  // of the last forward
};

}  // namespace deploykit::cpu
