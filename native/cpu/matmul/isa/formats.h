// What a kernel must know about a packed layout, at compile time.
#pragma once

#include "cpu/matmul/layout.h"
#include "cpu/matmul/isa/simd.h"

namespace deploykit::cpu::DEPLOYKIT_ISA {
namespace {

struct Scale {
  F d, m;  // w = d * q + m
};

template <int32_t kKind>
struct Format {
  static constexpr int kBits = kKind == kU4D || kKind == kU4DM || kKind == kU4DZ || kKind == kU4K ? 4 : 8;
  // 0 = the minimum is stored
  static constexpr int kZero =
      kKind == kU4D ? 8 : kKind == kU8D16 ? 16 : kKind == kU8D128 || kKind == kU8Row ? 128 : kKind == kU8K6 ? 32 : 0;
  static constexpr int kParts = kKind == kU8K6 ? 2 : 1;  // scales within a group of 32 columns
  static constexpr bool kRowScale = kKind == kU8Row;     // one scale a row: taken once, at the end
  static constexpr int kGroupBytes = 64 * kBits;
  static constexpr bool kSuper = kKind == kU4K || kKind == kU8K || kKind == kU8K6;  // scales of 256 columns together
  static constexpr int kRecord = kSuper ? 320 : 64;
  static constexpr int kGroups = kSuper                                 ? 8  // that share a record;
                                 : kKind == kU4DZ || kKind == kU8Row    ? 0  // 0 = as the layout says
                                 : kKind == kU4DM || kKind == kU8DM     ? 1
                                                                        : 2;

  // Of the record's group `index`, its part, and lanes [lane, lane + kLanes). Products are exact in float32.
  DEPLOYKIT_INLINE static Scale scale(const uint8_t* record, int64_t index, int part, int lane) {
    constexpr float kMinusZero = -kZero;
    Scale s;
    if constexpr (kKind == kU4DM || kKind == kU8DM) {
      s.d = load_half(record + 2 * lane);
      s.m = load_half(record + 32 + 2 * lane);
    } else if constexpr (kKind == kU4DZ) {
      s.d = load_half(record + 2 * lane);
      s.m = mul(s.d, negate(to_float(from_u8(record + 32 + lane))));
    } else if constexpr (kKind == kU4K || kKind == kU8K) {
      const uint8_t* small = record + 64 + index * 32 + lane;
      s.d = mul(load_half(record + 2 * lane), to_float(from_u8(small)));
      s.m = mul(load_half(record + 32 + 2 * lane), negate(to_float(from_u8(small + 16))));
    } else if constexpr (kKind == kU8K6) {
      s.d = mul(load_half(record + 2 * lane), to_float(from_i8(record + 64 + (index * 2 + part) * 16 + lane)));
      s.m = mul(s.d, broadcast(&kMinusZero));
    } else if constexpr (kKind == kU8Row) {
      s.d = load(record + 4 * lane);
      s.m = mul(s.d, broadcast(&kMinusZero));
    } else {
      s.d = load_half(record + index * 32 + 2 * lane);
      s.m = mul(s.d, broadcast(&kMinusZero));
    }
    return s;
  }
};

}  // namespace
}  // namespace deploykit::cpu::DEPLOYKIT_ISA
