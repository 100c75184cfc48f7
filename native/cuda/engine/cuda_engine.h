// Engine on one CUDA device: steps are put on a stream and collected later (overlap depth 1). Decode steps are graphs,
// captured once for each batch bucket, that read everything that changes from device memory.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "cuda/engine/device.h"
#include "cuda/engine/forward.h"
#include "cuda/engine/mirror.h"
#include "cuda/engine/sample_kernels.h"
#include "core/sampler.h"
#include "deploykit/engine.h"

namespace deploykit::cuda {

class CudaEngine : public Engine {
 public:
  CudaEngine(const ModelDescription& model, const EngineOptions& options, std::unique_ptr<CudaForward> forward);
  ~CudaEngine() override;

  void load_weight(const WeightTensor& tensor) override;
  Capacity finish_loading() override;
  void launch(const Step& step) override;
  void sample(int64_t seq, const std::vector<std::pair<int32_t, Mask>>& masks) override;
  StepResult collect(int64_t seq) override;
  void forget() override;
  void put_embeddings(const std::string& handle, const float* data, int64_t count) override;
  void drop_embeddings(const std::string& handle) override;
  std::vector<std::pair<std::string, std::string>> info() const override;

 private:
  static constexpr int kSlots = 2;  // steps that may be out at once

  // One slice of a launched step, as the host remembers it.
  struct Slice {
    int32_t row = 0, epoch = 0, count = 0, start = 0, flags = 0;
    int32_t place = -1;  // index on the device, or -1: not computed
    std::string failure_code, failure_reason;
    std::vector<int32_t> drawn;  // on the host
    int32_t finish = 0;
    std::vector<TokenLogprob> logprobs, prompt_logprobs;
    std::vector<float> pooled;
    bool pending = false;  // waits for the host's sampler
  };
  struct Slot {
    PinnedBuffer<uint8_t> message;
    DeviceBuffer<uint8_t> device_message;
    PinnedBuffer<int32_t> inputs;  // rows, counts, flags, cu
    PinnedBuffer<SliceResult> results;
    bool with_logprobs = false;
    PinnedBuffer<SampleLogprobs> logprobs;  // like results, where with_logprobs
    std::unique_ptr<Event> begun, done;
    int64_t seq = 0;
    int32_t iterations = 0, most_iterations = 0;
    int32_t computed = 0;  // slices on the device
    std::vector<Slice> slices;
    std::vector<int32_t> order;  // slices on the device, by place: see arrange()
    int32_t singles = 0, fresh = 0;
    std::vector<std::pair<int32_t, Mask>> masks;
    bool masked = false;
    PinnedBuffer<float> host_logits;  // of slices that the host draws
    std::vector<int32_t> host_rows;   // their places
  };

  void select(const Step& step, Slot& slot);
  void send(Slot& slot, const std::vector<int32_t>& inputs);
  void send_inputs(const std::vector<int32_t>& inputs, int32_t* pinned);
  int64_t room_of(const MirrorRow& row, int32_t start) const;
  void go_on(Slot& slot, std::vector<int32_t> inputs, int32_t iterations);
  void run_decode(Slot& slot, int32_t bucket);
  void arrange(Slot& slot);
  void run_mixed(Slot& slot, int32_t tokens);
  void draw_tokens(int32_t slices, bool greedy);
  bool all_greedy(const Slot& slot);
  // Results of an iteration on their way to the host.
  void fetch(Slot& slot, int32_t iteration);
  void remember_logprobs(const Slot& slot, const MirrorRow& row, Slice& slice, int32_t iteration);
  void after_forward(Slot& slot);
  void scores(Slot& slot);
  void draw_on_host(Slot& slot);
  void copy_blocks(const std::vector<Copy>& copies);
  void scrub(const MirrorRow& row);
  MirrorRow* owner(const Slice& slice);
  int32_t bucket_of(int32_t slices) const;
  Slot& launched(int64_t seq);
  void use_device() const { DK_CUDA(cudaSetDevice(options_.device_index)); }

  ModelDescription model_;
  EngineOptions options_;
  std::unique_ptr<CudaForward> forward_;
  Stream stream_;
  Mirror mirror_;
  MessageParts parts_;

  Drawer drawer_;
  DeviceBuffer<uint32_t> counts_;  // of drawn and prompt tokens, [slots, vocab]
  DeviceBuffer<uint8_t> pool_;  // KV: num_blocks + 1
  DeviceBuffer<int32_t> row_memory_, step_memory_, sampled_;
  DeviceBuffer<RowSampling> row_sampling_;
  DeviceBuffer<SliceResult> results_;
  Rows rows_{};
  StepArrays arrays_{};
  std::vector<int32_t> sent_;  // the inputs that stand on the device
  std::vector<int32_t> buckets_;
  std::unordered_map<int32_t, Graph> graphs_[2];  // by bucket; [1] where every row is greedy
  Slot slots_[kSlots];
  int64_t launched_ = 0, collected_ = 0;  // steps, in order
  std::unordered_map<std::string, DeviceBuffer<float>> embeddings_;
  std::unordered_map<std::string, int64_t> embedding_counts_;
  SamplerScratch sampler_;
  DeviceBuffer<float> score_logits_;
  PinnedBuffer<float> score_host_;
  int32_t max_slices_ = 0;
  bool ready_ = false;
};

}  // namespace deploykit::cuda
