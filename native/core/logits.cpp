#include "core/logits.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

namespace deploykit {
namespace {

// Vectors of 64 bytes: the compiler splits them for instruction sets whose registers are smaller. Lanes and their
// order are the same everywhere, and nothing is fused, so the results are too.
typedef float F16 __attribute__((vector_size(64)));
typedef float F8 __attribute__((vector_size(32)));
typedef float F4 __attribute__((vector_size(16)));
typedef int32_t I16 __attribute__((vector_size(64)));
typedef double D8 __attribute__((vector_size(64)));
typedef int64_t L8 __attribute__((vector_size(64)));

#define DEPLOYKIT_INLINE static inline __attribute__((always_inline))

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr double kNegligible = -50.0;  // exponents below this add nothing that float64 keeps

DEPLOYKIT_INLINE F16 load16(const float* x) {
  F16 v;
  std::memcpy(&v, x, sizeof v);
  return v;
}

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define DEPLOYKIT_SHUFFLE 1
#endif
#endif

DEPLOYKIT_INLINE float highest(F16 v) {
#ifdef DEPLOYKIT_SHUFFLE
  const F8 low = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7);
  const F8 high = __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
  const F8 v8 = low > high ? low : high;
  const F4 first = __builtin_shufflevector(v8, v8, 0, 1, 2, 3), second = __builtin_shufflevector(v8, v8, 4, 5, 6, 7);
  F4 v4 = first > second ? first : second;
  F4 other = __builtin_shufflevector(v4, v4, 2, 3, 0, 1);
  v4 = v4 > other ? v4 : other;
  other = __builtin_shufflevector(v4, v4, 1, 0, 3, 2);
  v4 = v4 > other ? v4 : other;
  return v4[0];
#else
  float max = v[0];
  for (int j = 1; j < 16; ++j) max = v[j] > max ? v[j] : max;
  return max;
#endif
}

DEPLOYKIT_INLINE I16 magnitude(F16 v) {
  I16 bits;
  std::memcpy(&bits, &v, sizeof bits);
  return bits & 0x7fffffff;
}

DEPLOYKIT_INLINE bool maxima_body(const float* x, int64_t vocab, float* maxima) {
  I16 largest = {};  // magnitudes as integers: those of infinity and NaN are the largest
  const int64_t whole = vocab / kLogitBlock;
  for (int64_t b = 0; b < whole; ++b) {
    F16 best = load16(x + b * kLogitBlock);
    const I16 first = magnitude(best);
    largest = first > largest ? first : largest;
    for (int64_t j = 16; j < kLogitBlock; j += 16) {
      const F16 v = load16(x + b * kLogitBlock + j);
      const I16 size = magnitude(v);
      largest = size > largest ? size : largest;
      best = v > best ? v : best;
    }
    maxima[b] = highest(best);
  }
  bool finite = true;
  if (whole * kLogitBlock < vocab) {
    float max = -kInf;
    for (int64_t i = whole * kLogitBlock; i < vocab; ++i) {
      int32_t bits;
      std::memcpy(&bits, x + i, sizeof bits);
      finite &= (bits & 0x7f800000) != 0x7f800000;
      max = x[i] > max ? x[i] : max;
    }
    maxima[whole] = max;
  }
  for (int j = 0; j < 16; ++j) finite &= largest[j] < 0x7f800000;
  return finite;
}

// exp of non-positive numbers, within 1e-15 of it; below -700 it is 0. exp(0) is exactly 1.
DEPLOYKIT_INLINE D8 exp8(D8 d) {
  const double kMagic = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer, in the low bits
  const D8 lowest = D8{} - 700.0;
  const L8 keep = d > lowest;
  d = keep ? d : lowest;
  const D8 shifted = d * 1.4426950408889634 + kMagic;
  const D8 n = shifted - kMagic;
  const D8 r = (d - n * 0.693147180369123816490) - n * 1.90821492927058770002e-10;
  // Taylor to r^13: |r| <= ln(2) / 2, so the rest is below 1e-17
  const D8 r2 = r * r, r4 = r2 * r2;
  const D8 c45 = r * 8.333333333333333e-03 + 4.1666666666666664e-02;
  const D8 c67 = r * 1.984126984126984e-04 + 1.388888888888889e-03;
  const D8 c89 = r * 2.7557319223985893e-06 + 2.48015873015873e-05;
  const D8 c1011 = r * 2.505210838544172e-08 + 2.755731922398589e-07;
  const D8 c1213 = r * 1.6059043836821613e-10 + 2.08767569878681e-09;
  const D8 c23 = r * 1.6666666666666666e-01 + 0.5;
  const D8 high = (c1213 * r2 + c1011) * r4 + (c89 * r2 + c67);  // terms from r^6 on, divided by r^6
  const D8 middle = high * r2 + c45;                             // from r^4 on
  D8 p = (middle * r2 + c23) * r2 + r + 1.0;
  L8 bits, exponent;
  std::memcpy(&bits, &p, sizeof bits);
  std::memcpy(&exponent, &shifted, sizeof exponent);
  bits += exponent << 52;  // the low bits of `shifted` are n
  std::memcpy(&p, &bits, sizeof p);
  return keep ? p : D8{};
}

// `inverse` is that of the temperature; a difference is above -inf or times an inverse that is at most 1e300.
DEPLOYKIT_INLINE D8 weights8(const float* x, double max, double inverse) {
  F8 v;
  std::memcpy(&v, x, sizeof v);
  return exp8((__builtin_convertvector(v, D8) - max) * inverse);
}

// 0 * inverse must be 0, so the inverse stays finite: temperatures below 1e-300 leave the best tokens alone anyway.
DEPLOYKIT_INLINE double inverse_of(double temperature) { return 1.0 / (temperature > 1e-300 ? temperature : 1e-300); }

DEPLOYKIT_INLINE double block_sum(const float* x, double max, double inverse) {
  D8 sum = weights8(x, max, inverse);
  for (int64_t j = 8; j < kLogitBlock; j += 8) sum += weights8(x + j, max, inverse);
  return ((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7]));
}

