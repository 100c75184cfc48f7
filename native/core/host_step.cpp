// HostEngine::collect's work: what each row may do, the forward, and what is made of its logits.
#include <algorithm>
#include <chrono>
#include <cmath>

#include "core/host_engine.h"
#include "deploykit/error.h"

namespace deploykit {
namespace {

constexpr int32_t kKnownFlags = kWantSample | kWantDeferred | kWantPromptLogprobs | kWantScore | kWantPool;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::string number(int64_t value) { return std::to_string(value); }

}  // namespace

// One of the engine's sampling memories, for the time that a row is sampled.
class HostEngine::Borrowed {
 public:
  explicit Borrowed(HostEngine& engine) : engine_(engine) {
    std::lock_guard<std::mutex> held(engine.scratch_lock_);
    if (!engine.scratch_.empty()) {
      scratch_ = std::move(engine.scratch_.back());
      engine.scratch_.pop_back();
    } else {
      scratch_ = std::make_unique<SamplerScratch>();
    }
  }
  ~Borrowed() {
    std::lock_guard<std::mutex> held(engine_.scratch_lock_);
    engine_.scratch_.push_back(std::move(scratch_));
  }
  SamplerScratch& operator*() { return *scratch_; }

 private:
  HostEngine& engine_;
  std::unique_ptr<SamplerScratch> scratch_;
};

StepResult HostEngine::compute() {
  StepResult result;
  result.seq = step_.seq;
  admit_items();
  for (int32_t iteration = 0; iteration < step_.iterations; ++iteration) {
    bool any = false;
    for (size_t i = 0; i < step_.count; ++i) any |= step_.items[i].live;
    if (!any) break;
    iterate(iteration, result);
    for (size_t i = 0; i < step_.count; ++i) {
      Item& item = step_.items[i];
      item.live = item.live && goes_on(item);
    }
  }
  finish_result(result);
  return result;
}

// Which of the step's rows can be computed; the others get their failure or nothing.
void HostEngine::admit_items() {
  for (const auto& [row, mask] : step_.masks) {
    for (size_t i = 0; i < step_.count; ++i) {
      if (step_.items[i].row == row) step_.items[i].mask = &mask;
    }
  }
  int64_t total = 0;
  for (size_t i = 0; i < step_.count; ++i) {
    Item& item = step_.items[i];
    if ((item.flags & kWantDeferred) != 0 && !step_.sampled) {
      throw Error("invalid", "step " + number(step_.seq) + ": deferred rows were not released by sample()");
    }
    item.live = admissible(item);
    if (item.live) total += item.count;
  }
  if (total > options_.max_step_tokens) {
    throw Error("invalid", "step " + number(step_.seq) + " has " + number(total) + " tokens, more than " +
                               number(options_.max_step_tokens));
  }
}

bool HostEngine::admissible(Item& item) {
  const auto refuse = [&](const char* code, const std::string& reason) {
    item.fail_code = code;
    item.fail_reason = "row " + number(item.row) + " " + reason;
    return false;
  };
  const Row* row = table_->find(item.row, item.epoch);
  if (row == nullptr) return refuse("internal", "is not in epoch " + number(item.epoch));
  if (row->failed()) {
    item.fail_code = row->fail_code;
    item.fail_reason = row->fail_reason;
    return false;
  }
  if (row->finished) return false;  // found finished one step late: nothing to do
  item.count = std::min(item.count, row->known - row->computed);
  if (item.count < 1) return refuse("internal", "has no token to compute");
  const int32_t end = row->computed + item.count;
  if (end > int64_t{row->num_blocks} * options_.block_len) {
    return refuse("internal", "has no block for token " + number(end - 1));
  }
  if ((item.flags & ~kKnownFlags) != 0) return refuse("invalid", "has unknown flags " + number(item.flags));
  if ((item.flags & (kWantSample | kWantPool)) != 0 && end != row->known) {
    return refuse("internal", "wants a result before its last known token");
  }
  if ((item.flags & kWantSample) != 0 && row->known >= row->limit) {
    return refuse("invalid", "is at its limit of " + number(row->limit) + " tokens");
  }
  if ((item.flags & kWantSample) != 0 && (item.flags & kWantDeferred) != 0 && item.mask == nullptr) {
    return refuse("invalid", "is deferred and no mask came for it");
  }
  return true;
}

// One forward over the live rows and one token for each that wants it.
void HostEngine::iterate(int32_t iteration, StepResult& result) {
  const double started = now();
  build_batch(iteration);
  if (!batch_.rows.empty()) {
    model_->forward(batch_);
    for (const RowSlice& slice : batch_.rows) table_->row(slice.row).computed += slice.count;
  }
  result.forward_s += now() - started;
  read_wanted(result);
}

void HostEngine::build_batch(int32_t iteration) {
  batch_.rows.clear();
  batch_.tokens.clear();
  batch_.positions.clear();
  batch_.embeddings.clear();
  batch_.wanted.clear();
  wanted_.clear();
  for (size_t i = 0; i < step_.count; ++i) {
    Item& item = step_.items[i];
    if (!item.live) continue;
    const Row& row = table_->row(item.row);
    RowSlice slice;
    slice.row = item.row;
    slice.first = static_cast<int32_t>(batch_.tokens.size());
    slice.count = iteration == 0 ? item.count : 1;
    slice.start = row.computed;
    slice.blocks = table_->blocks(item.row);
    slice.num_blocks = row.num_blocks;
    if (!add_embeddings(item, row, slice)) continue;
    const int32_t* tokens = table_->tokens(item.row) + slice.start;
    batch_.tokens.insert(batch_.tokens.end(), tokens, tokens + slice.count);
    for (int32_t at = slice.start; at < slice.start + slice.count; ++at) {
      batch_.positions.push_back(table_->position(row, at));
    }
    batch_.rows.push_back(slice);
    add_wanted(item, static_cast<int32_t>(i), row, slice, iteration);
  }
}

// False with the item's failure where a span has no embeddings.
bool HostEngine::add_embeddings(Item& item, const Row& row, const RowSlice& slice) {
  const size_t before = batch_.embeddings.size();
  for (const Span& span : row.spans) {
    const int32_t begin = std::max(slice.start, span.start);
    const int32_t end = std::min(slice.start + slice.count, span.start + span.length);
    if (begin >= end) continue;
    const auto found = embeddings_.find(span.handle);
    if (found == embeddings_.end() || found->second.count < span.length) {
      const int64_t count = found == embeddings_.end() ? 0 : found->second.count;
      fail(item, "invalid", "embeddings '" + span.handle + "' have " + number(count) + " rows; the span takes " +
                                number(span.length));
      batch_.embeddings.resize(before);
      return false;
    }
    batch_.embeddings.push_back({slice.first + (begin - slice.start), end - begin,
                                 found->second.data.data() + int64_t{begin - span.start} * hidden_});
  }
  return true;
}

void HostEngine::add_wanted(const Item& item, int32_t index, const Row& row, const RowSlice& slice, int32_t iteration) {
  const int32_t end = slice.start + slice.count;
  if (iteration == 0 && (item.flags & (kWantPromptLogprobs | kWantScore)) != 0) {
    const int32_t stop = std::min(end, ((item.flags & kWantScore) != 0 ? row.known : row.prompt_len) - 1);
    for (int32_t at = slice.start; at < stop; ++at) {
      wanted_.push_back({index, slice.first + (at - slice.start), table_->tokens(item.row)[at + 1], false, false});
    }
  }
  // The last token has no known one after it, so it is none of those above.
  const bool draw = (item.flags & kWantSample) != 0, pool = iteration == 0 && (item.flags & kWantPool) != 0;
  if (draw || pool) wanted_.push_back({index, slice.first + slice.count - 1, -1, draw, pool});
  for (size_t i = batch_.wanted.size(); i < wanted_.size(); ++i) batch_.wanted.push_back(wanted_[i].token);
}

// Logits of what is wanted, a slice at a time, and what is made of them.
void HostEngine::read_wanted(StepResult& result) {
  for (size_t first = 0; first < wanted_.size();) {
    // A run of tokens that want logits, or one that wants its hidden state alone.
    size_t count = 0;
    while (first + count < wanted_.size() && count < static_cast<size_t>(slice_rows_)) {
      const Wanted& wanted = wanted_[first + count];
      if (!wanted.draw && wanted.following < 0) break;
      ++count;
    }
    if (count > 0) {
      const double started = now();
      model_->logits(static_cast<int64_t>(first), static_cast<int64_t>(count), logits_.get());
      const double sampling_from = now();
      result.forward_s += sampling_from - started;
      sample_slice(first, count);
      result.sample_s += now() - sampling_from;
    }
    for (size_t i = first; i < first + std::max<size_t>(count, 1); ++i) {
      if (wanted_[i].pool) pool(step_.items[static_cast<size_t>(wanted_[i].item)], static_cast<int64_t>(i), result);
    }
    first += std::max<size_t>(count, 1);
  }
}

void HostEngine::sample_slice(size_t first, size_t count) {
  const auto one = [this, first](int64_t i) {
    const Wanted& wanted = wanted_[first + static_cast<size_t>(i)];
    const Item& item = step_.items[static_cast<size_t>(wanted.item)];
    const Row& row = table_->row(item.row);
    const float* logits = logits_.get() + i * vocab_;
    Borrowed scratch(*this);
    if (!wanted.draw) {
      finite_[static_cast<size_t>(i)] = token_logprob(logits, vocab_, wanted.following, row.sampling.prompt_logprobs,
                                                      *scratch, scores_[static_cast<size_t>(i)]);
      return;
    }
    Draw draw;
    draw.logits = logits;
    draw.vocab = vocab_;
    draw.params = &row.sampling;
    draw.seed = row.seed;
    draw.tokens = table_->tokens(item.row);
    draw.known = row.known;
    draw.prompt_len = row.prompt_len;
    draw.eos = &row.eos;
    draw.mask = (item.flags & kWantDeferred) != 0 ? item.mask : nullptr;
    drawn_[static_cast<size_t>(i)] = sample_token(draw, *scratch);
  };
  if (count == 1) {
    one(0);
  } else {
    model_->parallel_for(static_cast<int64_t>(count), one);
  }
  for (size_t i = 0; i < count; ++i) {
    const Wanted& wanted = wanted_[first + i];
    Item& item = step_.items[static_cast<size_t>(wanted.item)];
    if (!item.fail_code.empty()) continue;
    if (wanted.draw) {
      take(item, drawn_[i]);
    } else if (finite_[i]) {
      item.prompt_logprobs.push_back(std::move(scores_[i]));
    } else {
      fail(item, "nonfinite_logits", "the model gave a logit that is not a finite number");
    }
  }
}

// A drawn token becomes the row's; or its fault the row's failure.
void HostEngine::take(Item& item, SampledToken& drawn) {
  if (!drawn.code.empty()) return fail(item, drawn.code, drawn.reason);
  table_->append(item.row, drawn.token);
  item.tokens.push_back(drawn.token);
  if (drawn.has_logprob) item.logprobs.push_back(std::move(drawn.logprob));
  Row& row = table_->row(item.row);
  if (std::binary_search(row.stop.begin(), row.stop.end(), drawn.token)) {
    item.finish = kFinishStop;
  } else if (row.known >= row.limit) {
    item.finish = kFinishLength;
  }
  row.finished = item.finish != kFinishNone;
}

void HostEngine::pool(Item& item, int64_t index, StepResult& result) {
  if (!item.fail_code.empty()) return;
  const float* state = model_->hidden(index);
  if (!std::all_of(state, state + hidden_, [](float value) { return std::isfinite(value); })) {
    return fail(item, "nonfinite_logits", "the model gave a hidden state that is not finite");
  }
  result.pooled.emplace_back(item.row, std::vector<float>(state, state + hidden_));
}

void HostEngine::fail(Item& item, const std::string& code, const std::string& reason) {
  item.fail_code = code;
  item.fail_reason = reason;
  table_->fail(item.row, code, reason);
  if (code != "nonfinite_logits") return;
  // Its blocks are scrubbed when they are next given to a row as fresh memory, not now: some may be a prefix that
  // others read as well.
  const int32_t* blocks = table_->blocks(item.row);
  for (int32_t b = 0; b < table_->row(item.row).num_blocks; ++b) tainted_[static_cast<size_t>(blocks[b])] = true;
}

// Whether the row decodes again in the step's next iteration.
bool HostEngine::goes_on(const Item& item) {
  if ((item.flags & kWantSample) == 0 || (item.flags & kWantDeferred) != 0) return false;
  if (!item.fail_code.empty() || item.finish != kFinishNone) return false;
  const Row& row = table_->row(item.row);
  return row.computed < row.known && row.computed < int64_t{row.num_blocks} * options_.block_len;
}

void HostEngine::finish_result(StepResult& result) {
  const size_t n = step_.count;
  result.rows.resize(n);
  result.epochs.resize(n);
  result.finish.resize(n);
  result.offsets.reserve(n + 1);
  result.offsets.push_back(0);
  for (size_t i = 0; i < n; ++i) {
    Item& item = step_.items[i];
    result.rows[i] = item.row;
    result.epochs[i] = item.epoch;
    result.finish[i] = item.finish;
    result.tokens.insert(result.tokens.end(), item.tokens.begin(), item.tokens.end());
    result.offsets.push_back(static_cast<int32_t>(result.tokens.size()));
    if (!item.logprobs.empty()) result.logprobs.emplace_back(item.row, std::move(item.logprobs));
    if (!item.fail_code.empty()) {
      result.failures.push_back({item.row, item.epoch, item.fail_code, item.fail_reason});
    } else if (!item.prompt_logprobs.empty()) {
      result.prompt_logprobs.emplace_back(item.row, std::move(item.prompt_logprobs));
    }
  }
}

}  // namespace deploykit
