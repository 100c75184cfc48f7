// What comes out of a transformer: the last norm, the head, and one token's hidden state on the host.
#include <cmath>
#include <cstring>

#include "cuda/model/transformer.h"

namespace deploykit::cuda {
namespace {

float half_to_float(uint16_t bits) {
  const float sign = bits & 0x8000 ? -1.0f : 1.0f;
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(mantissa), -24);
  if (exponent == 31) return mantissa ? std::nanf("") : sign * HUGE_VALF;
  return sign * std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25);
}

}  // namespace

void Transformer::final_norm(const int32_t* index, const void* x, int32_t rows, void* out, cudaStream_t stream) {
  NormCall last;
  last.dtype = dtype_;
  last.norm = model_.norm;
  last.weight = weights_.final_norm();
  last.bias = weights_.final_norm_bias();
  last.rows = rows;
  last.n = model_.hidden;
  last.x = x;
  last.x_stride = model_.hidden;
  last.y = out;
  last.y_stride = model_.hidden;
  last.gather = index;
  norm(last, stream);
}

void Transformer::head(const void* hidden, int32_t rows, float* out, cudaStream_t stream) {
  LinearCall call = product(weights_.head(), rows, hidden, out, model_.vocab);
  call.y_f32 = true;
  linear_->run(weights_.head(), call, stream);
  if (model_.logits_multiplier != 1.0f || model_.logits_softcap > 0.0f) {
    scale_softcap(out, int64_t{rows} * model_.vocab, model_.logits_multiplier, model_.logits_softcap, stream);
  }
}

void Transformer::logits_of(int32_t first, int32_t count, float* out, cudaStream_t stream) {
  final_norm(nullptr, x_.get() + int64_t{first} * model_.hidden, count, branch_.get(), stream);
  head(branch_.get(), count, out, stream);
}

std::vector<float> Transformer::hidden_of(int32_t index, cudaStream_t stream) {
  const int64_t hidden = model_.hidden;
  final_norm(nullptr, x_.get() + int64_t{index} * hidden, 1, branch_.get(), stream);
  std::vector<uint16_t> raw(static_cast<size_t>(hidden));
  DK_CUDA(cudaMemcpyAsync(raw.data(), branch_.get(), raw.size() * 2, cudaMemcpyDeviceToHost, stream));
  DK_CUDA(cudaStreamSynchronize(stream));
  std::vector<float> out(raw.size());
  for (size_t i = 0; i < raw.size(); ++i) {
    if (dtype_ == DType::bf16) {
      const uint32_t bits = uint32_t{raw[i]} << 16;
      std::memcpy(&out[i], &bits, 4);
    } else {
      out[i] = half_to_float(raw[i]);
    }
  }
  return out;
}

}  // namespace deploykit::cuda
