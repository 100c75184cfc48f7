#pragma once

namespace deploykit::cpu::DEPLOYKIT_ISA {
namespace {

constexpr int kLanes = 16;
constexpr int kInt8Rows = 4;
constexpr int kFloatRows = 4;
struct F {
  float v[16];
};
struct I {
  int32_t v[16];
};
struct B {
  uint8_t v[64];
};

DEPLOYKIT_INLINE F zero() { return F{}; }
DEPLOYKIT_INLINE F broadcast(const float* p) {
  F out;
  for (float& x : out.v) x = *p;
  return out;
}
DEPLOYKIT_INLINE F load(const void* p) {
  F out;
  __builtin_memcpy(out.v, p, 64);
  return out;
}
DEPLOYKIT_INLINE void store(float* p, F x) { __builtin_memcpy(p, x.v, 64); }
DEPLOYKIT_INLINE F load_half(const uint8_t* p) {
  F out;
  for (int i = 0; i < 16; ++i) {
    uint16_t bits;
    __builtin_memcpy(&bits, p + 2 * i, 2);
    out.v[i] = half_to_float(bits);
  }
  return out;
}
DEPLOYKIT_INLINE F mul(F a, F b) {
  for (int i = 0; i < 16; ++i) a.v[i] *= b.v[i];
  return a;
}
DEPLOYKIT_INLINE F fma(F a, F b, F c) {
  for (int i = 0; i < 16; ++i) c.v[i] = __builtin_fmaf(a.v[i], b.v[i], c.v[i]);
  return c;
}
DEPLOYKIT_INLINE F negate(F a) {
  for (float& x : a.v) x = -x;
  return a;
}
DEPLOYKIT_INLINE F to_float(I a) {
  F out;
  for (int i = 0; i < 16; ++i) out.v[i] = static_cast<float>(a.v[i]);
  return out;
}
DEPLOYKIT_INLINE I from_u8(const uint8_t* p) {
  I out;
  for (int i = 0; i < 16; ++i) out.v[i] = p[i];
  return out;
}
DEPLOYKIT_INLINE I from_i8(const uint8_t* p) {
  I out;
  for (int i = 0; i < 16; ++i) out.v[i] = p[i] < 128 ? p[i] : p[i] - 256;
  return out;
}

DEPLOYKIT_INLINE B load_bytes(const uint8_t* p) {
  B out;
  __builtin_memcpy(out.v, p, 64);
  return out;
}
DEPLOYKIT_INLINE B low_halves(B v) {
  for (uint8_t& x : v.v) x &= 15;
  return v;
}
DEPLOYKIT_INLINE B high_halves(B v) {
  for (uint8_t& x : v.v) x = static_cast<uint8_t>(x >> 4);
  return v;
}
template <int kIndex>
DEPLOYKIT_INLINE I byte_of(B v) {
  I out;
  for (int i = 0; i < 16; ++i) out.v[i] = v.v[4 * i + kIndex];
  return out;
}
DEPLOYKIT_INLINE F pair_part(const B& v, int part) {
  F out;
  for (int i = 0; i < 16; ++i) {
    const uint32_t word = static_cast<uint32_t>(v.v[4 * i + 2 * part] | v.v[4 * i + 2 * part + 1] << 8) << 16;
    __builtin_memcpy(&out.v[i], &word, 4);
  }
  return out;
}
DEPLOYKIT_INLINE F pair_first(B v) { return pair_part(v, 0); }
DEPLOYKIT_INLINE F pair_second(B v) { return pair_part(v, 1); }

template <int kBits, int kZero>
struct Dot {
  using Acc = I;
  DEPLOYKIT_INLINE static B prepare(B w) { return w; }
  DEPLOYKIT_INLINE static Acc begin(const int32_t* neg) {
    Acc acc;
    for (int32_t& x : acc.v) x = kZero * *neg;
    return acc;
  }
  DEPLOYKIT_INLINE static Acc add(Acc acc, B w, const int8_t* a) {
    for (int i = 0; i < 16; ++i) {
      int32_t sum = 0;
      for (int b = 0; b < 4; ++b) sum += w.v[4 * i + b] * a[b];
      acc.v[i] += sum;
    }
    return acc;
  }
  DEPLOYKIT_INLINE static I end(Acc acc, const int32_t*) { return acc; }
};

}  // namespace
}  // namespace deploykit::cpu::DEPLOYKIT_ISA
