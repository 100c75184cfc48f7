// A model without weights: logits are a hash of (token, position), peaked at one token. It measures what a step costs
// before any layer is computed, and tests the engine around the model.
#include "cuda/engine/device.h"
#include "cuda/engine/null_forward.h"

namespace deploykit::cuda {
namespace {

// The token that follows `token` at `position`.
__host__ __device__ uint32_t next_token(uint32_t token, uint32_t position, uint32_t vocab) {
  uint32_t x = token * 2654435761u ^ (position + 1) * 2246822519u;
  x ^= x >> 15;
  x *= 2246822519u;
  x ^= x >> 13;
  return x % vocab;
}

// Row i of `out` from token tokens[i] of the batch, or token first + i where there is no list.
__global__ void null_logits(StepArrays step, const int32_t* tokens, int32_t first, int32_t vocab, float* out) {
  const int32_t index = static_cast<int32_t>(blockIdx.y), token = tokens != nullptr ? tokens[index] : first + index;
  const uint32_t best = next_token(static_cast<uint32_t>(step.token_ids[token]),
                                   static_cast<uint32_t>(step.positions[token]), static_cast<uint32_t>(vocab));
  float* row = out + static_cast<int64_t>(index) * vocab;
  for (int32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < vocab; i += gridDim.x * blockDim.x) {
    row[i] = static_cast<uint32_t>(i) == best ? 8.0f : static_cast<float>((i * 7919) % 127) / 127.0f;
  }
}

}  // namespace

NullForward::NullForward(const ModelDescription& model, const EngineOptions& options)
    : vocab_(model.vocab), hidden_(model.hidden) {
  logits_.allocate((static_cast<int64_t>(options.max_rows) + 1) * vocab_);
}

void NullForward::forward(const ForwardArgs& args, cudaStream_t stream) {
  last_ = args.step;
  const dim3 grid(16, static_cast<unsigned>(args.slices));
  null_logits<<<grid, 256, 0, stream>>>(args.step, args.step.last, 0, vocab_, logits_.get());
  DK_CUDA(cudaGetLastError());
}

void NullForward::logits_of(int32_t first, int32_t count, float* out, cudaStream_t stream) {
  const dim3 grid(16, static_cast<unsigned>(count));
  null_logits<<<grid, 256, 0, stream>>>(last_, nullptr, first, vocab_, out);
  DK_CUDA(cudaGetLastError());
}

std::vector<float> NullForward::hidden_of(int32_t, cudaStream_t) {
  return std::vector<float>(static_cast<size_t>(hidden_), 0.0f);
}

}  // namespace deploykit::cuda
