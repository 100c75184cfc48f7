#include "cuda/engine/sample_kernels.h"

#include "cuda/kernels/common.cuh"
#include "deploykit/step.h"

namespace deploykit::cuda {
namespace {

// A slice's SampleRow and what it bans now: its stops while it is too short, the last ids of bad words whose other ids
// are the row's last tokens. A warp a slice.
__global__ void __launch_bounds__(32) gather_samples(StepArrays step, Rows rows, int32_t* bans, SampleRow* out) {
  wait_prior_grid();
  allow_next_grid();
  const int32_t slice = blockIdx.x, row = step.rows[slice], lane = threadIdx.x;
  const RowSampling& s = rows.sampling[row];
  const bool active = row != rows.dummy && (step.flags[slice] & (kWantSample | kWantDeferred)) == kWantSample &&
                      rows.finished[row] == 0 && s.on_host == 0;
  SampleRow r;
  r.active = active ? 1 : 0;
  if (!active) {
    if (lane == 0) out[slice] = r;
    return;
  }
  const int32_t known = rows.known[row];
  r.temperature = s.temperature, r.top_p = s.top_p, r.min_p = s.min_p, r.top_k = s.top_k;
  r.repetition = s.repetition, r.frequency = s.frequency, r.presence = s.presence;
  r.position = known - rows.prompt_len[row];
  r.seed = static_cast<uint64_t>(s.seed_high) << 32 | s.seed_low;
  r.slot = s.slot;
  r.logprobs = s.logprobs;
  r.bias_begin = row * kMaxExtras;
  r.bias_end = r.bias_values = r.bias_begin + s.num_bias;
  r.ban_begin = r.ban_end = slice * kMaxBans;
  if (s.slot >= 0 && r.position < s.min_tokens) {
    const int32_t* stops = rows.stops + static_cast<int64_t>(row) * kMaxStops;
    for (int32_t i = lane; i < s.num_stops; i += 32) bans[r.ban_end + i] = stops[i];
    r.ban_end += s.num_stops;
  }
  const int32_t* word = rows.extras + static_cast<int64_t>(row) * kMaxExtras + 2 * s.num_bias;
  const int32_t* tokens = rows.tokens + static_cast<int64_t>(row) * rows.session_stride + known;
  for (const int32_t* end = word + s.num_bad; word < end; word += 1 + *word) {
    const int32_t head = *word - 1;  // ids before the last one
    bool same = head <= known;
    for (int32_t i = lane; same && i < head; i += 32) same = tokens[i - head] == word[1 + i];
    if (!__all_sync(0xffffffffu, same)) continue;
    if (lane == 0) bans[r.ban_end] = word[1 + head];
    ++r.ban_end;
  }
  if (lane == 0) out[slice] = r;
}

}  // namespace

void Drawer::allocate(int32_t slices, int32_t slots, int32_t vocab) {
  vocab_ = vocab;
  workspace_.allocate(sample_workspace_bytes(slices, vocab));
  processed_.allocate(int64_t{slots} * vocab);
  bans_.allocate(int64_t{slices} * kMaxBans);
  errors_.allocate(slices);
  samples_.allocate(slices);
  logprobs_.allocate(slices);
}

int64_t Drawer::bytes() const {
  return workspace_.bytes() + processed_.bytes() + bans_.bytes() + errors_.bytes() + samples_.bytes() +
         logprobs_.bytes();
}

void Drawer::greedy(const float* logits, int32_t slices, int32_t* sampled, cudaStream_t stream) {
  argmax(logits, vocab_, slices, vocab_, sampled, workspace_.get(), stream);
}

void Drawer::general(const StepArrays& step, const Rows& rows, const float* logits, int32_t slices, int32_t* sampled,
                     cudaStream_t stream) {
  launch("gather_samples", gather_samples, dim3(static_cast<unsigned>(slices)), dim3(32), 0, stream, step, rows,
         bans_.get(), samples_.get());
  SampleLists lists;
  lists.bias_id = rows.extras;
  lists.bias_value = reinterpret_cast<const float*>(rows.extras);
  lists.ban_id = bans_.get();
  lists.counts = rows.counts;
  process_logits(logits, vocab_, slices, vocab_, samples_.get(), lists, processed_.get(), errors_.get(), stream);
  draw(logits, vocab_, processed_.get(), slices, vocab_, samples_.get(), errors_.get(), sampled,
       workspace_.get(), stream);
  count_tokens(samples_.get(), sampled, slices, vocab_, rows.counts, stream);
  token_logprobs(logits, vocab_, slices, vocab_, samples_.get(), sampled, logprobs_.get(), stream);
}

}  // namespace deploykit::cuda
