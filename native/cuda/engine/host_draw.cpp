// The parts of CudaEngine that read logits on the host: rows with penalties, biases, masks or log probabilities are
// drawn by the reference sampler, and prompts are scored, from the device's logits.
#include <algorithm>

#include "cuda/engine/cuda_engine.h"

namespace deploykit::cuda {

void CudaEngine::sample(int64_t seq, const std::vector<std::pair<int32_t, Mask>>& masks) {
  for (int64_t step = collected_; step < launched_; ++step) {
    Slot& slot = slots_[step % kSlots];
    if (slot.seq != seq) continue;
    slot.masks = masks;
    slot.masked = true;
    return;
  }
  throw Error("internal", "step " + std::to_string(seq) + " is not out");
}

void CudaEngine::draw_on_host(Slot& slot) {
  if (slot.host_rows.empty()) return;
  slot.done->wait();
  for (Slice& slice : slot.slices) {
    if (!slice.pending) continue;
    MirrorRow* row = owner(slice);
    if (row == nullptr) {
      slice.pending = false;
      continue;  // it was released meanwhile
    }
    const Mask* mask = nullptr;
    if (slice.flags & kWantDeferred) {
      if (!slot.masked) throw Error("internal", "deferred rows were not released: sample() was not called");
      for (const auto& [index, found] : slot.masks) {
        if (index == slice.row) mask = &found;
      }
    }
    slice.pending = false;
    const auto place = std::find(slot.host_rows.begin(), slot.host_rows.end(), slice.place) - slot.host_rows.begin();
    Draw draw;
    draw.logits = slot.host_logits.get() + place * int64_t{model_.vocab};
    draw.vocab = model_.vocab;
    draw.params = &row->sampling;
    draw.seed = row->seed;
    draw.tokens = row->tokens.data();
    draw.known = static_cast<int64_t>(row->tokens.size());
    draw.prompt_len = row->prompt_len;
    draw.eos = &row->eos;
    draw.mask = mask;
    SampledToken drawn = sample_token(draw, sampler_);
    if (!drawn.code.empty()) {
      slice.failure_code = row->failure_code = drawn.code;
      slice.failure_reason = row->failure_reason = drawn.reason;
      row->finished = true;
      if (drawn.code == "nonfinite_logits") scrub(*row);
      continue;
    }
    const int32_t position = static_cast<int32_t>(row->tokens.size());
    row->tokens.push_back(drawn.token);
    row->known = position + 1;
    slice.drawn.push_back(drawn.token);
    if (row->sampling.logprobs >= 0) slice.logprobs.push_back(std::move(drawn.logprob));
    if (row->known >= row->limit) slice.finish = kFinishLength;
    if (std::find(row->stops.begin(), row->stops.end(), drawn.token) != row->stops.end()) slice.finish = kFinishStop;
    row->finished = slice.finish != kFinishNone;
    parts_.token_writes.push_back({slice.row, position, drawn.token, row->finished ? 1 : 0});
  }
}

// Log probabilities of the tokens that follow each position of a chunk, in slices so that memory stays bounded.
void CudaEngine::scores(Slot& slot) {
  constexpr int32_t kRows = 32;
  const int64_t vocab = model_.vocab;
  int32_t first = 0;
  for (const int32_t index : slot.order) {
    Slice& slice = slot.slices[static_cast<size_t>(index)];
    const int32_t begin = first;
    first += slice.count;
    if (!(slice.flags & (kWantPromptLogprobs | kWantScore))) continue;
    const MirrorRow& row = mirror_.row(slice.row);
    const int32_t known = static_cast<int32_t>(row.tokens.size());
    const int32_t end = slice.flags & kWantScore ? known : row.prompt_len;
    const int32_t top = std::max(row.sampling.prompt_logprobs, 0);
    if (score_logits_.count() == 0) {
      score_logits_.allocate(kRows * vocab);
      score_host_.allocate(kRows * vocab);
    }
    for (int32_t at = 0; at < slice.count; at += kRows) {
      const int32_t count = std::min({kRows, slice.count - at, end - 1 - (slice.start + at)});
      if (count <= 0) break;
      forward_->logits_of(begin + at, count, score_logits_.get(), stream_.get());
      DK_CUDA(cudaMemcpyAsync(score_host_.get(), score_logits_.get(), static_cast<size_t>(count * vocab) * sizeof(float),
                              cudaMemcpyDeviceToHost, stream_.get()));
      stream_.synchronize();
      for (int32_t i = 0; i < count; ++i) {
        TokenLogprob found;
        const int32_t next = row.tokens[static_cast<size_t>(slice.start + at + i + 1)];
        if (!token_logprob(score_host_.get() + i * vocab, vocab, next, top, sampler_, found)) {
          slice.failure_code = "nonfinite_logits";
          slice.failure_reason = "a logit is not a finite number";
          slice.prompt_logprobs.clear();
          break;
        }
        slice.prompt_logprobs.push_back(std::move(found));
      }
      if (!slice.failure_code.empty()) break;
    }
  }
}

// What a row with numbers that are not finite leaves behind must not reach whoever gets its blocks next.
void CudaEngine::scrub(const MirrorRow& row) {
  const int64_t bytes = forward_->block_bytes();
  for (int32_t block : row.blocks) {
    DK_CUDA(cudaMemsetAsync(pool_.get() + block * bytes, 0, static_cast<size_t>(bytes), stream_.get()));
  }
}

void CudaEngine::forget() {
  stream_.synchronize();
  for (Slot& slot : slots_) {
    slot.slices.clear();
    slot.host_rows.clear();
  }
  collected_ = launched_;
  parts_.clear();
}

void CudaEngine::put_embeddings(const std::string& handle, const float* data, int64_t count) {
  use_device();
  if (count < 1) throw Error("invalid", "embeddings '" + handle + "' are empty");
  DeviceBuffer<float> buffer(count * model_.hidden);
  DK_CUDA(cudaMemcpy(buffer.get(), data, static_cast<size_t>(buffer.bytes()), cudaMemcpyHostToDevice));
  embeddings_[handle] = std::move(buffer);
  embedding_counts_[handle] = count;
}

void CudaEngine::drop_embeddings(const std::string& handle) {
  stream_.synchronize();  // a forward in flight may read them
  embeddings_.erase(handle);
  embedding_counts_.erase(handle);
}

std::vector<std::pair<std::string, std::string>> CudaEngine::info() const {
  std::vector<std::pair<std::string, std::string>> facts = forward_->info();
  cudaDeviceProp card{};
  if (cudaGetDeviceProperties(&card, options_.device_index) == cudaSuccess) facts.emplace_back("device", card.name);
  facts.emplace_back("decode graphs", std::to_string(graphs_[0].size() + graphs_[1].size()));
  size_t free = 0, total = 0;
  if (cudaSetDevice(options_.device_index) == cudaSuccess && cudaMemGetInfo(&free, &total) == cudaSuccess) {
    facts.emplace_back("device_bytes_used", std::to_string(total - free));
  }
  return facts;
}

}  // namespace deploykit::cuda
