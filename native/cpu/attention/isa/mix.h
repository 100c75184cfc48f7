// The transform of 4-bit keys, and of the queries that meet them: geometry.h says what it is.
#pragma once

#include "cpu/attention/geometry.h"

namespace deploykit::cpu::DEPLOYKIT_ISA {
namespace {

// One of the log2(block) equal stages of a Hadamard transform: sums and differences of neighbours, sums first.
template <int32_t block>
inline void sums_and_differences(const float* __restrict from, float* __restrict to) {
  for (int32_t i = 0; i < block / 2; ++i) {
    to[i] = from[2 * i] + from[2 * i + 1];
    to[block / 2 + i] = from[2 * i] - from[2 * i + 1];
  }
}

// Runs of `block` elements, each through the Hadamard matrix over sqrt(block).
template <int32_t block>
inline void hadamard(float* x, int32_t n) {
  for (int32_t i = 0; i < n; i += block) {
    float a[block], b[block];
    __builtin_memcpy(a, x + i, sizeof a);
    int32_t size = block;
    for (; size >= 4; size /= 4) {
      sums_and_differences<block>(a, b);
      sums_and_differences<block>(b, a);
    }
    if (size == 2) sums_and_differences<block>(a, b);
    const float* from = size == 2 ? b : a;
    const float unit = 1.0f / __builtin_sqrtf(static_cast<float>(block));
    for (int32_t j = 0; j < block; ++j) x[i + j] = from[j] * unit;
  }
}

// x [n] in place; n a multiple of 8, at most kMaxHeadDim.
inline void mix(float* x, int32_t n) {
  const int32_t block = n & -n, blocks = n / block;
  switch (block) {
    case 8: hadamard<8>(x, n); break;
    case 16: hadamard<16>(x, n); break;
    case 32: hadamard<32>(x, n); break;
    case 64: hadamard<64>(x, n); break;
    case 128: hadamard<128>(x, n); break;
    default: hadamard<256>(x, n); break;
  }
  if (blocks == 1) return;
  float sums[kMaxHeadDim] = {};
  for (int32_t i = 0; i < n; i += block) {
    for (int32_t j = 0; j < block; ++j) sums[j] += x[i + j];
  }
  const float share = 2.0f / static_cast<float>(blocks);
  for (int32_t i = 0; i < n; i += block) {
    for (int32_t j = 0; j < block; ++j) x[i + j] -= share * sums[j];
  }
}

}  // namespace
}  // namespace deploykit::cpu::DEPLOYKIT_ISA
