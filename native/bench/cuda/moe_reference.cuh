// Routing and the products of a mixture of experts in float64, and random logits.
#pragma once

#include "linear_reference.cuh"

using namespace bench;

namespace {

MoeSpec spec_of(int experts, int top_k, bool normalize = true, bool sigmoid = false, bool after = false) {
  MoeSpec spec;
  spec.experts = experts, spec.top_k = top_k;
  spec.normalize = normalize, spec.sigmoid = sigmoid, spec.softmax_after_topk = after;
  return spec;
}

enum class Logits { normal, tied, equal, one_expert, skewed };

std::vector<float> random_logits(Logits kind, int tokens, int experts) {
  Buffer<float> device(int64_t{tokens} * experts);
  normal(device.data, device.count, 2.0f);
  std::vector<float> v = device.host();
  for (size_t i = 0; i < v.size(); ++i) {
    const int e = static_cast<int>(i) % experts;
    if (kind == Logits::tied) v[i] = std::round(v[i]) * 0.5f;  // -0 beside 0, too
    if (kind == Logits::equal) v[i] = 0.25f;
    if (kind == Logits::one_expert && e == experts / 2) v[i] = 50.0f;
    if (kind == Logits::skewed) v[i] -= 6.0f * static_cast<float>(e) / experts;
  }
  return v;
}

struct Routed {
  std::vector<int32_t> expert, slot, token, begin;
  std::vector<double> weight;
};

// The definition, in float64.
Routed reference_routes(const MoeSpec& spec, const std::vector<float>& logits, int tokens,
                        const std::vector<int32_t>& row) {
  Routed out;
  const size_t places = static_cast<size_t>(tokens) * spec.top_k;
  out.expert.assign(places, -1), out.slot.assign(places, -1), out.weight.assign(places, 0);
  out.begin.assign(static_cast<size_t>(spec.experts) + 1, 0);
  for (int t = 0; t < tokens; ++t) {
    if (!row.empty() && row[t] < 0) continue;
    const float* own = logits.data() + size_t(t) * spec.experts;
    std::vector<int32_t> order(spec.experts);
    for (int e = 0; e < spec.experts; ++e) order[e] = e;
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return own[a] > own[b]; });
    double sum = 0, all = 0;
    for (int e = 0; e < spec.experts; ++e) all += std::exp(double(own[e]) - own[order[0]]);
    for (int rank = 0; rank < spec.top_k; ++rank) {
      const double logit = own[order[rank]];
      const double v = spec.sigmoid ? 1 / (1 + std::exp(-logit)) : std::exp(logit - own[order[0]]);
      out.expert[size_t(t) * spec.top_k + rank] = order[rank];
      out.weight[size_t(t) * spec.top_k + rank] = v;
      sum += v;
      ++out.begin[order[rank] + 1];
    }
    const double divisor = spec.normalize || spec.softmax_after_topk ? sum : spec.sigmoid ? 1 : all;
    for (int rank = 0; rank < spec.top_k; ++rank) out.weight[size_t(t) * spec.top_k + rank] /= divisor;
  }
  for (int e = 0; e < spec.experts; ++e) out.begin[e + 1] += out.begin[e];
  std::vector<int32_t> next(out.begin.begin(), out.begin.end() - 1);
  out.token.assign(static_cast<size_t>(out.begin.back()), -1);
  for (size_t i = 0; i < places; ++i) {
    if (out.expert[i] < 0) continue;
    out.slot[i] = next[out.expert[i]]++;
    out.token[out.slot[i]] = static_cast<int32_t>(i / spec.top_k);
  }
  return out;
}

__global__ void reference_expert_sums(const float* w, const float* x, const int32_t* token, const int32_t* begin,
                                      const float* bias, int64_t slots, int64_t n, int64_t k, double* sums) {
  const int64_t i = blockIdx.x * 256ll + threadIdx.x;
  if (i >= slots * n) return;
  const int64_t slot = i / n, row = i % n;
  int64_t e = 0;
  while (begin[e + 1] <= slot) ++e;
  const float* own = w + (e * n + row) * k;
  const float* in = x + (token != nullptr ? token[slot] : slot) * k;
  double sum = bias != nullptr ? bias[e * n + row] : 0.0;
  for (int64_t j = 0; j < k; ++j) sum += double(in[j]) * own[j];
  sums[i] = sum;
}
// end 0: as they are; 1: activated; 2: gated.
__global__ void reference_expert_end(const double* sums, int64_t slots, int64_t n, int end, int activation, double* out) {
  const int64_t n_out = end == 2 ? n / 2 : n, i = blockIdx.x * 256ll + threadIdx.x;
  if (i >= slots * n_out) return;
  const int64_t slot = i / n_out, o = i % n_out;
  if (end == 2) {
    const int64_t row = o / 8 * 16 + o % 8;
    out[i] = reference_activation(activation, sums[slot * n + row]) * sums[slot * n + row + 8];
  } else {
    out[i] = end == 1 ? reference_activation(activation, sums[i]) : sums[i];
  }
}
template <class T>
__global__ void pack_rows(const T* in, int64_t stride, int64_t rows, int64_t n, T* out) {
  const int64_t i = blockIdx.x * 256ll + threadIdx.x;
  if (i < rows * n) out[i] = in[i / n * stride + i % n];
}
// Rows from `first` on, and what lies behind each row, must still be poison.
template <class T>
__global__ void count_touched(const T* in, int64_t stride, int64_t first, int64_t rows, int64_t n, unsigned* touched) {
  const int64_t i = blockIdx.x * 256ll + threadIdx.x;
  if (i >= rows * stride) return;
  const bool poison = reinterpret_cast<const uint16_t*>(in)[i] == 0xffff;
  if (!poison && (i / stride >= first || i % stride >= n)) atomicAdd(touched, 1u);
}

}  // namespace
