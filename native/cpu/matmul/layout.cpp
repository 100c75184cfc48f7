#include "cpu/matmul/layout.h"

#include <cstring>

#include "cpu/matmul/matmul.h"

namespace deploykit::cpu {

TileLayout tile_layout(int32_t kind, int64_t cols, int64_t group) {
  TileLayout t;
  t.groups = cols / kActGroup;
  const auto align = [](int64_t bytes) { return (bytes + 63) / 64 * 64; };
  switch (kind) {
    case kDenseF32: t.bytes = cols * 64; return t;
    case kDenseF16: t.bytes = align(cols * 32); return t;
    case kDenseBf16: t.bytes = (cols + 1) / 2 * 64; return t;
    case kU4D: t.bits = 4, t.record = 64, t.per_record = 2; break;
    case kU4DM: t.bits = 4, t.record = 64; break;
    case kU4DZ: t.bits = 4, t.record = 64, t.per_record = group / kActGroup; break;
    case kU4K: t.bits = 4, t.record = 320, t.per_record = 8; break;
    case kU8D16:
    case kU8D128: t.bits = 8, t.record = 64, t.per_record = 2; break;
    case kU8DM: t.bits = 8, t.record = 64; break;
    case kU8K: t.bits = 8, t.record = 320, t.per_record = 8; break;
    case kU8K6: t.bits = 8, t.record = 320, t.per_record = 8; break;
    case kU8Row: t.bits = 8, t.record = 64, t.per_record = t.groups; break;
    default: break;
  }
  t.block = t.record + t.per_record * t.bits * 64;
  t.bytes = (t.groups + t.per_record - 1) / t.per_record * t.block;
  return t;
}

float half_to_float(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  const uint32_t exponent = bits >> 10 & 0x1f;
  const uint32_t mantissa = bits & 0x3ff;
  float value = 0.0f;
  if (exponent == 0) {
    value = static_cast<float>(mantissa) * 0x1p-24f;
  } else {
    const uint32_t word = (exponent == 31 ? 0xffu << 23 : (exponent + 112) << 23) | mantissa << 13;
    std::memcpy(&value, &word, 4);
  }
  uint32_t word = 0;
  std::memcpy(&word, &value, 4);
  word |= sign;
  std::memcpy(&value, &word, 4);
  return value;
}

uint16_t float_to_bf16(float value) {
  uint32_t bits = 0;
  std::memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

namespace {

float half_at(const uint8_t* p, int64_t index) {
  uint16_t bits = 0;
  std::memcpy(&bits, p + index * 2, 2);
  return half_to_float(bits);
}

}  // namespace

void read_group(const uint8_t* tile, int32_t kind, const TileLayout& layout, int64_t lane, int64_t group,
                RowGroup& out) {
  const uint8_t* q = tile + layout.quants_at(group) + lane * 4;
  if (layout.bits == 4) {
    for (int j = 0; j < 4; ++j) {
      for (int b = 0; b < 4; ++b) {
        out.q[8 * j + b] = q[64 * j + b] & 15;
        out.q[8 * j + 4 + b] = q[64 * j + b] >> 4;
      }
    }
  } else {
    for (int j = 0; j < 8; ++j) std::memcpy(out.q + 4 * j, q + 64 * j, 4);
  }
  const uint8_t* r = tile + layout.record_at(group);
  const int64_t part = group % layout.per_record;
  float d = 0.0f, m = 0.0f;
  switch (kind) {
    case kU4D: d = half_at(r, part * 16 + lane), m = -8.0f * d; break;
    case kU8D16: d = half_at(r, part * 16 + lane), m = -16.0f * d; break;
    case kU8D128: d = half_at(r, part * 16 + lane), m = -128.0f * d; break;
    case kU4DM:
    case kU8DM: d = half_at(r, lane), m = half_at(r, 16 + lane); break;
    case kU4DZ: d = half_at(r, lane), m = -static_cast<float>(r[32 + lane]) * d; break;
    case kU4K:
    case kU8K:
      d = half_at(r, lane) * static_cast<float>(r[64 + part * 32 + lane]);
      m = -half_at(r, 16 + lane) * static_cast<float>(r[80 + part * 32 + lane]);
      break;
    case kU8K6:
      for (int i = 0; i < 2; ++i) {
        int8_t scale = 0;
        std::memcpy(&scale, r + 64 + (part * 2 + i) * 16 + lane, 1);
        out.d[i] = half_at(r, lane) * static_cast<float>(scale);
        out.m[i] = -32.0f * out.d[i];
      }
      return;
    case kU8Row: std::memcpy(&d, r + lane * 4, 4), m = -128.0f * d; break;
    default: break;
  }
  out.d[0] = out.d[1] = d;
  out.m[0] = out.m[1] = m;
}

}  // namespace deploykit::cpu