DEPLOYKIT_INLINE double sums_body(const LogitRow& row, double temperature, double* sums) {
  const double max = row.max, inverse = inverse_of(temperature);
  const int64_t blocks = logit_blocks(row.vocab);
  double total = 0;
  for (int64_t b = 0; b < blocks; ++b) {
    sums[b] = 0;
    // not (a >= b): a masked block's -inf is negligible too
    if (!((static_cast<double>(row.maxima[b]) - max) * inverse >= kNegligible)) continue;
    const int64_t at = b * kLogitBlock;
    if (at + kLogitBlock <= row.vocab) {
      sums[b] = block_sum(row.x + at, max, inverse);
    } else {
      float tail[kLogitBlock];
      for (int64_t j = 0; j < kLogitBlock; ++j) tail[j] = at + j < row.vocab ? row.x[at + j] : -kInf;
      sums[b] = block_sum(tail, max, inverse);
    }
    total += sums[b];
  }
  return total;
}

DEPLOYKIT_INLINE void weights_body(const float* x, int64_t count, float max, double temperature, double* weights) {
  const double inverse = inverse_of(temperature);
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const D8 w = weights8(x + i, max, inverse);
    std::memcpy(weights + i, &w, sizeof w);
  }
  if (i == count) return;
  float tail[8];
  for (int64_t j = 0; j < 8; ++j) tail[j] = i + j < count ? x[i + j] : -kInf;
  const D8 w = weights8(tail, max, inverse);
  std::memcpy(weights + i, &w, static_cast<size_t>(count - i) * sizeof(double));
}

#define DEPLOYKIT_VARIANT(name, attribute)                                                                       \
  attribute bool maxima_##name(const float* x, int64_t n, float* maxima) { return maxima_body(x, n, maxima); }   \
  attribute double sums_##name(const LogitRow& row, double t, double* sums) { return sums_body(row, t, sums); } \
  attribute void weights_##name(const float* x, int64_t n, float max, double t, double* w) {                     \
    weights_body(x, n, max, t, w);                                                                               \
  }                                                                                                              \
  const LogitKernels kernels_##name{#name, maxima_##name, sums_##name, weights_##name};

DEPLOYKIT_VARIANT(base, )
#if defined(__x86_64__)
DEPLOYKIT_VARIANT(avx2, __attribute__((target("avx2"))))
DEPLOYKIT_VARIANT(avx512, __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl"))))
#endif

const LogitKernels& kernels() {
  static const LogitKernels& best = *logit_kernels().front();
  return best;
}

}  // namespace

std::vector<const LogitKernels*> logit_kernels() {
  std::vector<const LogitKernels*> found;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl")) {
    found.push_back(&kernels_avx512);
  }
  if (__builtin_cpu_supports("avx2")) found.push_back(&kernels_avx2);
#endif
  found.push_back(&kernels_base);
  return found;
}

bool block_maxima(const float* x, int64_t vocab, float* maxima) { return kernels().maxima(x, vocab, maxima); }

LogitRow logit_row(const float* x, int64_t vocab, const float* maxima) {
  return {x, vocab, maxima, *std::max_element(maxima, maxima + logit_blocks(vocab))};
}

