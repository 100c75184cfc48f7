// Steps 0 to 5 of docs/sampling.md on the logits, and log probabilities of the raw ones. A block a row.
#include "cuda/kernels/sampling.cuh"

namespace deploykit::cuda {
namespace {

__global__ void __launch_bounds__(kSampleThreads)
    process_kernel(float* logits, int64_t stride, int32_t vocab, const SampleRow* rows, const SampleLists lists,
                   int32_t* error) {
  wait_prior_grid();
  allow_next_grid();
  const int row = blockIdx.x;
  const SampleRow p = rows[row];
  float* x = logits + row * stride;
  int bad = 0;
  for (int i = threadIdx.x; i < vocab; i += kSampleThreads) bad |= !isfinite(x[i]);
  bad = __syncthreads_or(bad);
  if (bad) {
    if (threadIdx.x == 0) error[row] = kSampleNonfinite;
    return;
  }
  for (int i = p.bias_begin + static_cast<int>(threadIdx.x); i < p.bias_end; i += kSampleThreads) {
    x[lists.bias_id[i]] = __fadd_rn(x[lists.bias_id[i]], lists.bias_value[i]);
  }
  __syncthreads();
  if (p.counts_slot >= 0) {
    const uint32_t* counts = lists.counts + static_cast<int64_t>(p.counts_slot) * vocab;
    for (int i = threadIdx.x; i < vocab; i += kSampleThreads) {
      const uint32_t c = counts[i], times = c & 0x7fffffffu;
      if (c == 0) continue;
      float v = x[i];
      if (p.repetition != 1.0f) v = v > 0.0f ? __fdiv_rn(v, p.repetition) : __fmul_rn(v, p.repetition);
      if (times != 0 && (p.frequency != 0.0f || p.presence != 0.0f)) {
        v = __fsub_rn(v, __fmul_rn(static_cast<float>(times), p.frequency));
        v = __fsub_rn(v, p.presence);
      }
      x[i] = v;
    }
    __syncthreads();
  }
  for (int i = threadIdx.x; i < vocab; i += kSampleThreads) bad |= !(x[i] < INFINITY);
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

__global__ void __launch_bounds__(kSampleThreads) logprob_kernel(const float* logits, int64_t stride, int32_t vocab,
                                                                 const int32_t* token, double* logprob, int32_t* rank) {
  __shared__ uint32_t folds[32];
  __shared__ double sums[32];
  wait_prior_grid();
  allow_next_grid();
  const int row = blockIdx.x, chosen = token[row];
  if (chosen < 0) return;
  const float* x = logits + row * stride;
  uint32_t key = 0, ahead = 0;
  for (int i = threadIdx.x; i < vocab; i += kSampleThreads) key = max(key, key_of(x[i]));
  key = block_fold(key, folds, [](uint32_t a, uint32_t b) { return max(a, b); });
  const float highest = value_of(key), mine = x[chosen];
  double sum = 0.0;
  for (int i = threadIdx.x; i < vocab; i += kSampleThreads) {
    sum += exp(static_cast<double>(x[i]) - static_cast<double>(highest));
    ahead += x[i] > mine || (x[i] == mine && i < chosen);
  }
  sum = block_fold(sum, sums, [](double a, double b) { return a + b; });
  ahead = block_fold(ahead, folds, [](uint32_t a, uint32_t b) { return a + b; });
  if (threadIdx.x == 0) {
    logprob[row] = static_cast<double>(mine) - static_cast<double>(highest) - log(sum);
    rank[row] = static_cast<int32_t>(ahead) + 1;
  }
}

}  // namespace

void process_logits(float* logits, int64_t stride, int32_t n, int32_t vocab, const SampleRow* rows,
                    const SampleLists& lists, int32_t* error, cudaStream_t stream) {
  require(vocab >= 1, "process_logits", "vocab >= 1");
  if (n == 0) return;
  launch("process_logits", process_kernel, dim3(static_cast<unsigned>(n)), dim3(kSampleThreads), 0, stream, logits,
         stride, vocab, rows, lists, error);
}

void token_logprobs(const float* logits, int64_t stride, int32_t n, int32_t vocab, const int32_t* token,
                    double* logprob, int32_t* rank, cudaStream_t stream) {
  if (n == 0) return;
  launch("token_logprobs", logprob_kernel, dim3(static_cast<unsigned>(n)), dim3(kSampleThreads), 0, stream, logits,
         stride, vocab, token, logprob, rank);
}

}  // namespace deploykit::cuda
