// Repacking of stored weights into tiles of 16 rows.
#include <cmath>
#include <cstring>
#include <string>

#include "cpu/matmul/blocks.h"
#include "cpu/matmul/layout.h"
#include "cpu/matmul/matmul.h"
#include "deploykit/error.h"

namespace deploykit::cpu {
namespace {

void check_part(const std::string& name, const char* part, const void* data, int64_t bytes, int64_t expected) {
  if (bytes == expected && (data != nullptr || expected == 0)) return;
  throw Error("invalid", name + ": " + part + " should have " + std::to_string(expected) + " bytes, found " +
                             std::to_string(data == nullptr ? 0 : bytes));
}

[[noreturn]] void bad_scale(const std::string& name, int64_t row, int64_t col) {
  throw Error("invalid", name + ": the scale or minimum of row " + std::to_string(row) + ", column " +
                             std::to_string(col) + " is not finite; the file is damaged");
}

bool finite_half(uint16_t bits) { return (bits & 0x7c00) != 0x7c00; }

void put_half(uint8_t* record, int64_t index, uint16_t bits) { std::memcpy(record + index * 2, &bits, 2); }

struct Target {
  const WeightTensor& tensor;
  const PackedMatrix& matrix;
  TileLayout layout;

  uint8_t* tile(int64_t row) const { return matrix.data + row / kTileRows * matrix.tile_bytes; }
  uint8_t* record(int64_t row, int64_t group) const { return tile(row) + layout.record_at(group); }

