// Step 6 of docs/sampling.md alone, for batches without any other parameter, and the count of what was drawn.
#include "cuda/kernels/sampling.cuh"

namespace deploykit::cuda {
namespace {

constexpr int kParts = kSampleParts;

// Ordered key above, complement of the id below: the largest is the argmax with the lowest id. All ones: not finite.
__global__ void __launch_bounds__(256)
    argmax_parts(const float* logits, int64_t stride, int32_t vocab, unsigned long long* parts) {
  __shared__ unsigned long long best_of[8];
  wait_prior_grid();
  allow_next_grid();
  const float* x = logits + blockIdx.y * stride;
  unsigned long long best = 0;
  for (int i = blockIdx.x * 256 + threadIdx.x; i < vocab; i += kParts * 256) {
    const float v = x[i];
    const unsigned long long key =
        isfinite(v) ? static_cast<unsigned long long>(key_of(v)) << 32 | ~static_cast<uint32_t>(i) : ~0ull;
    best = key > best ? key : best;
  }
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    const unsigned long long other = __shfl_xor_sync(0xffffffffu, best, offset);
    best = other > best ? other : best;
  }
  if (threadIdx.x % 32 == 0) best_of[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < 8; ++w) best = best_of[w] > best ? best_of[w] : best;
  parts[blockIdx.y * kParts + blockIdx.x] = best;
}
__global__ void __launch_bounds__(32) argmax_end(const unsigned long long* parts, int32_t* token) {
  wait_prior_grid();
  allow_next_grid();
  unsigned long long best = __ldcg(parts + blockIdx.x * kParts + threadIdx.x);
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    const unsigned long long other = __shfl_xor_sync(0xffffffffu, best, offset);
    best = other > best ? other : best;
  }
  if (threadIdx.x == 0)
    token[blockIdx.x] = best == ~0ull ? kSampleNonfinite : static_cast<int32_t>(~static_cast<uint32_t>(best));
}

__global__ void count_kernel(const SampleRow* rows, const int32_t* token, int32_t n, int32_t vocab, uint32_t* counts) {
  wait_prior_grid();
  allow_next_grid();
  const int i = blockIdx.x * 256 + threadIdx.x;
  if (i >= n || rows[i].slot < 0 || token[i] < 0) return;
  counts[static_cast<int64_t>(rows[i].slot) * vocab + token[i]] += 1;
}

}  // namespace

void argmax(const float* logits, int64_t stride, int32_t n, int32_t vocab, int32_t* token, void* workspace,
            cudaStream_t stream) {
  require(vocab >= 1 && n <= 65535, "argmax", "vocab >= 1 and n <= 65535");
  if (n == 0) return;
  auto* parts = static_cast<unsigned long long*>(workspace);
  launch("argmax", argmax_parts, dim3(kParts, static_cast<unsigned>(n)), dim3(256), 0, stream, logits, stride, vocab,
         parts);
  launch("argmax", argmax_end, dim3(static_cast<unsigned>(n)), dim3(32), 0, stream,
         static_cast<const unsigned long long*>(parts), token);
}

void count_tokens(const SampleRow* rows, const int32_t* token, int32_t n, int32_t vocab, uint32_t* counts,
                  cudaStream_t stream) {
  if (n == 0) return;
  launch("count_tokens", count_kernel, dim3(static_cast<unsigned>(ceil_div(n, 256))), dim3(256), 0, stream, rows, token,
         n, vocab, counts);
}

}  // namespace deploykit::cuda
