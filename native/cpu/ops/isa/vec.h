// Sixteen float32 lanes on every instruction set: one register, two, or an array. Sums over lanes have one fixed order.
// For sources in isa/ alone: everything is in the namespace of the instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(DEPLOYKIT_ISA_avx2) || defined(DEPLOYKIT_ISA_avxvnni) || defined(DEPLOYKIT_ISA_avx512)
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 takes the undefined operands of its own AVX-512 intrinsics for uninitialized variables.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#else
#include <immintrin.h>
#endif
#define DEPLOYKIT_VEC_X86 1
#endif

namespace deploykit::cpu::DEPLOYKIT_ISA {
namespace {

inline constexpr int64_t kLanes = 16;

// The same float as its bits.
inline uint32_t bits_of(float x) {
  uint32_t b;
  __builtin_memcpy(&b, &x, 4);
  return b;
}
inline float float_of(uint32_t b) {
  float x;
  __builtin_memcpy(&x, &b, 4);
  return x;
}

#if defined(DEPLOYKIT_ISA_avx512)

struct Vec {
  __m512 v;
};
using Mask16 = __mmask16;

inline Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
inline Mask16 first_lanes(int64_t n) { return static_cast<Mask16>(n >= 16 ? 0xffffu : (1u << n) - 1u); }
inline Vec load_n(const float* p, int64_t n) { return {_mm512_maskz_loadu_ps(first_lanes(n), p)}; }
inline void store_n(float* p, Vec a, int64_t n) { _mm512_mask_storeu_ps(p, first_lanes(n), a.v); }
inline Vec set1(float x) { return {_mm512_set1_ps(x)}; }
inline Vec add(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec sub(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec mul(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec div(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }    // a * b + c
inline Vec fnma(Vec a, Vec b, Vec c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }  // c - a * b
// Of the second operand where one is NaN.
inline Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Vec abs(Vec a) { return {_mm512_abs_ps(a.v)}; }
inline Mask16 less(Vec a, Vec b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ); }
inline Mask16 equal(Vec a, Vec b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ); }
inline Vec select(Mask16 m, Vec yes, Vec no) { return {_mm512_mask_mov_ps(no.v, m, yes.v)}; }
// 2^n for whole n in [-126, 127], n given as n + 1.5 * 2^23.
inline Vec exponent_of_magic(Vec magic) {
  const __m512i n = _mm512_add_epi32(_mm512_castps_si512(magic.v), _mm512_set1_epi32(127));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(n, 23))};
}

#elif defined(DEPLOYKIT_VEC_X86)

struct Vec {
  __m256 a, b;
};
using Mask16 = uint16_t;

inline Vec load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, Vec x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
inline Mask16 first_lanes(int64_t n) { return static_cast<Mask16>(n >= 16 ? 0xffffu : (1u << n) - 1u); }
inline Vec load_n(const float* p, int64_t n) {
  float full[16] = {};
  for (int64_t i = 0; i < n && i < 16; ++i) full[i] = p[i];
  return load(full);
}
inline void store_n(float* p, Vec x, int64_t n) {
  float full[16];
  store(full, x);
  for (int64_t i = 0; i < n && i < 16; ++i) p[i] = full[i];
}
inline Vec set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Vec add(Vec x, Vec y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline Vec sub(Vec x, Vec y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline Vec mul(Vec x, Vec y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline Vec div(Vec x, Vec y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline Vec fma(Vec x, Vec y, Vec z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
inline Vec fnma(Vec x, Vec y, Vec z) { return {_mm256_fnmadd_ps(x.a, y.a, z.a), _mm256_fnmadd_ps(x.b, y.b, z.b)}; }
inline Vec max(Vec x, Vec y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline Vec min(Vec x, Vec y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline Vec abs(Vec x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
inline Mask16 bits_of_lanes(__m256 a, __m256 b) {
  return static_cast<Mask16>(_mm256_movemask_ps(a) | (_mm256_movemask_ps(b) << 8));
}
inline Mask16 less(Vec x, Vec y) {
  return bits_of_lanes(_mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ));
}
inline Mask16 equal(Vec x, Vec y) {
  return bits_of_lanes(_mm256_cmp_ps(x.a, y.a, _CMP_EQ_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_EQ_OQ));
}
inline __m256 lanes_of_bits(uint32_t m) {
  const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i set = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(m)), bit);
  return _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, bit));
}
inline Vec select(Mask16 m, Vec yes, Vec no) {
  return {_mm256_blendv_ps(no.a, yes.a, lanes_of_bits(m)), _mm256_blendv_ps(no.b, yes.b, lanes_of_bits(m >> 8))};
}
inline __m256 exponent_of_magic(__m256 magic) {
  const __m256i n = _mm256_add_epi32(_mm256_castps_si256(magic), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(n, 23));
}
inline Vec exponent_of_magic(Vec magic) { return {exponent_of_magic(magic.a), exponent_of_magic(magic.b)}; }

#else  // scalar and whatever has no path of its own

struct Vec {
  float x[16];
};
using Mask16 = uint16_t;

#define DEPLOYKIT_LANES for (int i = 0; i < 16; ++i)
inline Vec load(const float* p) {
  Vec r;
  __builtin_memcpy(r.x, p, sizeof r.x);
  return r;
}
inline void store(float* p, const Vec& a) { __builtin_memcpy(p, a.x, sizeof a.x); }
inline Mask16 first_lanes(int64_t n) { return static_cast<Mask16>(n >= 16 ? 0xffffu : (1u << n) - 1u); }
inline Vec load_n(const float* p, int64_t n) {
  Vec r;
  DEPLOYKIT_LANES r.x[i] = i < n ? p[i] : 0.0f;
  return r;
}
inline void store_n(float* p, const Vec& a, int64_t n) {
  for (int64_t i = 0; i < n && i < 16; ++i) p[i] = a.x[i];
}
inline Vec set1(float x) {
  Vec r;
  DEPLOYKIT_LANES r.x[i] = x;
  return r;
}
inline Vec add(const Vec& a, const Vec& b) {
  Vec r;
  DEPLOYKIT_LANES r.x[i] = a.x[i] + b.x[i];
  return r;
}
inline Vec sub(const Vec& a, const Vec& b) {
  Vec r;
  DEPLOYKIT_LANES r.x[i] = a.x[i] - b.x[i];
  return r;
}
inline Vec mul(const Vec& a, const Vec& b) {
  Vec r;
  DEPLOYKIT_LANES r.x[i] = a.x[i] * b.x[i];
  return r;
}
inline Vec div(const Vec& a, const Vec& b) {
  Vec r;
  DEPLOYKIT_LANES r.x[i] = a.x[i] / b.x[i];
  return r;
}
// Two roundings: a fused operation would be a library call where the CPU has none.
inline Vec fma(const Vec& a, const Vec& b, const Vec& c) {
  Vec r;
  DEPLOYKIT_LANES r.x[i] = a.x[i] * b.x[i] + c.x[i];
  return r;
}
inline Vec fnma(const Vec& a, const Vec& b, const Vec& c) {
  Vec r;
  DEPLOYKIT_LANES r.x[i] = c.x[i] - a.x[i] * b.x[i];
  return r;
}
inline Vec max(const Vec& a, const Vec& b) {
  Vec r;
  DEPLOYKIT_LANES r.x[i] = a.x[i] > b.x[i] ? a.x[i] : b.x[i];
  return r;
}
inline Vec min(const Vec& a, const Vec& b) {
  Vec r;
  DEPLOYKIT_LANES r.x[i] = a.x[i] < b.x[i] ? a.x[i] : b.x[i];
  return r;
}
inline Vec abs(const Vec& a) {
  Vec r;
  DEPLOYKIT_LANES r.x[i] = __builtin_fabsf(a.x[i]);
  return r;
}
inline Mask16 less(const Vec& a, const Vec& b) {
  uint32_t m = 0;
  DEPLOYKIT_LANES m |= (a.x[i] < b.x[i] ? 1u : 0u) << i;
  return static_cast<Mask16>(m);
}
inline Mask16 equal(const Vec& a, const Vec& b) {
  uint32_t m = 0;
  DEPLOYKIT_LANES m |= (a.x[i] == b.x[i] ? 1u : 0u) << i;
  return static_cast<Mask16>(m);
}
inline Vec select(Mask16 m, const Vec& yes, const Vec& no) {
  Vec r;
  DEPLOYKIT_LANES r.x[i] = (m >> i & 1) ? yes.x[i] : no.x[i];
  return r;
}
inline Vec exponent_of_magic(const Vec& magic) {
  Vec r;
  DEPLOYKIT_LANES r.x[i] = float_of((bits_of(magic.x[i]) + 127u) << 23);
  return r;
}
#undef DEPLOYKIT_LANES

#endif

inline Vec zero() { return set1(0.0f); }

// Over lanes: i and i + 8 first, then i and i + 4, i + 2, i + 1.
#if defined(DEPLOYKIT_VEC_X86)
inline float sum_of_halves(__m256 low, __m256 high) {
  const __m256 eight = _mm256_add_ps(low, high);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
inline float largest_of_halves(__m256 low, __m256 high) {
  const __m256 eight = _mm256_max_ps(low, high);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}
#if defined(DEPLOYKIT_ISA_avx512)
inline float sum(Vec a) { return sum_of_halves(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1)); }
inline float largest(Vec a) { return largest_of_halves(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1)); }
#else
inline float sum(Vec a) { return sum_of_halves(a.a, a.b); }
inline float largest(Vec a) { return largest_of_halves(a.a, a.b); }
#endif
#else
inline float sum(Vec a) {
  for (int width = 8; width >= 1; width /= 2) {
    for (int i = 0; i < width; ++i) a.x[i] += a.x[i + width];
  }
  return a.x[0];
}
inline float largest(Vec a) {
  for (int width = 8; width >= 1; width /= 2) {
    for (int i = 0; i < width; ++i) a.x[i] = a.x[i] > a.x[i + width] ? a.x[i] : a.x[i + width];
  }
  return a.x[0];
}
#endif

}  // namespace
}  // namespace deploykit::cpu::DEPLOYKIT_ISA
