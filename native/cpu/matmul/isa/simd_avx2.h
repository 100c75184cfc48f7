#pragma once

#include <immintrin.h>

namespace deploykit::cpu::DEPLOYKIT_ISA {
namespace {

constexpr int kLanes = 8;
constexpr int kInt8Rows = 4;
constexpr int kFloatRows = 8;
using F = __m256;
using I = __m256i;
using B = __m256i;

DEPLOYKIT_INLINE F zero() { return _mm256_setzero_ps(); }
DEPLOYKIT_INLINE F broadcast(const float* p) { return _mm256_broadcast_ss(p); }
DEPLOYKIT_INLINE F load(const void* p) { return _mm256_loadu_ps(static_cast<const float*>(p)); }
DEPLOYKIT_INLINE void store(float* p, F x) { _mm256_storeu_ps(p, x); }
DEPLOYKIT_INLINE F load_half(const uint8_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
DEPLOYKIT_INLINE F mul(F a, F b) { return _mm256_mul_ps(a, b); }
DEPLOYKIT_INLINE F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
DEPLOYKIT_INLINE F negate(F a) { return _mm256_xor_ps(a, _mm256_set1_ps(-0.0f)); }
DEPLOYKIT_INLINE F to_float(I a) { return _mm256_cvtepi32_ps(a); }
DEPLOYKIT_INLINE I from_u8(const uint8_t* p) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
DEPLOYKIT_INLINE I from_i8(const uint8_t* p) {
  return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}

DEPLOYKIT_INLINE B load_bytes(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
DEPLOYKIT_INLINE B low_halves(B v) { return _mm256_and_si256(v, _mm256_set1_epi8(15)); }
DEPLOYKIT_INLINE B high_halves(B v) { return low_halves(_mm256_srli_epi16(v, 4)); }
template <int kIndex>
DEPLOYKIT_INLINE I byte_of(B v) {
  return _mm256_and_si256(_mm256_srli_epi32(v, 8 * kIndex), _mm256_set1_epi32(255));
}
DEPLOYKIT_INLINE F pair_first(B v) { return _mm256_castsi256_ps(_mm256_slli_epi32(v, 16)); }
DEPLOYKIT_INLINE F pair_second(B v) {
  return _mm256_castsi256_ps(_mm256_and_si256(v, _mm256_set1_epi32(INT32_MIN >> 15)));
}

constexpr int log2_of(int n) { return n <= 1 ? 0 : 1 + log2_of(n / 2); }

DEPLOYKIT_INLINE I four_of(const int8_t* a) {
  int32_t four;
  __builtin_memcpy(&four, a, 4);
  return _mm256_set1_epi32(four);
}

// kZero * neg, `neg` being minus the sum of the activations.
template <int kZero>
DEPLOYKIT_INLINE I zero_term(const int32_t* neg) {
  if constexpr (kZero == 0) return _mm256_setzero_si256();
  return _mm256_slli_epi32(_mm256_set1_epi32(*neg), log2_of(kZero));
}

#if defined(DEPLOYKIT_ISA_avxvnni)

#if defined(__AVXVNNI__)
#define DEPLOYKIT_DPBUSD _mm256_dpbusd_avx_epi32
#else
#define DEPLOYKIT_DPBUSD _mm256_dpbusd_epi32  // the same instruction in AVX-512's encoding, to test this path there
#endif

template <int kBits, int kZero>
struct Dot {
  using Acc = I;
  DEPLOYKIT_INLINE static B prepare(B w) { return w; }
  DEPLOYKIT_INLINE static Acc begin(const int32_t* neg) { return zero_term<kZero>(neg); }
  DEPLOYKIT_INLINE static Acc add(Acc acc, B w, const int8_t* a) { return DEPLOYKIT_DPBUSD(acc, w, four_of(a)); }
  DEPLOYKIT_INLINE static I end(Acc acc, const int32_t*) { return acc; }
};

#else

template <int kBits, int kZero>
struct Dot;

// 4 bits: two products add up to at most 2 * 15 * 127 = 3,810 in size, and the eight steps of a group of 32 columns
// to 30,480: int16 sums are exact.
template <int kZero>
struct Dot<4, kZero> {
  using Acc = I;  // int16
  DEPLOYKIT_INLINE static B prepare(B w) { return w; }
  DEPLOYKIT_INLINE static Acc begin(const int32_t*) { return _mm256_setzero_si256(); }
  DEPLOYKIT_INLINE static Acc add(Acc acc, B w, const int8_t* a) {
    return _mm256_add_epi16(acc, _mm256_maddubs_epi16(w, four_of(a)));
  }
  DEPLOYKIT_INLINE static I end(Acc acc, const int32_t* neg) {
    return _mm256_add_epi32(_mm256_madd_epi16(acc, _mm256_set1_epi16(1)), zero_term<kZero>(neg));
  }
};

// 8 bits: unsigned 255 * 127 * 2 would saturate int16. With s = q - 128, |s| * (sign of s * a) adds up to at most
// 2 * 128 * 127 = 32,512, and the other 128 a's come from their sum.
template <int kZero>
struct Dot<8, kZero> {
  using Acc = I;  // int32
  DEPLOYKIT_INLINE static B prepare(B w) { return _mm256_xor_si256(w, _mm256_set1_epi8(INT8_MIN)); }
  DEPLOYKIT_INLINE static Acc begin(const int32_t* neg) {
    if constexpr (kZero == 128) return _mm256_setzero_si256();
    return _mm256_sub_epi32(zero_term<kZero>(neg), zero_term<128>(neg));
  }
  DEPLOYKIT_INLINE static Acc add(Acc acc, B w, const int8_t* a) {
    const I pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(four_of(a), w));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  DEPLOYKIT_INLINE static I end(Acc acc, const int32_t*) { return acc; }
};

#endif

}  // namespace
}  // namespace deploykit::cpu::DEPLOYKIT_ISA
