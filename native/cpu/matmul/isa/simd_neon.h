#pragma once

#include <arm_neon.h>

namespace deploykit::cpu::DEPLOYKIT_ISA {
namespace {

constexpr int kLanes = 4;
constexpr int kInt8Rows = 8;
constexpr int kFloatRows = 8;
using F = float32x4_t;
using I = int32x4_t;
using B = uint8x16_t;

DEPLOYKIT_INLINE F zero() { return vdupq_n_f32(0.0f); }
DEPLOYKIT_INLINE F broadcast(const float* p) { return vld1q_dup_f32(p); }
DEPLOYKIT_INLINE F load(const void* p) { return vld1q_f32(static_cast<const float*>(p)); }
DEPLOYKIT_INLINE void store(float* p, F x) { vst1q_f32(p, x); }
DEPLOYKIT_INLINE F load_half(const uint8_t* p) {
  return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)));
}
DEPLOYKIT_INLINE F mul(F a, F b) { return vmulq_f32(a, b); }
DEPLOYKIT_INLINE F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
DEPLOYKIT_INLINE F negate(F a) { return vnegq_f32(a); }
DEPLOYKIT_INLINE F to_float(I a) { return vcvtq_f32_s32(a); }
DEPLOYKIT_INLINE uint8x8_t four_bytes(const uint8_t* p) {
  uint32_t word;
  __builtin_memcpy(&word, p, 4);
  return vreinterpret_u8_u32(vdup_n_u32(word));
}
DEPLOYKIT_INLINE I from_u8(const uint8_t* p) {
  return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(four_bytes(p)))));
}
DEPLOYKIT_INLINE I from_i8(const uint8_t* p) {
  return vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(four_bytes(p)))));
}

DEPLOYKIT_INLINE B load_bytes(const uint8_t* p) { return vld1q_u8(p); }
DEPLOYKIT_INLINE B low_halves(B v) { return vandq_u8(v, vdupq_n_u8(15)); }
DEPLOYKIT_INLINE B high_halves(B v) { return vshrq_n_u8(v, 4); }
template <int kIndex>
DEPLOYKIT_INLINE I byte_of(B v) {
  uint32x4_t words = vreinterpretq_u32_u8(v);
  if constexpr (kIndex != 0) words = vshrq_n_u32(words, 8 * kIndex);
  return vreinterpretq_s32_u32(vandq_u32(words, vdupq_n_u32(255)));
}
DEPLOYKIT_INLINE F pair_first(B v) { return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_u8(v), 16)); }
DEPLOYKIT_INLINE F pair_second(B v) {
  return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_u8(v), vdupq_n_u32(0xffff0000u)));
}

// The dot product is of signed bytes: 4-bit quants are that, 8-bit ones become q - 128, and the other 128 activations
// come from their sum (`neg` is minus that).
template <int kBits, int kZero>
struct Dot {
  using Acc = I;
  DEPLOYKIT_INLINE static B prepare(B w) { return kBits == 8 ? veorq_u8(w, vdupq_n_u8(0x80)) : w; }
  DEPLOYKIT_INLINE static Acc begin(const int32_t* neg) {
    constexpr int32_t kFactor = kBits == 8 ? kZero - 128 : kZero;
    if constexpr (kFactor == 0) return vdupq_n_s32(0);
    return vmulq_n_s32(vld1q_dup_s32(neg), kFactor);
  }
  DEPLOYKIT_INLINE static Acc add(Acc acc, B w, const int8_t* a) {
    int32_t four;
    __builtin_memcpy(&four, a, 4);
    return vdotq_s32(acc, vreinterpretq_s8_u8(w), vreinterpretq_s8_s32(vdupq_n_s32(four)));
  }
  DEPLOYKIT_INLINE static I end(Acc acc, const int32_t*) { return acc; }
};

}  // namespace
}  // namespace deploykit::cpu::DEPLOYKIT_ISA