  // 32 columns of a row.
  void put(int64_t row, int64_t group, const uint8_t* q) const {
    uint8_t* out = tile(row) + layout.quants_at(group) + row % kTileRows * 4;
    uint32_t words[8];
    std::memcpy(words, q, 32);
    if (layout.bits == 4) {
      for (int j = 0; j < 4; ++j) {
        const uint32_t word = words[2 * j] | words[2 * j + 1] << 4;
        std::memcpy(out + 64 * j, &word, 4);
      }
    } else {
      for (int j = 0; j < 8; ++j) std::memcpy(out + 64 * j, &words[j], 4);
    }
  }
};

// GGUF blocks of 32: d, or d and m, then the quants as `decode` says.
void pack_blocks32(const Target& t, int64_t block_bytes, bool minimum, void (*decode)(const uint8_t*, uint8_t*)) {
  const auto* source = static_cast<const uint8_t*>(t.tensor.data);
  for (int64_t row = 0; row < t.matrix.rows; ++row) {
    const int64_t lane = row % kTileRows;
    for (int64_t g = 0; g < t.layout.groups; ++g, source += block_bytes) {
      uint16_t scales[2] = {0, 0};
      std::memcpy(scales, source, minimum ? 4 : 2);
      if (!finite_half(scales[0]) || !finite_half(scales[1])) bad_scale(t.tensor.spec.name, row, g * kActGroup);
      uint8_t* record = t.record(row, g);
      put_half(record, g % t.layout.per_record * 16 + lane, scales[0]);
      if (minimum) put_half(record, 16 + lane, scales[1]);
      uint8_t q[32];
      decode(source, q);
      t.put(row, g, q);
    }
  }
}

// q4_k and q5_k: 256 columns with d and dmin, a 6-bit scale and minimum for each 32.
void pack_blocks256(const Target& t, int64_t block_bytes, void (*decode)(const uint8_t*, uint8_t*)) {
  const auto* source = static_cast<const uint8_t*>(t.tensor.data);
  for (int64_t row = 0; row < t.matrix.rows; ++row) {
    const int64_t lane = row % kTileRows;
    for (int64_t g = 0; g < t.layout.groups; g += 8, source += block_bytes) {
      uint16_t scales[2];
      std::memcpy(scales, source, 4);
      if (!finite_half(scales[0]) || !finite_half(scales[1])) bad_scale(t.tensor.spec.name, row, g * kActGroup);
      uint8_t* record = t.record(row, g);
      put_half(record, lane, scales[0]);
      put_half(record, 16 + lane, scales[1]);
      uint8_t q[256];
      decode(source, q);
      for (int64_t i = 0; i < 8; ++i) {
        read_scale_k4(source + 4, i, record[64 + i * 32 + lane], record[80 + i * 32 + lane]);
        t.put(row, g + i, q + 32 * i);
      }
    }
  }
}

void pack_q6_k(const Target& t) {
  const auto* source = static_cast<const uint8_t*>(t.tensor.data);
  for (int64_t row = 0; row < t.matrix.rows; ++row) {
    const int64_t lane = row % kTileRows;
    for (int64_t g = 0; g < t.layout.groups; g += 8, source += 210) {
      uint16_t scale = 0;
      std::memcpy(&scale, source + 208, 2);
      if (!finite_half(scale)) bad_scale(t.tensor.spec.name, row, g * kActGroup);
      uint8_t* record = t.record(row, g);
      put_half(record, lane, scale);
      for (int64_t i = 0; i < 16; ++i) record[64 + i * 16 + lane] = source[192 + i];
      uint8_t q[256];
      decode_q6_k(source, q);
      for (int64_t i = 0; i < 8; ++i) t.put(row, g + i, q + 32 * i);
    }
  }
}

void pack_int8(const Target& t) {
  const auto* source = static_cast<const uint8_t*>(t.tensor.data);
  const auto* scales = static_cast<const uint8_t*>(t.tensor.scales);
  for (int64_t row = 0; row < t.matrix.rows; ++row) {
    const int64_t lane = row % kTileRows;
    uint32_t scale = 0;
    std::memcpy(&scale, scales + row * 4, 4);
    if ((scale & 0x7f800000) == 0x7f800000) bad_scale(t.tensor.spec.name, row, 0);
    std::memcpy(t.record(row, 0) + lane * 4, &scale, 4);
    for (int64_t g = 0; g < t.layout.groups; ++g, source += 32) {
      uint8_t q[32];
      for (int i = 0; i < 32; ++i) q[i] = source[i] ^ 0x80;
      t.put(row, g, q);
    }
  }
}

uint32_t word_at(const void* data, int64_t index) {
  uint32_t word = 0;
  std::memcpy(&word, static_cast<const uint8_t*>(data) + index * 4, 4);
  return word;
}

// awq and gptq; they differ in which nibble of which word a weight is.
void pack_zeros(const Target& t, bool awq) {
  static constexpr int kAwqNibble[8] = {0, 4, 1, 5, 2, 6, 3, 7};  // AutoAWQ's order of 8 neighbouring rows in a word
  const WeightTensor& w = t.tensor;
  const int64_t rows = t.matrix.rows, words = rows / 8;
  const auto* scales = static_cast<const uint8_t*>(w.scales);
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t lane = row % kTileRows;
    const int shift = 4 * (awq ? kAwqNibble[row % 8] : static_cast<int>(row % 8));
    for (int64_t g = 0; g < t.layout.groups; ++g) {
      uint8_t q[32];
      if (awq) {
        for (int64_t i = 0; i < 32; ++i) q[i] = word_at(w.data, (g * 32 + i) * words + row / 8) >> shift & 15;
      } else {
        for (int64_t i = 0; i < 4; ++i) {
          const uint32_t word = word_at(w.data, (g * 4 + i) * rows + row);
          for (int n = 0; n < 8; ++n) q[i * 8 + n] = word >> (4 * n) & 15;
        }
      }
      t.put(row, g, q);
      if (g % t.layout.per_record != 0) continue;
      const int64_t scale_group = g / t.layout.per_record;
      uint16_t scale = 0;
      std::memcpy(&scale, scales + (scale_group * rows + row) * 2, 2);
      if (!finite_half(scale)) bad_scale(w.spec.name, row, g * kActGroup);
      uint8_t* record = t.record(row, g);
      put_half(record, lane, scale);
      const uint32_t zero = word_at(w.zeros, scale_group * words + row / 8) >> shift & 15;
      record[32 + lane] = static_cast<uint8_t>(zero + static_cast<uint32_t>(w.zero_offset));
    }
  }
}

template <class T>
void pack_dense(const Target& t) {
  const auto* source = static_cast<const uint8_t*>(t.tensor.data);
  const int64_t cols = t.matrix.cols;
  const bool pairs = t.matrix.kind == kDenseBf16;
  for (int64_t row = 0; row < t.matrix.rows; ++row) {
    uint8_t* tile = t.tile(row);
    const int64_t lane = row % kTileRows;
    for (int64_t k = 0; k < cols; ++k, source += sizeof(T)) {
      const int64_t index = pairs ? (k / 2 * 16 + lane) * 2 + k % 2 : k * 16 + lane;
      std::memcpy(tile + index * static_cast<int64_t>(sizeof(T)), source, sizeof(T));
    }
  }
}

}  // namespace

