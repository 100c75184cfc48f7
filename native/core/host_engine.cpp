#include "core/host_engine.h"

#include <algorithm>
#include <new>

#include "deploykit/error.h"

namespace deploykit {
namespace {

constexpr int64_t kLogitBytes = int64_t{32} << 20;  // of logits that exist at once, where that is 8 rows or more

std::string number(int64_t value) { return std::to_string(value); }

int64_t rows_at_once(const EngineOptions& options, int32_t vocab) {
  const int64_t fit = kLogitBytes / (int64_t{vocab} * int64_t{sizeof(float)});
  const int64_t useful = std::min<int64_t>(std::max(options.max_rows, 16), options.max_step_tokens);
  return std::max<int64_t>(1, std::min(std::min<int64_t>(std::max<int64_t>(fit, 8), 64), useful));
}

}  // namespace

HostEngine::HostEngine(std::unique_ptr<ForwardModel> model, int32_t hidden, int32_t vocab,
                       const std::vector<WeightSpec>& manifest, const EngineOptions& options)
    : model_(std::move(model)), options_(options), hidden_(hidden), vocab_(vocab), ledger_(manifest) {}

// ---------------------------------------------------------------- loading

void HostEngine::load_weight(const WeightTensor& tensor) {
  if (loaded_) throw Error("invalid", "weight '" + tensor.spec.name + "' comes after finish_loading");
  ledger_.check(tensor);
  model_->load_weight(tensor);
  ledger_.given(tensor.spec.name);
}

Capacity HostEngine::finish_loading() {
  if (loaded_) throw Error("invalid", "finish_loading was called already");
  ledger_.check_complete();
  model_->finish_loading();
  table_ = std::make_unique<RowTable>(RowTable::Shape{options_.max_rows, options_.session_len, options_.block_len,
                                                      vocab_, options_.num_blocks});
  tainted_.assign(static_cast<size_t>(options_.num_blocks), false);
  slice_rows_ = rows_at_once(options_, vocab_);
  // Not initialized: pages come when they are used.
  logits_.reset(new float[static_cast<size_t>(slice_rows_ * vocab_)]);
  drawn_.resize(static_cast<size_t>(slice_rows_));
  scores_.resize(drawn_.size());
  finite_.resize(drawn_.size());
  scratch_.reserve(static_cast<size_t>(options_.threads) + 1);
  loaded_ = true;
  Capacity capacity = model_->capacity();
  capacity.max_rows = options_.max_rows;
  capacity.overlap_depth = 0;
  capacity.block_len = options_.block_len;
  capacity.num_blocks = options_.num_blocks;
  capacity.session_len = options_.session_len;
  capacity.vocab = vocab_;
  capacity.max_step_tokens = options_.max_step_tokens;
  capacity.scratch_bytes += slice_rows_ * vocab_ * int64_t{sizeof(float)} + table_->bytes();
  return capacity;
}

void HostEngine::put_embeddings(const std::string& handle, const float* data, int64_t count) {
  if (handle.empty() || data == nullptr || count < 1) throw Error("invalid", "embeddings need a handle and rows");
  Embeddings& slot = embeddings_[handle];
  slot.data.assign(data, data + count * hidden_);
  slot.count = count;
}

void HostEngine::drop_embeddings(const std::string& handle) { embeddings_.erase(handle); }

std::vector<std::pair<std::string, std::string>> HostEngine::info() const { return model_->info(); }

// ---------------------------------------------------------------- the step

void HostEngine::launch(const Step& step) {
  if (!loaded_) throw Error("invalid", "step " + number(step.seq) + " comes before finish_loading");
  if (step_.out) {
    throw Error("invalid", "step " + number(step.seq) + " comes before step " + number(step_.seq) + " was collected");
  }
  table_->apply(step);
  for (int32_t block : table_->fresh_blocks()) {
    if (!tainted_[static_cast<size_t>(block)]) continue;
    model_->scrub_block(block);
    tainted_[static_cast<size_t>(block)] = false;
  }
  for (const Copy& copy : step.copies) {
    model_->copy_block(copy.src, copy.dst);
    tainted_[static_cast<size_t>(copy.dst)] = tainted_[static_cast<size_t>(copy.src)];
  }
  step_.count = step.rows.size();
  if (step_.items.size() < step_.count) step_.items.resize(step_.count);
  for (size_t i = 0; i < step_.count; ++i) {
    Item& item = step_.items[i];
    item.row = step.rows[i];
    item.epoch = step.epochs[i];
    item.count = step.num_tokens[i];
    item.flags = step.flags[i];
    item.live = false;
    item.finish = kFinishNone;
    item.mask = nullptr;
    item.tokens.clear();
    item.logprobs.clear();
    item.prompt_logprobs.clear();
    item.fail_code.clear();
    item.fail_reason.clear();
  }
  step_.seq = step.seq;
  step_.iterations = step.iterations;
  step_.sampled = false;
  step_.masks.clear();
  step_.out = true;
}

void HostEngine::sample(int64_t seq, const std::vector<std::pair<int32_t, Mask>>& masks) {
  if (!step_.out || step_.seq != seq) {
    throw Error("invalid", "masks come for step " + number(seq) + ", which is not out");
  }
  step_.masks = masks;
  step_.sampled = true;
}

void HostEngine::forget() { step_.out = false; }

StepResult HostEngine::collect(int64_t seq) {
  if (!step_.out || step_.seq != seq) {
    throw Error("invalid", "step " + number(seq) + " is not the one that was launched");
  }
  step_.out = false;
  try {
    return compute();
  } catch (const Error&) {
    throw;
  } catch (const std::bad_alloc&) {
    throw Error("memory", "step " + number(seq) + ": out of memory");
  } catch (const std::exception& error) {
    throw Error("internal", "step " + number(seq) + ": " + error.what());
  }
}

}  // namespace deploykit
