// Stores of K and V into KV memory, quantized as they are stored.
#include "cpu/attention/geometry.h"
#include "cpu/attention/isa/convert.h"
#include "cpu/attention/isa/mix.h"
#include "cpu/ops/isa/math.h"

namespace deploykit::cpu::DEPLOYKIT_ISA {

void store_tokens(const StoreTask& task);

namespace {

// Where one token goes: its tile of a block and its key in the tile.
struct Slot {
  uint8_t* key_tile;
  uint8_t* value_tile;
  uint16_t* scales;
  int32_t key;
};

inline Slot slot_of(const StoreTask& task, int32_t position) {
  const KvGeometry& g = task.geometry;
  uint8_t* head = task.head + task.blocks[position / task.block_len] * task.block_bytes;
  const int32_t in_block = position % task.block_len, tile = in_block / g.tile_keys;
  return {head + tile * g.key_tile_bytes, head + g.value_offset + tile * g.value_tile_bytes,
          reinterpret_cast<uint16_t*>(head + g.scale_offset + tile * g.scale_tile_bytes), in_block % g.tile_keys};
}

inline Vec load_upto(const float* p, int64_t n) { return n >= 16 ? load(p) : load_n(p, n); }

// x = zero + scale * q, q from 0 to `levels`; scale and zero f16, such that every x is within half a step. Anything
// that is not finite makes both NaN.
inline void quantize(const float* x, int32_t n, float levels, uint8_t* q, uint16_t& scale16, uint16_t& zero16) {
  Vec low = set1(x[0]), high = low, bad = zero();
  for (int32_t i = 0; i < n; i += 16) {
    const Vec v = n - i >= 16 ? load(x + i) : select(first_lanes(n - i), load_n(x + i, n - i), set1(x[0]));
    low = min(low, v);
    high = max(high, v);
    bad = fma(v, zero(), bad);
  }
  const float smallest = -largest(sub(zero(), low)), biggest = largest(high);
  if (!(sum(bad) == 0.0f)) {
    scale16 = zero16 = 0x7e00;
    for (int32_t i = 0; i < n; ++i) q[i] = 0;
    return;
  }
  zero16 = to_f16(smallest);
  if (from_f16(zero16) > smallest) {  // one step down
    zero16 = zero16 == 0 ? 0x8001 : static_cast<uint16_t>(zero16 & 0x8000 ? zero16 + 1 : zero16 - 1);
  }
  const float base = from_f16(zero16), exact = (biggest - base) / levels;
  scale16 = to_f16(exact);
  if (from_f16(scale16) < exact) ++scale16;
  const float step = from_f16(scale16);
  const Vec inverse = set1(step > 0.0f ? 1.0f / step : 0.0f), shift = set1(base), top = set1(levels);
  for (int32_t i = 0; i < n; i += 16) {
    const Vec v = mul(sub(load_upto(x + i, n - i), shift), inverse);
    const Vec whole = add(max(zero(), min(top, v)), set1(kRound));
    float magic[16];
    store(magic, whole);
    for (int j = 0; j < 16; ++j) q[i + j] = static_cast<uint8_t>(bits_of(magic[j]));
  }
}

inline void copy4(uint8_t* to, const void* from) { __builtin_memcpy(to, from, 4); }

void store_f32(const StoreTask& task, const float* k, const float* v, const Slot& s) {
  const int32_t keys = task.geometry.tile_keys;
  float* column = reinterpret_cast<float*>(s.key_tile) + s.key;
  for (int32_t i = 0; i < task.head_dim; ++i) column[int64_t{i} * keys] = k[i];
  uint8_t* row = s.value_tile + int64_t{s.key} * task.geometry.value_dims * 4;
  __builtin_memcpy(row, v, static_cast<size_t>(task.head_dim) * 4);
}

void store_half(const StoreTask& task, const float* k, const float* v, const Slot& s) {
  const int32_t keys = task.geometry.tile_keys;
  uint16_t half[kMaxHeadDim + 16];
  for (int32_t i = 0; i < task.head_dim; i += 16) store_f16(half + i, load_upto(k + i, task.head_dim - i));
  uint16_t* column = reinterpret_cast<uint16_t*>(s.key_tile) + s.key;
  for (int32_t i = 0; i < task.head_dim; ++i) column[int64_t{i} * keys] = half[i];
  uint16_t* row = reinterpret_cast<uint16_t*>(s.value_tile) + int64_t{s.key} * task.geometry.value_dims;
  for (int32_t i = 0; i < task.head_dim; i += 16) {  // the row is padded to 16
    store_f16(row + i, load_upto(v + i, task.head_dim - i));
  }
}

void store_bf16(const StoreTask& task, const float* k, const float* v, const Slot& s) {
  const int64_t row_bytes = int64_t{task.geometry.tile_keys} * 4;
  uint16_t half[kMaxHeadDim];
  for (int32_t i = 0; i < task.head_dim; ++i) half[i] = to_bf16(k[i]);
  uint8_t* column = s.key_tile + s.key * 4;
  for (int32_t i = 0; i < task.head_dim / 2; ++i) copy4(column + i * row_bytes, half + 2 * i);
  for (int32_t i = 0; i < task.head_dim; ++i) half[i] = to_bf16(v[i]);
  uint16_t* row = reinterpret_cast<uint16_t*>(s.value_tile);
  row += int64_t{s.key / 2} * task.geometry.value_dims * 2 + s.key % 2;
  for (int32_t i = 0; i < task.head_dim; ++i) row[2 * i] = half[i];
}

void store_quantized(const StoreTask& task, const float* k, const float* v, const Slot& s) {
  const KvGeometry& g = task.geometry;
  const int64_t row_bytes = int64_t{g.tile_keys} * 4;
  const bool four_bit_keys = task.type == KvType::int4;
  uint8_t q[kMaxHeadDim + 32] = {};
  uint16_t scale = 0, zero = 0;
  float mixed[kMaxHeadDim];
  if (four_bit_keys) {
    __builtin_memcpy(mixed, k, static_cast<size_t>(task.head_dim) * 4);
    mix(mixed, task.head_dim);
    k = mixed;
  }
  quantize(k, task.head_dim, four_bit_keys ? 15.0f : 255.0f, q, scale, zero);
  s.scales[s.key] = scale;
  s.scales[g.tile_keys + s.key] = zero;
  uint8_t* column = s.key_tile + s.key * 4;
  for (int32_t row = 0; row < g.key_rows; ++row) {
    if (four_bit_keys) {
      uint32_t low, high;
      __builtin_memcpy(&low, q + 8 * row, 4);
      __builtin_memcpy(&high, q + 8 * row + 4, 4);
      low |= high << 4;
      copy4(column + row * row_bytes, &low);
    } else {
      copy4(column + row * row_bytes, q + 4 * row);
    }
  }
  const bool four_bit_values = task.type != KvType::int8;
  quantize(v, task.head_dim, four_bit_values ? 15.0f : 255.0f, q, scale, zero);
  s.scales[2 * g.tile_keys + s.key] = scale;
  s.scales[3 * g.tile_keys + s.key] = zero;
  if (four_bit_values) {
    for (int32_t i = task.head_dim; i < g.value_dims; ++i) q[i] = 0;
    uint8_t* row = s.value_tile + int64_t{s.key / 4} * g.value_dims * 2 + s.key % 4;
    for (int32_t i = 0; i < g.value_dims; i += 32) {
      for (int32_t j = 0; j < 16; ++j) row[(i / 2 + j) * 4] = static_cast<uint8_t>(q[i + j] | q[i + 16 + j] << 4);
    }
  } else {
    uint8_t* row = s.value_tile + int64_t{s.key / 4} * g.value_dims * 4 + s.key % 4;
    for (int32_t i = 0; i < task.head_dim; ++i) row[4 * i] = static_cast<uint8_t>(q[i] - 128);
  }
}

}  // namespace

void store_tokens(const StoreTask& task) {
  for (int32_t i = 0; i < task.count; ++i) {
    const Slot slot = slot_of(task, task.position + i);
    const float* k = task.k + i * task.stride;
    const float* v = task.v + i * task.stride;
    switch (task.type) {
      case KvType::f32: store_f32(task, k, v, slot); break;
      case KvType::f16: store_half(task, k, v, slot); break;
      case KvType::bf16: store_bf16(task, k, v, slot); break;
      default: store_quantized(task, k, v, slot); break;
    }
  }
}

}  // namespace deploykit::cpu::DEPLOYKIT_ISA
