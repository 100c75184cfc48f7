// From a step to work on the stream: which slices are computed, where they stand on the device, decode graphs or a
// forward of prompts and decodes together.
#include <algorithm>
#include <cstring>
#include <limits>

#include "cuda/engine/cuda_engine.h"
#include "cuda/engine/step_kernels.h"
#include "cuda/kernels/kernels.h"

namespace deploykit::cuda {

int32_t CudaEngine::bucket_of(int32_t slices) const {
  return *std::lower_bound(buckets_.begin(), buckets_.end(), slices);
}

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
  send_inputs(inputs, slot.inputs.get());
}

void CudaEngine::send_inputs(const std::vector<int32_t>& inputs, int32_t* pinned) {
  if (inputs == sent_) return;
  std::memcpy(pinned, inputs.data(), inputs.size() * sizeof(int32_t));
  DK_CUDA(cudaMemcpyAsync(arrays_.rows, pinned, inputs.size() * sizeof(int32_t), cudaMemcpyHostToDevice, stream_.get()));
  sent_ = inputs;
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
  slot.iterations = slot.most_iterations = std::max(step.iterations, 1);
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
    room = std::min(room, room_of(row, slice.start));
    decode = decode && slice.count == 1 && !(slice.flags & (kWantPool | kWantPromptLogprobs | kWantScore)) &&
             (slice.flags & kWantSample || slot.iterations == 1) &&
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
      if (step.iterations > 1) go_on(slot, inputs, step.iterations);
    }
  }
  slot.done->record(stream_);
  ++launched_;
}

// Iterations that a row has blocks for, the first at position `start`. A row that reaches its limit within its blocks
// holds nobody up: the device leaves it alone from then on.
int64_t CudaEngine::room_of(const MirrorRow& row, int32_t start) const {
  const int64_t held = static_cast<int64_t>(row.blocks.size()) * options_.block_len - start;
  return held < row.limit - row.known ? held : std::numeric_limits<int64_t>::max();
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
    row.computed = std::min(row.computed + slot.iterations, row.limit);
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

// The further iterations of a step that held prompts: of the rows whose token the device has just drawn; the dummy row
// stands in for the others, so that results keep their places.
void CudaEngine::go_on(Slot& slot, std::vector<int32_t> inputs, int32_t iterations) {
  const auto goes_on = [this](const Slice& slice) {
    return slice.place >= 0 && (slice.flags & kWantSample) && !slice.pending && slice.failure_code.empty();
  };
  int64_t more = iterations - 1;
  bool any = false;
  std::fill(inputs.begin() + max_slices_, inputs.begin() + 2 * max_slices_, 1);
  std::fill(inputs.begin() + 3 * max_slices_, inputs.end(), 0);
  for (const Slice& slice : slot.slices) {
    if (slice.place < 0) continue;
    if (!goes_on(slice)) {
      inputs[static_cast<size_t>(slice.place)] = rows_.dummy;
      continue;
    }
    any = true;
    more = std::min(more, room_of(mirror_.row(slice.row), slice.start + slice.count));
  }
  if (!any || more < 1) return;
  slot.iterations = 1 + static_cast<int32_t>(more);
  send_inputs(inputs, slot.inputs.get() + inputs.size());
  Graph& graph = graphs_[all_greedy(slot) ? 1 : 0].at(bucket_of(slot.computed));
  for (int32_t iteration = 1; iteration < slot.iterations; ++iteration) {
    graph.launch(stream_);
    fetch(slot, iteration);
  }
  for (Slice& slice : slot.slices) {
    if (!goes_on(slice)) continue;
    MirrorRow& row = mirror_.row(slice.row);
    row.computed = std::min(row.computed + slot.iterations - 1, row.limit);
    row.known = std::min(row.known + slot.iterations - 1, row.limit);
  }
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

}  // namespace deploykit::cuda
