// Steps 0 to 5 of docs/sampling.md on the logits, and log probabilities of the raw ones. A block a row.
#include "cuda/kernels/sampling.cuh"

namespace deploykit::cuda {
namespace {

__global__ void __launch_bounds__(kSampleThreads)
    process_kernel(const float* logits, int64_t stride, int32_t vocab, const SampleRow* rows, const SampleLists lists,
                   float* processed, int32_t* error) {
  wait_prior_grid();
  allow_next_grid();
  const int row = blockIdx.x;
  const SampleRow p = rows[row];
  if (!p.active) {
    if (threadIdx.x == 0) error[row] = kSampleSkipped;
    return;
  }
  if (p.slot < 0) {  // draw() looks at them
    if (threadIdx.x == 0) error[row] = 0;
    return;
  }
  const float* raw = logits + row * stride;
  int bad = 0;
  each_logit(raw, vocab, [&](int, float v) { bad |= !isfinite(v); });
  bad = __syncthreads_or(bad);
  if (bad) {
    if (threadIdx.x == 0) error[row] = kSampleNonfinite;
    return;
  }
  float* x = processed + static_cast<int64_t>(p.slot) * vocab;
  each_logit(raw, vocab, [&](int i, float v) { x[i] = v; });
  __syncthreads();
  for (int i = p.bias_begin + static_cast<int>(threadIdx.x); i < p.bias_end; i += kSampleThreads) {
    const int id = lists.bias_id[i];
    x[id] = __fadd_rn(x[id], lists.bias_value[p.bias_values + i - p.bias_begin]);
  }
  __syncthreads();
  const uint32_t* counts = lists.counts + static_cast<int64_t>(p.slot) * vocab;
  for (int i = threadIdx.x; i < vocab; i += kSampleThreads) {
    const uint32_t c = counts[i], times = c & 0x7fffffffu;
    float v = x[i];
    if (c != 0) {
      if (p.repetition != 1.0f) v = v > 0.0f ? __fdiv_rn(v, p.repetition) : __fmul_rn(v, p.repetition);
      if (times != 0 && (p.frequency != 0.0f || p.presence != 0.0f)) {
        v = __fsub_rn(v, __fmul_rn(static_cast<float>(times), p.frequency));
        v = __fsub_rn(v, p.presence);
      }
      x[i] = v;
    }
    bad |= !(v < INFINITY);
  }
  bad = __syncthreads_or(bad);
  if (bad) {
    if (threadIdx.x == 0) error[row] = kSampleNonfinite;
    return;
  }
  for (int i = p.ban_begin + static_cast<int>(threadIdx.x); i < p.ban_end; i += kSampleThreads) {
    const int id = lists.ban_id[i];
    if (id >= 0 && id < vocab) x[id] = -INFINITY;
  }
  __syncthreads();
  const uint32_t* mask =
      p.mask_slot >= 0 ? lists.masks + static_cast<int64_t>(p.mask_slot) * ((vocab + 31) / 32) : nullptr;
  int any = 0;
  for (int i = threadIdx.x; i < vocab; i += kSampleThreads) {
    if (mask != nullptr && (mask[i / 32] >> (i % 32) & 1u) == 0) x[i] = -INFINITY;
    any |= x[i] > -INFINITY;
  }
  any = __syncthreads_or(any);
  if (threadIdx.x == 0) error[row] = any ? 0 : kSampleNoToken;
}

__global__ void __launch_bounds__(kSampleThreads)
    logprob_kernel(const float* logits, int64_t stride, int32_t vocab, const SampleRow* rows, const int32_t* token,
                   SampleLogprobs* out) {
  __shared__ unsigned long long keys[32];
  __shared__ uint32_t folds[32];
  __shared__ double sums[32];
  wait_prior_grid();
  allow_next_grid();
  const int row = blockIdx.x, chosen = token[row], wanted = rows[row].logprobs;
  SampleLogprobs& mine = out[row];
  if (chosen < 0 || wanted < 0 || !rows[row].active) {
    if (threadIdx.x == 0) mine.token = -1;
    return;
  }
  const float* x = logits + row * stride;
  // Value above, complement of the id below: a unique key for each token, the larger the more likely.
  const auto place_of = [](int i, float v) {
    return static_cast<unsigned long long>(key_of(v)) << 32 | ~static_cast<uint32_t>(i);
  };
  unsigned long long best = 0;
  each_logit(x, vocab, [&](int i, float v) { best = max(best, place_of(i, v)); });
  best = block_fold(best, keys, [](unsigned long long a, unsigned long long b) { return max(a, b); });
  const double highest = value_of(static_cast<uint32_t>(best >> 32));
  const unsigned long long own = place_of(chosen, x[chosen]);
  double sum = 0.0;
  uint32_t ahead = 0;
  each_logit(x, vocab, [&](int i, float v) {
    sum += exp(static_cast<double>(v) - highest);
    ahead += place_of(i, v) > own;
  });
  sum = block_fold(sum, sums, [](double a, double b) { return a + b; });
  ahead = block_fold(ahead, folds, [](uint32_t a, uint32_t b) { return a + b; });
  const double whole = highest + log(sum);
  if (threadIdx.x == 0) {
    mine.token = chosen;
    mine.logprob = static_cast<double>(x[chosen]) - whole;
    mine.rank = static_cast<int32_t>(ahead) + 1;
  }
  const int count = min(wanted, min(vocab, kMaxTopLogprobs));
  for (int k = 0; k < count; ++k) {
    if (threadIdx.x == 0) {
      const int id = static_cast<int>(~static_cast<uint32_t>(best));
      mine.top_ids[k] = id;
      mine.top[k] = static_cast<double>(x[id]) - whole;
    }
    if (k + 1 == count) break;
    unsigned long long next = 0;
    each_logit(x, vocab, [&](int i, float v) {
      const unsigned long long key = place_of(i, v);
      if (key < best) next = max(next, key);
    });
    best = block_fold(next, keys, [](unsigned long long a, unsigned long long b) { return max(a, b); });
  }
}

}  // namespace

void process_logits(const float* logits, int64_t stride, int32_t n, int32_t vocab, const SampleRow* rows,
                    const SampleLists& lists, float* processed, int32_t* error, cudaStream_t stream) {
  require(vocab >= 1, "process_logits", "vocab >= 1");
  if (n == 0) return;
  launch("process_logits", process_kernel, dim3(static_cast<unsigned>(n)), dim3(kSampleThreads), 0, stream, logits,
         stride, vocab, rows, lists, processed, error);
}

void token_logprobs(const float* logits, int64_t stride, int32_t n, int32_t vocab, const SampleRow* rows,
                    const int32_t* token, SampleLogprobs* out, cudaStream_t stream) {
  if (n == 0) return;
  launch("token_logprobs", logprob_kernel, dim3(static_cast<unsigned>(n)), dim3(kSampleThreads), 0, stream, logits,
         stride, vocab, rows, token, out);
}

}  // namespace deploykit::cuda