int32_t first_maximum(const LogitRow& row) {
  int64_t b = 0;
  while (row.maxima[b] != row.max) ++b;
  int64_t i = b * kLogitBlock;
  while (row.x[i] != row.max) ++i;
  return static_cast<int32_t>(i);
}

double exp_sums(const LogitRow& row, double temperature, double* sums) {
  return kernels().sums(row, temperature, sums);
}

void exp_weights(const float* x, int64_t count, float max, double temperature, double* weights) {
  kernels().weights(x, count, max, temperature, weights);
}

namespace {

constexpr int kBuckets = 2048;

// The k-th highest value where k is large: counts by value, then only the values of one bucket.
float kth_by_counts(const LogitRow& row, int64_t k, std::vector<float>& buffer) {
  const float lowest = std::numeric_limits<float>::lowest();
  float min = row.max;
  for (int64_t i = 0; i < row.vocab; ++i) min = row.x[i] >= lowest && row.x[i] < min ? row.x[i] : min;
  if (min == row.max) return min;
  const double scale = (kBuckets - 1) / (static_cast<double>(row.max) - min);
  const auto bucket = [&](float value) { return static_cast<int>((static_cast<double>(row.max) - value) * scale); };
  int64_t counts[kBuckets] = {};
  for (int64_t i = 0; i < row.vocab; ++i) {
    if (row.x[i] >= lowest) ++counts[bucket(row.x[i])];
  }
  int chosen = 0;
  while (chosen < kBuckets && k > counts[chosen]) k -= counts[chosen++];
  if (chosen == kBuckets) return lowest;
  buffer.clear();
  for (int64_t i = 0; i < row.vocab; ++i) {
    if (row.x[i] >= lowest && bucket(row.x[i]) == chosen) buffer.push_back(row.x[i]);
  }
  std::nth_element(buffer.begin(), buffer.begin() + (k - 1), buffer.end(), std::greater<float>());
  return buffer[static_cast<size_t>(k - 1)];
}

}  // namespace

float kth_highest(const LogitRow& row, int64_t k, std::vector<float>& buffer) {
  const int64_t blocks = logit_blocks(row.vocab);
  if (k > blocks) return kth_by_counts(row, k, buffer);
  // Every block's maximum is a token's value, so the k-th value is at least the k-th maximum.
  buffer.assign(row.maxima, row.maxima + blocks);
  std::nth_element(buffer.begin(), buffer.begin() + (k - 1), buffer.end(), std::greater<float>());
  const float low = std::max(std::numeric_limits<float>::lowest(), buffer[static_cast<size_t>(k - 1)]);
  buffer.clear();
  for (int64_t b = 0; b < blocks; ++b) {
    if (!(row.maxima[b] >= low)) continue;
    const int64_t end = std::min(row.vocab, (b + 1) * kLogitBlock);
    for (int64_t i = b * kLogitBlock; i < end; ++i) {
      if (row.x[i] >= low) buffer.push_back(row.x[i]);
    }
  }
  if (static_cast<int64_t>(buffer.size()) < k) return std::numeric_limits<float>::lowest();
  std::nth_element(buffer.begin(), buffer.begin() + (k - 1), buffer.end(), std::greater<float>());
  return buffer[static_cast<size_t>(k - 1)];
}

void collect_at_least(const LogitRow& row, float value, std::vector<int32_t>& ids) {
  ids.clear();
  const int64_t blocks = logit_blocks(row.vocab);
  for (int64_t b = 0; b < blocks; ++b) {
    if (!(row.maxima[b] >= value)) continue;
    const int64_t begin = b * kLogitBlock, end = std::min(row.vocab, begin + kLogitBlock);
    size_t count = ids.size();
    ids.resize(count + static_cast<size_t>(kLogitBlock));
    for (int64_t i = begin; i < end; ++i) {  // without a branch: about every second one would be missed
      ids[count] = static_cast<int32_t>(i);
      count += row.x[i] >= value;
    }
    ids.resize(count);
  }
}

int32_t rank_of(const LogitRow& row, int32_t token) {
  const float own = row.x[token];
  const int64_t blocks = logit_blocks(row.vocab);
  int32_t ahead = 0;
  for (int64_t b = 0; b < blocks; ++b) {
    if (!(row.maxima[b] >= own)) continue;
    const int64_t begin = b * kLogitBlock, end = std::min(row.vocab, begin + kLogitBlock);
    for (int64_t i = begin; i < end; ++i) ahead += row.x[i] > own || (row.x[i] == own && i < token);
  }
  return ahead + 1;
}

}  // namespace deploykit