void pack_matrix(const PackedMatrix& m, const WeightTensor& tensor) {
  const WeightSpec& spec = tensor.spec;
  if (m.data == nullptr) throw Error("internal", spec.name + ": the packed matrix has no memory");
  if (m.rows != spec.rows || m.cols != spec.cols) {
    throw Error("invalid", spec.name + ": the shape [" + std::to_string(spec.rows) + ", " + std::to_string(spec.cols) +
                               "] is not the planned [" + std::to_string(m.rows) + ", " + std::to_string(m.cols) + "]");
  }
  const int32_t planned = plan_matrix(spec, DType::f32, Isa::scalar).kind;
  if (planned != m.kind) throw Error("invalid", spec.name + ": the weight format is not the planned one");
  const StoredBytes stored = stored_bytes(spec);
  check_part(spec.name, "data", tensor.data, tensor.data_bytes, stored.data);
  check_part(spec.name, "scales", tensor.scales, tensor.scales_bytes, stored.scales);
  check_part(spec.name, "zeros", tensor.zeros, tensor.zeros_bytes, stored.zeros);
  if (tensor.zero_offset < 0 || tensor.zero_offset > 1) {
    throw Error("invalid", spec.name + ": zero offset " + std::to_string(tensor.zero_offset) + " is neither 0 nor 1");
  }

  const Target t{tensor, m, tile_layout(m.kind, m.cols, m.group)};
  std::memset(m.data, 0, static_cast<size_t>(packed_bytes(m)));
  switch (spec.format) {
    case WeightFormat::f32: return pack_dense<uint32_t>(t);
    case WeightFormat::f16:
    case WeightFormat::bf16: return pack_dense<uint16_t>(t);
    case WeightFormat::int8: return pack_int8(t);
    case WeightFormat::q4_0: return pack_blocks32(t, 18, false, decode_q4_0);
    case WeightFormat::q4_1: return pack_blocks32(t, 20, true, decode_q4_1);
    case WeightFormat::q5_0: return pack_blocks32(t, 22, false, decode_q5_0);
    case WeightFormat::q5_1: return pack_blocks32(t, 24, true, decode_q5_1);
    case WeightFormat::q8_0: return pack_blocks32(t, 34, false, decode_q8_0);
    case WeightFormat::q4_k: return pack_blocks256(t, 144, decode_q4_k);
    case WeightFormat::q5_k: return pack_blocks256(t, 176, decode_q5_k);
    case WeightFormat::q6_k: return pack_q6_k(t);
    case WeightFormat::awq: return pack_zeros(t, true);
    case WeightFormat::gptq: return pack_zeros(t, false);
  }
}

void unpack_row(const PackedMatrix& m, int64_t row, float* out) {
  const uint8_t* tile = m.data + row / kTileRows * m.tile_bytes;
  const int64_t lane = row % kTileRows;
  if (is_dense(m.kind)) {
    for (int64_t k = 0; k < m.cols; ++k) {
      if (m.kind == kDenseF32) {
        std::memcpy(out + k, tile + (k * 16 + lane) * 4, 4);
        continue;
      }
      const bool pairs = m.kind == kDenseBf16;
      uint16_t bits = 0;
      std::memcpy(&bits, tile + (pairs ? (k / 2 * 16 + lane) * 2 + k % 2 : k * 16 + lane) * 2, 2);
      const uint32_t word = static_cast<uint32_t>(bits) << 16;
      if (pairs) {
        std::memcpy(out + k, &word, 4);
      } else {
        out[k] = half_to_float(bits);
      }
    }
    return;
  }
  const TileLayout layout = tile_layout(m.kind, m.cols, m.group);
  RowGroup group;
  for (int64_t g = 0; g < layout.groups; ++g) {
    read_group(tile, m.kind, layout, lane, g, group);
    for (int i = 0; i < 32; ++i) out[g * 32 + i] = std::fma(group.d[i / 16], group.q[i], group.m[i / 16]);
  }
}

}  // namespace deploykit::cpu
