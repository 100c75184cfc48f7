#include "cuda/engine/cuda_engine.h"

#include <algorithm>
#include <cstring>

#include "cuda/engine/step_kernels.h"
#include "cuda/kernels/kernels.h"

namespace deploykit::cuda {

CudaEngine::CudaEngine(const ModelDescription& model, const EngineOptions& options,
                       std::unique_ptr<CudaForward> forward)
    : model_(model),
      options_(options),
      forward_(std::move(forward)),
      mirror_(options.max_rows, options.session_len, options.block_len, options.num_blocks, model.vocab),
      max_slices_(options.max_rows) {}

CudaEngine::~CudaEngine() { cudaStreamSynchronize(stream_.get()); }

void CudaEngine::load_weight(const WeightTensor& tensor) {
  use_device();
  forward_->load_weight(tensor);
}

Capacity CudaEngine::finish_loading() {
  use_device();
  const int64_t rows = options_.max_rows + 1;
  const int64_t max_blocks = (options_.session_len + options_.block_len - 1) / options_.block_len;
  const int64_t stride = options_.session_len;
  row_memory_.allocate(rows * (stride + max_blocks + 5 + kMaxStops + kMaxExtras));
  DK_CUDA(cudaMemset(row_memory_.get(), 0, static_cast<size_t>(row_memory_.bytes())));
  row_sampling_.allocate(rows);
  DK_CUDA(cudaMemset(row_sampling_.get(), 0, static_cast<size_t>(row_sampling_.bytes())));
  int32_t* at = row_memory_.get();
  const auto take = [&at, rows](int64_t each) { return std::exchange(at, at + rows * each); };
  rows_.tokens = take(stride);
  rows_.blocks = take(max_blocks);
  rows_.computed = take(1);
  rows_.known = take(1);
  rows_.prompt_len = take(1);
  rows_.limit = take(1);
  rows_.finished = take(1);
  rows_.stops = take(kMaxStops);
  rows_.extras = take(kMaxExtras);
  const int32_t draw_slots = std::min(kDrawSlots, options_.max_rows);
  counts_.allocate(int64_t{draw_slots} * model_.vocab);
  rows_.counts = counts_.get();
  rows_.vocab = model_.vocab;
  rows_.sampling = row_sampling_.get();
  rows_.session_stride = static_cast<int32_t>(stride);
  rows_.max_blocks = static_cast<int32_t>(max_blocks);
  rows_.dummy = options_.max_rows;

  for (int32_t bucket : {1, 2, 4}) {
    if (bucket < max_slices_) buckets_.push_back(bucket);
  }
  for (int32_t bucket = 8; bucket < max_slices_; bucket += bucket < 64 ? 8 : (bucket < 128 ? 16 : 32)) {
    buckets_.push_back(bucket);
  }
  buckets_.push_back(max_slices_);
  const int64_t slices = max_slices_, tokens = std::max(options_.max_step_tokens, max_slices_);
  step_memory_.allocate(slices * 7 + 1 + tokens * 3);
  DK_CUDA(cudaMemset(step_memory_.get(), 0, static_cast<size_t>(step_memory_.bytes())));
  at = step_memory_.get();
  const auto part = [&at](int64_t count) { return std::exchange(at, at + count); };
  arrays_.rows = part(slices);
  arrays_.counts = part(slices);
  arrays_.flags = part(slices);
  arrays_.cu = part(slices + 1);
  arrays_.starts = part(slices);
  arrays_.seq_lens = part(slices);
  arrays_.last = part(slices);
  arrays_.token_ids = part(tokens);
  arrays_.positions = part(tokens);
  arrays_.token_rows = part(tokens);
  sampled_.allocate(slices);
  results_.allocate(slices);
  drawer_.allocate(max_slices_, draw_slots, model_.vocab);
  for (Slot& slot : slots_) {
    slot.message.allocate(1 << 16);
    slot.device_message.allocate(1 << 16);
    slot.inputs.allocate(slices * 4 + 1);
    slot.results.allocate(slices);
    slot.begun = std::make_unique<Event>(cudaEventDefault);
    slot.done = std::make_unique<Event>(cudaEventDefault);
  }

  const int64_t block_bytes = forward_->block_bytes();
  pool_.allocate((options_.num_blocks + 1) * block_bytes);
  // The dummy row's block table points behind the pool's last block.
  const std::vector<int32_t> dummy(static_cast<size_t>(max_blocks), static_cast<int32_t>(options_.num_blocks));
  DK_CUDA(cudaMemcpy(rows_.blocks + static_cast<int64_t>(rows_.dummy) * max_blocks, dummy.data(),
                     dummy.size() * sizeof(int32_t), cudaMemcpyHostToDevice));
  DK_CUDA(cudaMemset(pool_.get() + options_.num_blocks * block_bytes, 0, static_cast<size_t>(block_bytes)));
  forward_->finish_loading(pool_.get(), stream_.get());
  stream_.synchronize();

  // Decode graphs, the largest first: they are replayed with whatever stands in the arrays.
  std::vector<int32_t> padding(static_cast<size_t>(max_slices_ * 4 + 1), 0);
  for (int32_t i = 0; i < max_slices_; ++i) padding[static_cast<size_t>(i)] = rows_.dummy;
  for (int32_t i = 0; i < max_slices_; ++i) padding[static_cast<size_t>(max_slices_ + i)] = 1;
  DK_CUDA(cudaMemcpy(arrays_.rows, padding.data(), padding.size() * sizeof(int32_t), cudaMemcpyHostToDevice));
  for (auto bucket = buckets_.rbegin(); bucket != buckets_.rend(); ++bucket) {
    for (const bool greedy : {false, true}) {
      const auto work = [&] {
        prepare_decode(arrays_, rows_, *bucket, stream_.get());
        ForwardArgs args{arrays_, rows_, *bucket, *bucket, *bucket, 1, options_.session_len, true, false, 0, {}};
        forward_->forward(args, stream_.get());
        draw_tokens(*bucket, greedy);
      };
      work();  // once as it is: what is set up lazily must not happen inside a capture
      stream_.synchronize();
      Graph& graph = graphs_[greedy ? 1 : 0][*bucket];
      graph = Graph::capture(stream_, work);
      graph.launch(stream_);
      stream_.synchronize();
    }
  }
  ready_ = true;

  Capacity capacity;
  capacity.max_rows = options_.max_rows;
  capacity.overlap_depth = 1;
  capacity.block_len = options_.block_len;
  capacity.block_bytes = block_bytes;
  capacity.num_blocks = options_.num_blocks;
  capacity.session_len = options_.session_len;
  capacity.vocab = model_.vocab;
  capacity.max_step_tokens = options_.max_step_tokens;
  capacity.weight_bytes = forward_->weight_bytes();
  capacity.kv_bytes = pool_.bytes();
  capacity.scratch_bytes = forward_->scratch_bytes() + row_memory_.bytes() + step_memory_.bytes() + counts_.bytes() +
                           drawer_.bytes();
  return capacity;
}

// A token for every slice that wants one, appended to its row. Where all are greedy the argmax is all there is to do.
void CudaEngine::draw_tokens(int32_t slices, bool greedy) {
  if (greedy) {
    drawer_.greedy(forward_->logits(), slices, sampled_.get(), stream_.get());
  } else {
    drawer_.general(arrays_, rows_, forward_->logits(), slices, sampled_.get(), stream_.get());
  }
  finish_step(arrays_, rows_, sampled_.get(), results_.get(), slices, stream_.get());
}

int32_t CudaEngine::bucket_of(int32_t slices) const {
  return *std::lower_bound(buckets_.begin(), buckets_.end(), slices);
}

// The row that a slice was computed for, or null where it is somebody else's by now.
MirrorRow* CudaEngine::owner(const Slice& slice) {
  MirrorRow& row = mirror_.row(slice.row);
  return row.live && row.epoch == slice.epoch ? &row : nullptr;
}

CudaEngine::Slot& CudaEngine::launched(int64_t seq) {
  if (collected_ == launched_) throw Error("internal", "no step is out");
  Slot& slot = slots_[collected_ % kSlots];
  if (slot.seq != seq) {
    throw Error("internal", "step " + std::to_string(seq) + " is asked for before step " + std::to_string(slot.seq));
  }
  return slot;
}

// ------------------------------------------------------------------------------------------------ launch

void CudaEngine::select(const Step& step, Slot& slot) {
  const size_t n = step.rows.size();
  if (step.epochs.size() != n || step.num_tokens.size() != n || step.flags.size() != n) {
    throw Error("invalid", "a step's arrays differ in length");
  }
  if (n > static_cast<size_t>(max_slices_)) throw Error("invalid", "a step has more rows than the engine");
  slot.slices.assign(n, Slice{});
  std::vector<char> seen(static_cast<size_t>(options_.max_rows), 0);
  int64_t total = 0;
  for (size_t i = 0; i < n; ++i) {
    Slice& slice = slot.slices[i];
    slice.row = step.rows[i];
    slice.epoch = step.epochs[i];
    slice.flags = step.flags[i];
    const auto fail = [&slice](std::string code, std::string reason) {
      slice.failure_code = std::move(code);
      slice.failure_reason = std::move(reason);
    };
    const std::string name = "row " + std::to_string(slice.row);
    if (!mirror_.valid_row(slice.row)) {
      fail("internal", name + " does not exist");
      continue;
    }
    if (std::exchange(seen[static_cast<size_t>(slice.row)], 1)) throw Error("invalid", "a step names a row twice");
    const MirrorRow& row = mirror_.row(slice.row);
    if (!row.live || row.epoch != slice.epoch) {
      fail("internal", name + " is not in epoch " + std::to_string(slice.epoch));
      continue;
    }
    if (!row.failure_code.empty()) {
      fail(row.failure_code, row.failure_reason);
      continue;
    }
    if (row.finished) continue;  // found finished one step late: nothing to do
    slice.start = row.computed;
    slice.count = std::min(step.num_tokens[i], row.known - row.computed);
    const int64_t end = int64_t{row.computed} + slice.count;
    if (slice.count < 1) {
      fail("internal", name + " has no token to compute");
    } else if (end > static_cast<int64_t>(row.blocks.size()) * options_.block_len) {
      fail("internal", name + " has no block for token " + std::to_string(end - 1));
    } else if ((slice.flags & (kWantSample | kWantPool)) && end != row.known) {
      fail("internal", name + " wants a result before its last known token");
    } else if (total + slice.count > std::max(options_.max_step_tokens, max_slices_)) {
      throw Error("invalid", "a step has more than " + std::to_string(options_.max_step_tokens) + " tokens");
    } else {
      slice.place = 0;  // arrange() says where
      total += slice.count;
    }
  }
}

// Places on the device: slices of one token first, since they take the attention kernel for decoding, then prompts that
// have nothing in the KV memory yet.
void CudaEngine::arrange(Slot& slot) {
  slot.order.clear();
  const auto take = [&slot](auto&& wanted) {
    for (size_t i = 0; i < slot.slices.size(); ++i) {
      const Slice& slice = slot.slices[i];
      if (slice.place >= 0 && wanted(slice)) slot.order.push_back(static_cast<int32_t>(i));
    }
    return static_cast<int32_t>(slot.order.size());
  };
  slot.singles = take([](const Slice& slice) { return slice.count == 1; });
  slot.fresh = take([](const Slice& slice) { return slice.count > 1 && slice.start == 0; }) - slot.singles;
  slot.computed = take([](const Slice& slice) { return slice.count > 1 && slice.start > 0; });
  for (int32_t place = 0; place < slot.computed; ++place) slot.slices[static_cast<size_t>(slot.order[place])].place = place;
}

void CudaEngine::send(Slot& slot, const std::vector<int32_t>& inputs) {
  if (!parts_.empty()) {
    const int64_t bytes = parts_.bytes();
    if (bytes > slot.message.count()) {  // the slot's last step is collected, so nothing reads it
      slot.message.allocate(bytes * 2);
      slot.device_message.allocate(bytes * 2);
    }
    StepHeader header{};
    parts_.write(slot.message.get(), header);
    DK_CUDA(cudaMemcpyAsync(slot.device_message.get(), slot.message.get(), static_cast<size_t>(bytes),
                            cudaMemcpyHostToDevice, stream_.get()));
    apply_message(slot.device_message.get(), header, rows_, stream_.get());
    parts_.clear();
  }
  if (inputs != sent_) {
    std::memcpy(slot.inputs.get(), inputs.data(), inputs.size() * sizeof(int32_t));
    DK_CUDA(cudaMemcpyAsync(arrays_.rows, slot.inputs.get(), inputs.size() * sizeof(int32_t), cudaMemcpyHostToDevice,
                            stream_.get()));
    sent_ = inputs;
  }
}

void CudaEngine::launch(const Step& step) {
  use_device();
  if (!ready_) throw Error("internal", "the engine is not loaded");
  if (launched_ - collected_ >= kSlots) throw Error("internal", "two steps are out already");
  // A row whose last token the host has yet to draw can't go on before.
  if (launched_ > collected_) {
    Slot& previous = slots_[(launched_ - 1) % kSlots];
    if (std::any_of(previous.slices.begin(), previous.slices.end(), [](const Slice& s) { return s.pending; })) {
      draw_on_host(previous);
    }
  }
  Slot& slot = slots_[launched_ % kSlots];
  slot.seq = step.seq;
  slot.iterations = std::max(step.iterations, 1);
  slot.computed = 0;
  slot.masks.clear();
  slot.masked = false;
  slot.host_rows.clear();
  mirror_.apply(step, parts_);
  select(step, slot);
  arrange(slot);

  std::vector<int32_t> inputs(static_cast<size_t>(max_slices_) * 4 + 1, 0);
  int32_t *rows = inputs.data(), *counts = rows + max_slices_, *flags = counts + max_slices_, *cu = flags + max_slices_;
  std::fill(rows, rows + max_slices_, rows_.dummy);
  std::fill(counts, counts + max_slices_, 1);
  int32_t tokens = 0;
  int64_t room = slot.iterations;  // iterations that every row has blocks for
  bool decode = true;
  for (const int32_t index : slot.order) {
    const Slice& slice = slot.slices[static_cast<size_t>(index)];
    rows[slice.place] = slice.row;
    counts[slice.place] = slice.count;
    flags[slice.place] = slice.flags;
    cu[slice.place] = tokens;
    tokens += slice.count;
    const MirrorRow& row = mirror_.row(slice.row);
    room = std::min(room, static_cast<int64_t>(row.blocks.size()) * options_.block_len - slice.start);
    decode = decode && slice.count == 1 && !(slice.flags & (kWantPool | kWantPromptLogprobs | kWantScore)) &&
             (row.spans.empty() || slice.start >= row.prompt_len);
  }
  for (int32_t i = slot.computed; i <= max_slices_; ++i) cu[i] = tokens;
  // prepare_decode writes cu itself: the same rows again are the same inputs, which needn't be sent.
  if (decode) std::fill(cu, cu + max_slices_ + 1, 0);
  send(slot, inputs);
  if (!step.copies.empty()) copy_blocks(step.copies);
  slot.begun->record(stream_);
  const bool on_host = std::any_of(slot.slices.begin(), slot.slices.end(), [this](const Slice& slice) {
    return slice.place >= 0 && (slice.flags & kWantSample) &&
           (mirror_.row(slice.row).on_host || (slice.flags & kWantDeferred));
  });
  if (slot.computed > 0) {
    if (decode && !on_host) {
      slot.iterations = static_cast<int32_t>(room);
      run_decode(slot, bucket_of(slot.computed));
    } else {
      slot.iterations = 1;
      run_mixed(slot, tokens);
    }
  }
  slot.done->record(stream_);
  ++launched_;
}

void CudaEngine::run_decode(Slot& slot, int32_t bucket) {
  const bool greedy = all_greedy(slot);
  for (int32_t iteration = 0; iteration < slot.iterations; ++iteration) {
    graphs_[greedy ? 1 : 0].at(bucket).launch(stream_);
    fetch(slot, iteration);
  }
  for (Slice& slice : slot.slices) {
    if (slice.place < 0) continue;
    MirrorRow& row = mirror_.row(slice.row);
    row.computed += slot.iterations;
    if (slice.flags & kWantSample) row.known = std::min(row.known + slot.iterations, row.limit);
  }
}

// Whether an argmax is all that the device has to do for each row.
bool CudaEngine::all_greedy(const Slot& slot) {
  return std::all_of(slot.order.begin(), slot.order.end(), [&](int32_t index) {
    const MirrorRow& row = mirror_.row(slot.slices[static_cast<size_t>(index)].row);
    return row.on_host || (row.sampling.temperature == 0.0 && row.slot < 0 && row.sampling.logprobs < 0);
  });
}

void CudaEngine::fetch(Slot& slot, int32_t iteration) {
  const int64_t wanted = int64_t{slot.computed} * slot.iterations, at = int64_t{iteration} * slot.computed;
  if (iteration == 0) {
    if (wanted > slot.results.count()) slot.results.allocate(wanted);
    slot.with_logprobs = std::any_of(slot.order.begin(), slot.order.end(), [&](int32_t index) {
      const MirrorRow& row = mirror_.row(slot.slices[static_cast<size_t>(index)].row);
      return !row.on_host && row.sampling.logprobs >= 0;
    });
    if (slot.with_logprobs && wanted > slot.logprobs.count()) slot.logprobs.allocate(wanted);
  }
  const auto count = static_cast<size_t>(slot.computed);
  DK_CUDA(cudaMemcpyAsync(slot.results.get() + at, results_.get(), count * sizeof(SliceResult), cudaMemcpyDeviceToHost,
                          stream_.get()));
  if (!slot.with_logprobs) return;
  DK_CUDA(cudaMemcpyAsync(slot.logprobs.get() + at, drawer_.logprobs(), count * sizeof(SampleLogprobs),
                          cudaMemcpyDeviceToHost, stream_.get()));
}

void CudaEngine::remember_logprobs(const Slot& slot, const MirrorRow& row, Slice& slice, int32_t iteration) {
  const int32_t wanted = row.sampling.logprobs;
  if (!slot.with_logprobs || wanted < 0) return;
  const SampleLogprobs& found = slot.logprobs.get()[int64_t{iteration} * slot.computed + slice.place];
  TokenLogprob out;
  out.token = found.token;
  out.logprob = found.logprob;
  out.rank = found.rank;
  for (int32_t k = 0; k < std::min(wanted, model_.vocab); ++k) out.top.emplace_back(found.top_ids[k], found.top[k]);
  slice.logprobs.push_back(std::move(out));
}

void CudaEngine::run_mixed(Slot& slot, int32_t tokens) {
  std::vector<CudaForward::Override> overrides;
  ForwardArgs args{arrays_, rows_, slot.computed, slot.singles, tokens, 0, 0, false, false, slot.fresh, {}};
  int32_t first = 0;
  for (const int32_t index : slot.order) {
    const Slice& slice = slot.slices[static_cast<size_t>(index)];
    args.max_count = std::max(args.max_count, slice.count);
    args.max_seq = std::max(args.max_seq, slice.start + slice.count);
    args.lengths.push_back(slice.start + slice.count);
    args.every_token = args.every_token || (slice.flags & (kWantPool | kWantPromptLogprobs | kWantScore)) != 0;
    for (const Span& span : mirror_.row(slice.row).spans) {
      const int32_t begin = std::max(span.start, slice.start);
      const int32_t end = std::min(span.start + span.length, slice.start + slice.count);
      if (begin >= end) continue;
      const auto found = embeddings_.find(span.handle);
      if (found == embeddings_.end() || embedding_counts_.at(span.handle) < span.length) {
        throw Error("invalid", "row " + std::to_string(slice.row) + " names embeddings '" + span.handle +
                                   "' that were not given in that length");
      }
      overrides.push_back({first + begin - slice.start, end - begin,
                           found->second.get() + int64_t{begin - span.start} * model_.hidden});
    }
    first += slice.count;
  }
  forward_->set_overrides(std::move(overrides));
  prepare_step(arrays_, rows_, slot.computed, args.max_count, stream_.get());
  forward_->forward(args, stream_.get());
  forward_->set_overrides({});
  draw_tokens(slot.computed, all_greedy(slot));
  fetch(slot, 0);
  for (Slice& slice : slot.slices) {
    if (slice.place < 0) continue;
    MirrorRow& row = mirror_.row(slice.row);
    row.computed += slice.count;
    if (!(slice.flags & kWantSample)) continue;
    if (row.on_host || (slice.flags & kWantDeferred)) {
      slice.pending = true;
      slot.host_rows.push_back(slice.place);
    } else {
      row.known = std::min(row.known + 1, row.limit);
    }
  }
  after_forward(slot);
}

// What leaves the device beside the tokens: logits of rows that the host draws, scores, pooled states.
void CudaEngine::after_forward(Slot& slot) {
  const int64_t vocab = model_.vocab;
  if (!slot.host_rows.empty()) {
    const int64_t wanted = static_cast<int64_t>(slot.host_rows.size()) * vocab;
    if (wanted > slot.host_logits.count()) slot.host_logits.allocate(wanted);
    for (size_t i = 0; i < slot.host_rows.size(); ++i) {
      DK_CUDA(cudaMemcpyAsync(slot.host_logits.get() + static_cast<int64_t>(i) * vocab,
                              forward_->logits() + slot.host_rows[i] * vocab, static_cast<size_t>(vocab) * sizeof(float),
                              cudaMemcpyDeviceToHost, stream_.get()));
    }
  }
  int32_t first = 0;
  for (const int32_t index : slot.order) {
    Slice& slice = slot.slices[static_cast<size_t>(index)];
    if (slice.flags & kWantPool) slice.pooled = forward_->hidden_of(first + slice.count - 1, stream_.get());
    first += slice.count;
  }
  scores(slot);
}

void CudaEngine::copy_blocks(const std::vector<Copy>& copies) {
  const int64_t bytes = forward_->block_bytes();
  for (const Copy& copy : copies) {
    if (copy.src < 0 || copy.dst < 0 || copy.src >= options_.num_blocks || copy.dst >= options_.num_blocks) {
      throw Error("invalid", "a copy names a block that does not exist");
    }
    DK_CUDA(cudaMemcpyAsync(pool_.get() + copy.dst * bytes, pool_.get() + copy.src * bytes, static_cast<size_t>(bytes),
                            cudaMemcpyDeviceToDevice, stream_.get()));
  }
}

// ------------------------------------------------------------------------------------------------ collect

StepResult CudaEngine::collect(int64_t seq) {
  use_device();
  Slot& slot = launched(seq);
  slot.done->wait();
  draw_on_host(slot);
  StepResult result;
  result.seq = seq;
  result.offsets.push_back(0);
  for (Slice& slice : slot.slices) {
    result.rows.push_back(slice.row);
    result.epochs.push_back(slice.epoch);
    int32_t finish = slice.finish;
    const bool on_device = std::find(slot.host_rows.begin(), slot.host_rows.end(), slice.place) == slot.host_rows.end();
    if (slice.place >= 0 && slice.failure_code.empty() && on_device) {
      MirrorRow unused, &row = owner(slice) != nullptr ? *owner(slice) : unused;
      for (int32_t iteration = 0; iteration < slot.iterations; ++iteration) {
        const SliceResult& drawn = slot.results.get()[int64_t{iteration} * slot.computed + slice.place];
        if (drawn.error != 0) {
          slice.failure_code = drawn.error == 1 ? "nonfinite_logits" : "no_token";
          slice.failure_reason = drawn.error == 1 ? "a logit is not a finite number" : "every token is masked";
          row.failure_code = slice.failure_code;
          row.failure_reason = slice.failure_reason;
          row.finished = true;
          if (drawn.error == 1) scrub(row);
          break;
        }
        if (drawn.token < 0) continue;
        slice.drawn.push_back(drawn.token);
        row.tokens.push_back(drawn.token);
        remember_logprobs(slot, row, slice, iteration);
        finish = drawn.finish;
        if (finish != kFinishNone) row.finished = true;
      }
    }
    if (!slice.failure_code.empty())
      result.failures.push_back({slice.row, slice.epoch, slice.failure_code, slice.failure_reason});
    result.tokens.insert(result.tokens.end(), slice.drawn.begin(), slice.drawn.end());
    result.offsets.push_back(static_cast<int32_t>(result.tokens.size()));
    result.finish.push_back(finish);
    if (!slice.logprobs.empty()) result.logprobs.emplace_back(slice.row, std::move(slice.logprobs));
    if (!slice.prompt_logprobs.empty()) result.prompt_logprobs.emplace_back(slice.row, std::move(slice.prompt_logprobs));
    if (!slice.pooled.empty()) result.pooled.emplace_back(slice.row, std::move(slice.pooled));
  }
  float milliseconds = 0;
  DK_CUDA(cudaEventElapsedTime(&milliseconds, slot.begun->get(), slot.done->get()));
  result.forward_s = milliseconds / 1e3;
  ++collected_;
  return result;
}

}  // namespace deploykit::cuda
