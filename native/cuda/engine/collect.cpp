// From the device back to a step's result: tokens, ends and log probabilities of each slice.
#include <algorithm>

#include "cuda/engine/cuda_engine.h"

namespace deploykit::cuda {

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

void CudaEngine::fetch(Slot& slot, int32_t iteration) {
  const int64_t wanted = int64_t{slot.computed} * slot.most_iterations, at = int64_t{iteration} * slot.computed;
  if (iteration == 0) {  // for all iterations that may follow: copies are under way by then
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
