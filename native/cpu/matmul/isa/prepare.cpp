// Activations from float32 into the kinds that matrices ask for.
//
// int8, a group of 32 columns: scale = amax / 127, q = x * (127 / amax) to the nearest integer, ties to even: never
// -128. A group with amax under 1e-30 counts as zeros (its scale could be a denormal). The largest element is found by
// its bits, in which infinities and NaNs are above all numbers; a group that has one gets a NaN for its scale, which
// reaches every result.
#include "cpu/matmul/matmul.h"

#include "cpu/matmul/isa/simd.h"

namespace deploykit::cpu::DEPLOYKIT_ISA {
namespace {

constexpr float kTiny = 1e-30f;
constexpr float kLargest = 3.40282347e+38f;

struct Sums {
  int32_t low, high;  // of q in columns 0..15 and 16..31
};

float float_of(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

#if defined(DEPLOYKIT_ISA_avx512)

uint32_t largest(const float* x) {
  const __m512i mask = _mm512_set1_epi32(INT32_MAX);
  const __m512i a = _mm512_and_si512(_mm512_loadu_si512(x), mask);
  const __m512i b = _mm512_and_si512(_mm512_loadu_si512(x + 16), mask);
  return static_cast<uint32_t>(_mm512_reduce_max_epi32(_mm512_max_epi32(a, b)));
}

Sums quantize(const float* x, float inverse, int8_t* q) {
  const __m512 scale = _mm512_set1_ps(inverse);
  const __m512i a = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x), scale));
  const __m512i b = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + 16), scale));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(q), _mm512_cvtsepi32_epi8(a));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(q + 16), _mm512_cvtsepi32_epi8(b));
  return {_mm512_reduce_add_epi32(a), _mm512_reduce_add_epi32(b)};
}

#elif defined(DEPLOYKIT_ISA_avx2) || defined(DEPLOYKIT_ISA_avxvnni)

uint32_t largest(const float* x) {
  const __m256i mask = _mm256_set1_epi32(INT32_MAX);
  __m256i most = _mm256_setzero_si256();
  for (int i = 0; i < 4; ++i) {
    const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + 8 * i));
    most = _mm256_max_epi32(most, _mm256_and_si256(v, mask));
  }
  __m128i half = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
  half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0x4e));
  half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0xb1));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(half));
}

int32_t total(__m256i v) {
  __m128i half = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
  half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0xb1));
  return _mm_cvtsi128_si32(half);
}

Sums quantize(const float* x, float inverse, int8_t* q) {
  const __m256 scale = _mm256_set1_ps(inverse);
  __m256i v[4];
  for (int i = 0; i < 4; ++i) v[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), scale));
  const __m256i a = _mm256_packs_epi32(v[0], v[1]), b = _mm256_packs_epi32(v[2], v[3]);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b), order);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), bytes);
  return {total(_mm256_add_epi32(v[0], v[1])), total(_mm256_add_epi32(v[2], v[3]))};
}

#else

uint32_t largest(const float* x) {
  uint32_t most = 0;
  for (int i = 0; i < 32; ++i) {
    uint32_t bits;
    __builtin_memcpy(&bits, x + i, 4);
    bits &= 0x7fffffff;
    most = bits > most ? bits : most;
  }
  return most;
}

Sums quantize(const float* x, float inverse, int8_t* q) {
  Sums sums = {0, 0};
  for (int i = 0; i < 32; ++i) {
    const auto v = static_cast<int32_t>(__builtin_rintf(x[i] * inverse));
    q[i] = static_cast<int8_t>(v);
    (i < 16 ? sums.low : sums.high) += v;
  }
  return sums;
}

#endif

void prepare_int8(const Activations& a, int64_t row, int64_t col0, int64_t col1) {
  const int64_t groups = a.cols / kActGroup;
  for (int64_t g = col0 / kActGroup; g < col1 / kActGroup; ++g) {
    const int64_t at = row * a.cols + g * kActGroup, index = row * groups + g;
    const float most = float_of(largest(a.f32 + at));
    float scale = 0.0f;
    Sums sums = {0, 0};
    if (most >= kTiny && most <= kLargest) {
      scale = most / 127.0f;
      sums = quantize(a.f32 + at, 127.0f / most, a.q + at);
    } else {
      __builtin_memset(a.q + at, 0, 32);
      if (!(most < kTiny)) scale = most - most;
    }
    a.scale[index] = scale;
    a.sum[index] = scale * static_cast<float>(sums.low + sums.high);
    a.neg[index] = -(sums.low + sums.high);
    a.neg16[2 * index] = -sums.low;
    a.neg16[2 * index + 1] = -sums.high;
  }
}

// To nearest, ties to even; NaNs stay NaNs.
void prepare_bf16(const Activations& a, int64_t row, int64_t col0, int64_t col1) {
  const float* x = a.f32 + row * a.cols;
  uint16_t* y = a.bf16 + row * a.cols;
  for (int64_t k = col0; k < col1; ++k) {
    uint32_t bits;
    __builtin_memcpy(&bits, x + k, 4);
    const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    y[k] = static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? bits >> 16 | 0x40 : rounded);
  }
}

}  // namespace

void matmul_prepare(const Activations& a, ActKind kind, int64_t row0, int64_t row1, int64_t col0, int64_t col1) {
  for (int64_t row = row0; row < row1; ++row) {
    if (kind == ActKind::int8) prepare_int8(a, row, col0, col1);
    if (kind == ActKind::bf16) prepare_bf16(a, row, col0, col1);
  }
}

}  // namespace deploykit::cpu::DEPLOYKIT_ISA
