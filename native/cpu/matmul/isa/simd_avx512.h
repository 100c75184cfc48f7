#pragma once

// GCC's own header starts some intrinsics from an undefined value and then warns of it (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

namespace deploykit::cpu::DEPLOYKIT_ISA {
namespace {

constexpr int kLanes = 16;
constexpr int kInt8Rows = 12;   // rows of activations that keep their sums in registers
constexpr int kFloatRows = 12;
using F = __m512;
using I = __m512i;
using B = __m512i;

DEPLOYKIT_INLINE F zero() { return _mm512_setzero_ps(); }
DEPLOYKIT_INLINE F broadcast(const float* p) { return _mm512_set1_ps(*p); }
DEPLOYKIT_INLINE F load(const void* p) { return _mm512_loadu_ps(p); }
DEPLOYKIT_INLINE void store(float* p, F x) { _mm512_storeu_ps(p, x); }
DEPLOYKIT_INLINE F load_half(const uint8_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
DEPLOYKIT_INLINE F mul(F a, F b) { return _mm512_mul_ps(a, b); }
DEPLOYKIT_INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
DEPLOYKIT_INLINE F negate(F a) {
  return _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(a), _mm512_set1_epi32(INT32_MIN)));
}
DEPLOYKIT_INLINE F to_float(I a) { return _mm512_cvtepi32_ps(a); }
DEPLOYKIT_INLINE I from_u8(const uint8_t* p) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
DEPLOYKIT_INLINE I from_i8(const uint8_t* p) {
  return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

DEPLOYKIT_INLINE B load_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
DEPLOYKIT_INLINE B low_halves(B v) { return _mm512_and_si512(v, _mm512_set1_epi8(15)); }
DEPLOYKIT_INLINE B high_halves(B v) { return low_halves(_mm512_srli_epi16(v, 4)); }
template <int kIndex>
DEPLOYKIT_INLINE I byte_of(B v) {
  return _mm512_and_si512(_mm512_srli_epi32(v, 8 * kIndex), _mm512_set1_epi32(255));
}
// Pairs of bfloat16, a pair a lane: the first and the second of each, exactly.
DEPLOYKIT_INLINE F pair_first(B v) { return _mm512_castsi512_ps(_mm512_slli_epi32(v, 16)); }
DEPLOYKIT_INLINE F pair_second(B v) {
  return _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32(INT32_MIN >> 15)));
}

constexpr int log2_of(int n) { return n <= 1 ? 0 : 1 + log2_of(n / 2); }

template <int kBits, int kZero>
struct Dot {
  using Acc = I;
  DEPLOYKIT_INLINE static B prepare(B w) { return w; }
  // `neg` is minus the sum of the activations.
  DEPLOYKIT_INLINE static Acc begin(const int32_t* neg) {
    if constexpr (kZero == 0) return _mm512_setzero_si512();
    return _mm512_slli_epi32(_mm512_set1_epi32(*neg), log2_of(kZero));
  }
  DEPLOYKIT_INLINE static Acc add(Acc acc, B w, const int8_t* a) {
    int32_t four;
    __builtin_memcpy(&four, a, 4);
    return _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(four));
  }
  DEPLOYKIT_INLINE static I end(Acc acc, const int32_t*) { return acc; }
};

// acc + w.second * a.second, then + w.first * a.first, each rounded once (denormals taken as zero).
DEPLOYKIT_INLINE F dot_pairs(F acc, B w, const uint16_t* a) {
  int32_t two;
  __builtin_memcpy(&two, a, 4);
  return _mm512_dpbf16_ps(acc, reinterpret_cast<__m512bh>(w), reinterpret_cast<__m512bh>(_mm512_set1_epi32(two)));
}

}  // namespace
}  // namespace deploykit::cpu::DEPLOYKIT_ISA
