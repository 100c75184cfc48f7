// An Engine over a synchronous ForwardModel: row tables, sampling and results on the host. Overlap depth 0: a step's
// books are kept in launch(), its work is done in collect(), and one step is out at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/forward.h"
#include "core/manifest.h"
#include "core/rows.h"
#include "core/sampler.h"

namespace deploykit {

class HostEngine : public Engine {
 public:
  HostEngine(std::unique_ptr<ForwardModel> model, int32_t hidden, int32_t vocab,
             const std::vector<WeightSpec>& manifest, const EngineOptions& options);

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
  struct Embeddings {
    std::vector<float> data;  // [count, hidden]
    int64_t count = 0;
  };
  // A token of the batch whose final state is wanted, and what for; one of the three.
  struct Wanted {
    int32_t item = 0;  // index into the step's rows
    int32_t token = 0;  // of the batch
    int32_t following = -1;  // score this token under its logits
    bool draw = false, pool = false;
  };
  // What a launched step holds and what it has produced, by row of the step.
  struct Item {
    int32_t row = 0, epoch = 0, count = 0, flags = 0;
    bool live = false;
    int32_t finish = kFinishNone;
    const Mask* mask = nullptr;
    std::vector<int32_t> tokens;
    std::vector<TokenLogprob> logprobs, prompt_logprobs;
    std::string fail_code, fail_reason;
  };
  struct Launched {
    bool out = false, sampled = false;
    int64_t seq = 0;
    int32_t iterations = 1;
    std::vector<Item> items;
    size_t count = 0;  // of items: their memory is used again
    std::vector<std::pair<int32_t, Mask>> masks;
  };
  class Borrowed;

  StepResult compute();
  void admit_items();
  bool admissible(Item& item);
  void iterate(int32_t iteration, StepResult& result);
  void build_batch(int32_t iteration);
  bool add_embeddings(Item& item, const Row& row, const RowSlice& slice);
  void add_wanted(const Item& item, int32_t index, const Row& row, const RowSlice& slice, int32_t iteration);
  void read_wanted(StepResult& result);
  void sample_slice(size_t first, size_t count);
  void take(Item& item, SampledToken& drawn);
  void pool(Item& item, int64_t index, StepResult& result);
  void fail(Item& item, const std::string& code, const std::string& reason);
  bool goes_on(const Item& item);
  void finish_result(StepResult& result);

  std::unique_ptr<ForwardModel> model_;
  const EngineOptions options_;
  const int32_t hidden_, vocab_;
  WeightLedger ledger_;
  bool loaded_ = false;
  std::unique_ptr<RowTable> table_;
  std::unordered_map<std::string, Embeddings> embeddings_;
  std::vector<bool> tainted_;  // by block: a row that failed with values that are no numbers may have left some here

  Launched step_;
  Batch batch_;
  std::vector<Wanted> wanted_;
  int64_t slice_rows_ = 0;            // rows whose logits exist at once
  std::unique_ptr<float[]> logits_;  // [slice_rows, vocab]
  std::vector<SampledToken> drawn_;  // [slice_rows]
  std::vector<TokenLogprob> scores_;
  std::vector<char> finite_;
  std::mutex scratch_lock_;
  std::vector<std::unique_ptr<SamplerScratch>> scratch_;
};

}  // namespace deploykit
