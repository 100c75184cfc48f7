// Random weights in every stored format, and what they mean: written from the formats' definitions, one element at a
// time, without the library's decoders.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "deploykit/weights.h"

namespace stored {

using deploykit::WeightFormat;
using deploykit::WeightSpec;
using deploykit::WeightTensor;
using Bytes = std::vector<uint8_t>;

struct Matrix {
  WeightSpec spec;
  Bytes data, scales, zeros;
  int32_t zero_offset = 0;
  WeightTensor tensor() const {
    WeightTensor t;
    t.spec = spec;
    t.data = data.data();
    t.data_bytes = static_cast<int64_t>(data.size());
    t.scales = scales.empty() ? nullptr : scales.data();
    t.scales_bytes = static_cast<int64_t>(scales.size());
    t.zeros = zeros.empty() ? nullptr : zeros.data();
    t.zeros_bytes = static_cast<int64_t>(zeros.size());
    t.zero_offset = zero_offset;
    return t;
  }
};

struct Case {
  WeightFormat format;
  const char* name;
  int64_t multiple;  // of columns
  int32_t group;
  int32_t zero_offset;
};

inline const std::vector<Case>& quantized_cases() {
  static const std::vector<Case> all = {
      {WeightFormat::int8, "int8", 32, 0, 0},      {WeightFormat::q4_0, "q4_0", 32, 0, 0},
      {WeightFormat::q4_1, "q4_1", 32, 0, 0},      {WeightFormat::q5_0, "q5_0", 32, 0, 0},
      {WeightFormat::q5_1, "q5_1", 32, 0, 0},      {WeightFormat::q8_0, "q8_0", 32, 0, 0},
      {WeightFormat::q4_k, "q4_k", 256, 0, 0},     {WeightFormat::q5_k, "q5_k", 256, 0, 0},
      {WeightFormat::q6_k, "q6_k", 256, 0, 0},     {WeightFormat::awq, "awq/128", 128, 128, 0},
      {WeightFormat::awq, "awq/32", 32, 32, 0},    {WeightFormat::gptq, "gptq/64", 64, 64, 1},
      {WeightFormat::gptq, "gptq/96", 96, 96, 0},
  };
  return all;
}

inline const std::vector<Case>& dense_cases() {
  static const std::vector<Case> all = {
      {WeightFormat::f32, "f32", 1, 0, 0}, {WeightFormat::f16, "f16", 1, 0, 0}, {WeightFormat::bf16, "bf16", 1, 0, 0}};
  return all;
}

inline double half(const uint8_t* p) {
  const int bits = p[0] | p[1] << 8, exponent = bits >> 10 & 31, mantissa = bits & 1023;
  const double size = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return bits & 0x8000 ? -size : size;
}

// A float16 of moderate size: exponents -7 .. -3.
inline void put_half(uint8_t* p, std::mt19937& random, bool positive) {
  const uint32_t r = random();
  const uint32_t bits = (8 + r % 5) << 10 | (r >> 8 & 1023) | (positive ? 0 : r >> 20 & 1) << 15;
  p[0] = static_cast<uint8_t>(bits);
  p[1] = static_cast<uint8_t>(bits >> 8);
}

inline int64_t block_bytes(WeightFormat f) {
  switch (f) {
    case WeightFormat::q4_0: return 18;
    case WeightFormat::q4_1: return 20;
    case WeightFormat::q5_0: return 22;
    case WeightFormat::q5_1: return 24;
    case WeightFormat::q8_0: return 34;
    case WeightFormat::q4_k: return 144;
    case WeightFormat::q5_k: return 176;
    case WeightFormat::q6_k: return 210;
    default: return 0;
  }
}
inline int64_t block_columns(WeightFormat f) {
  return f == WeightFormat::q4_k || f == WeightFormat::q5_k || f == WeightFormat::q6_k ? 256 : 32;
}

inline Matrix make(const Case& c, int64_t rows, int64_t cols, uint32_t seed) {
  std::mt19937 random(seed);
  Matrix m;
  m.spec = {std::string("layers.0.") + c.name, c.format, rows, cols, c.group};
  m.zero_offset = c.zero_offset;
  const auto fill = [&random](Bytes& bytes, int64_t count) {
    bytes.resize(static_cast<size_t>(count));
    for (uint8_t& b : bytes) b = static_cast<uint8_t>(random() >> 11);
  };
  const auto halves = [&random](Bytes& bytes, int64_t count) {
    bytes.resize(static_cast<size_t>(count * 2));
    for (int64_t i = 0; i < count; ++i) put_half(&bytes[static_cast<size_t>(2 * i)], random, false);
  };
  std::normal_distribution<float> normal;
  const int64_t width = block_bytes(c.format);
  if (width != 0) {
    fill(m.data, rows * (cols / block_columns(c.format)) * width);
    for (size_t at = 0; at < m.data.size(); at += static_cast<size_t>(width)) {
      put_half(&m.data[at + (c.format == WeightFormat::q6_k ? 208 : 0)], random, false);
      const bool second = c.format == WeightFormat::q4_1 || c.format == WeightFormat::q5_1 ||
                          c.format == WeightFormat::q4_k || c.format == WeightFormat::q5_k;
      if (second) put_half(&m.data[at + 2], random, false);
    }
  } else if (c.format == WeightFormat::int8) {
    fill(m.data, rows * cols);
    m.scales.resize(static_cast<size_t>(rows * 4));
    for (int64_t i = 0; i < rows; ++i) {
      const float scale = 0.01f * (1.0f + std::fabs(normal(random)));
      std::memcpy(&m.scales[static_cast<size_t>(i * 4)], &scale, 4);
    }
  } else if (c.format == WeightFormat::awq || c.format == WeightFormat::gptq) {
    fill(m.data, rows * cols / 2);
    fill(m.zeros, cols / c.group * rows / 2);
    halves(m.scales, cols / c.group * rows);
  } else if (c.format == WeightFormat::f16) {
    halves(m.data, rows * cols);
  } else {
    const size_t size = c.format == WeightFormat::f32 ? 4 : 2;
    m.data.resize(static_cast<size_t>(rows * cols) * size);
    for (int64_t i = 0; i < rows * cols; ++i) {
      const float value = normal(random);
      uint8_t bytes[4];
      std::memcpy(bytes, &value, 4);
      std::memcpy(&m.data[static_cast<size_t>(i) * size], bytes + 4 - size, size);
    }
  }
  return m;
}

inline uint32_t word(const Bytes& bytes, int64_t index) {
  const uint8_t* p = &bytes[static_cast<size_t>(index * 4)];
  return p[0] | p[1] << 8 | p[2] << 16 | static_cast<uint32_t>(p[3]) << 24;
}

// Element (row, col) as the format defines it.
inline double element(const Matrix& m, int64_t row, int64_t col) {
  const WeightFormat f = m.spec.format;
  const int64_t rows = m.spec.rows, cols = m.spec.cols;
  if (f == WeightFormat::f32 || f == WeightFormat::bf16) {
    const size_t size = f == WeightFormat::f32 ? 4 : 2;
    uint8_t bytes[4] = {0, 0, 0, 0};
    std::memcpy(bytes + 4 - size, &m.data[static_cast<size_t>(row * cols + col) * size], size);
    float value;
    std::memcpy(&value, bytes, 4);
    return value;
  }
  if (f == WeightFormat::f16) return half(&m.data[static_cast<size_t>(row * cols + col) * 2]);
  if (f == WeightFormat::int8) {
    float scale;
    std::memcpy(&scale, &m.scales[static_cast<size_t>(row * 4)], 4);
    return static_cast<double>(static_cast<int8_t>(m.data[static_cast<size_t>(row * cols + col)])) * scale;
  }
  if (f == WeightFormat::awq || f == WeightFormat::gptq) {
    const int64_t g = col / m.spec.group;
    const double scale = half(&m.scales[static_cast<size_t>((g * rows + row) * 2)]);
    int q = 0, z = 0;
    if (f == WeightFormat::awq) {
      static const int order[8] = {0, 2, 4, 6, 1, 3, 5, 7};  // nibble i of a word is row 8 n + order[i]
      int nibble = 0;
      while (order[nibble] != row % 8) ++nibble;
      q = word(m.data, col * (rows / 8) + row / 8) >> (4 * nibble) & 15;
      z = word(m.zeros, g * (rows / 8) + row / 8) >> (4 * nibble) & 15;
    } else {
      q = word(m.data, col / 8 * rows + row) >> (4 * (col % 8)) & 15;
      z = static_cast<int>(word(m.zeros, g * (rows / 8) + row / 8) >> (4 * (row % 8)) & 15) + m.zero_offset;
    }
    return (q - z) * scale;
  }
  const int64_t wide = block_columns(f), i = col % wide;
  const uint8_t* b = &m.data[static_cast<size_t>((row * (cols / wide) + col / wide) * block_bytes(f))];
  const auto nibble32 = [i](const uint8_t* qs) { return i < 16 ? qs[i] & 15 : qs[i - 16] >> 4; };
  const auto bit = [](const uint8_t* bits, int64_t n) { return bits[n / 8] >> (n % 8) & 1; };
  if (f == WeightFormat::q4_0) return (nibble32(b + 2) - 8) * half(b);
  if (f == WeightFormat::q4_1) return nibble32(b + 4) * half(b) + half(b + 2);
  if (f == WeightFormat::q5_0) return (nibble32(b + 6) + 16 * bit(b + 2, i) - 16) * half(b);
  if (f == WeightFormat::q5_1) return (nibble32(b + 8) + 16 * bit(b + 4, i)) * half(b) + half(b + 2);
  if (f == WeightFormat::q8_0) return static_cast<int8_t>(b[2 + i]) * half(b);
  if (f == WeightFormat::q6_k) {
    const int64_t n = i / 128, l = i % 32, quarter = i % 128 / 32;
    const uint8_t low = b[n * 64 + (quarter % 2) * 32 + l];
    const int q = (quarter < 2 ? low & 15 : low >> 4) | (b[128 + n * 32 + l] >> (2 * quarter) & 3) << 4;
    return half(b + 208) * static_cast<int8_t>(b[192 + i / 16]) * (q - 32);
  }
  // q4_k, q5_k: eight scales and minimums of 6 bits in 12 bytes
  const int64_t j = i / 32, l = i % 32;
  const uint8_t* s = b + 4;
  const int scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
  const int minimum = j < 4 ? s[j + 4] & 63 : (s[j + 4] >> 4) | (s[j] >> 6) << 4;
  const uint8_t* qs = b + (f == WeightFormat::q4_k ? 16 : 48) + j / 2 * 32;
  int q = j % 2 == 0 ? qs[l] & 15 : qs[l] >> 4;
  if (f == WeightFormat::q5_k) q += 16 * (b[16 + l] >> j & 1);
  return half(b) * scale * q - half(b + 2) * minimum;
}

}  // namespace stored
