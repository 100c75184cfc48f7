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
    slot.inputs.allocate(2 * (slices * 4 + 1));
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

}  // namespace deploykit::cuda
