// float32 to and from what KV memory stores.
#pragma once

#include "cpu/ops/isa/vec.h"

namespace deploykit::cpu::DEPLOYKIT_ISA {
namespace {

#if defined(DEPLOYKIT_VEC_X86)
inline float from_f16(uint16_t h) { return _cvtsh_ss(h); }
inline uint16_t to_f16(float x) { return static_cast<uint16_t>(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT)); }
#else
inline float from_f16(uint16_t h) {
  const uint32_t magnitude = static_cast<uint32_t>(h & 0x7fffu) << 13, sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  const uint32_t finite = bits_of(float_of(magnitude) * 0x1p112f);
  const uint32_t special = magnitude | 0x7f800000u;
  return float_of(((h & 0x7c00u) == 0x7c00u ? special : finite) | sign);
}
// To the nearest, ties to even.
inline uint16_t to_f16(float x) {
  const uint32_t u = bits_of(x), sign = (u >> 16) & 0x8000u, a = u & 0x7fffffffu;
  uint32_t h = 0;
  if (a > 0x7f800000u) {
    h = 0x7e00u;
  } else if (a >= 0x477ff000u) {
    h = 0x7c00u;
  } else if (a < 0x38800000u) {
    h = bits_of(float_of(a) + 0.5f) - 0x3f000000u;  // subnormal: the addition rounds at 2^-24
  } else {
    h = (a + 0xfffu + (a >> 13 & 1u) - 0x38000000u) >> 13;
  }
  return static_cast<uint16_t>(h | sign);
}
#endif

inline uint16_t to_bf16(float x) {
  const uint32_t u = bits_of(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(u >> 16 | 0x40u);
  return static_cast<uint16_t>((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

// Sixteen at once.
#if defined(DEPLOYKIT_ISA_avx512)

inline Vec load_f16(const uint16_t* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p))}; }
inline void store_f16(uint16_t* p, Vec x) {
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT));
}
// The even and the odd ones of sixteen pairs of bf16.
inline void load_bf16_pairs(const void* p, Vec& even, Vec& odd) {
  const __m512i pairs = _mm512_loadu_si512(p);
  even = {_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16))};
  odd = {_mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000u))))};
}
// Bits `mask` of sixteen words shifted right by `shift`, after flipping those of `flip`, as floats.
inline Vec field(const void* p, int shift, int mask, int flip) {
  const __m512i flipped = _mm512_xor_si512(_mm512_loadu_si512(p), _mm512_set1_epi32(flip));
  const __m512i words = _mm512_srl_epi32(flipped, _mm_cvtsi32_si128(shift));
  return {_mm512_cvtepi32_ps(_mm512_and_si512(words, _mm512_set1_epi32(mask)))};
}

#elif defined(DEPLOYKIT_VEC_X86)

inline Vec load_f16(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p + 1))};
}
inline void store_f16(uint16_t* p, Vec x) {
  _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128((__m128i*)p + 1, _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
}
inline void load_bf16_pairs(const void* p, Vec& even, Vec& odd) {
  const __m256i a = _mm256_loadu_si256((const __m256i*)p), b = _mm256_loadu_si256((const __m256i*)p + 1);
  const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  even = {_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(b, 16))};
  odd = {_mm256_castsi256_ps(_mm256_and_si256(a, high)), _mm256_castsi256_ps(_mm256_and_si256(b, high))};
}
inline Vec field(const void* p, int shift, int mask, int flip) {
  const __m128i by = _mm_cvtsi32_si128(shift);
  const __m256i f = _mm256_set1_epi32(flip);
  const __m256i a = _mm256_srl_epi32(_mm256_xor_si256(_mm256_loadu_si256((const __m256i*)p), f), by);
  const __m256i b = _mm256_srl_epi32(_mm256_xor_si256(_mm256_loadu_si256((const __m256i*)p + 1), f), by);
  const __m256i m = _mm256_set1_epi32(mask);
  return {_mm256_cvtepi32_ps(_mm256_and_si256(a, m)), _mm256_cvtepi32_ps(_mm256_and_si256(b, m))};
}

#else

inline Vec load_f16(const uint16_t* p) {
  Vec r;
  for (int i = 0; i < 16; ++i) r.x[i] = from_f16(p[i]);
  return r;
}
inline void store_f16(uint16_t* p, const Vec& x) {
  for (int i = 0; i < 16; ++i) p[i] = to_f16(x.x[i]);
}
inline void load_bf16_pairs(const void* p, Vec& even, Vec& odd) {
  uint32_t pairs[16];
  __builtin_memcpy(pairs, p, sizeof pairs);
  for (int i = 0; i < 16; ++i) {
    even.x[i] = float_of(pairs[i] << 16);
    odd.x[i] = float_of(pairs[i] & 0xffff0000u);
  }
}
inline Vec field(const void* p, int shift, int mask, int flip) {
  uint32_t words[16];
  __builtin_memcpy(words, p, sizeof words);
  Vec r;
  for (int i = 0; i < 16; ++i) r.x[i] = static_cast<float>((words[i] ^ static_cast<uint32_t>(flip)) >> shift & mask);
  return r;
}

#endif

}  // namespace
}  // namespace deploykit::cpu::DEPLOYKIT_ISA
