// Philox4x32-10 (Salmon, Moraes, Dror, Shaw, SC 2011): random numbers that are a function of (key, counter) alone.
#pragma once

#include <array>
#include <cstdint>

namespace deploykit {

using PhiloxWords = std::array<uint32_t, 4>;

inline PhiloxWords philox4x32(uint32_t k0, uint32_t k1, PhiloxWords c) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(p0)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

// The number in (0, 1) that draws output token `position` under `seed`.
inline double philox_uniform(uint64_t seed, uint32_t position) {
  const PhiloxWords x = philox4x32(static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32), {position, 0, 0, 0});
  const uint64_t n = (uint64_t{x[0]} << 20) | (x[1] >> 12);  // 52 bits; with the half exact in float64
  return (static_cast<double>(n) + 0.5) * 0x1p-52;
}

// The seed of sequence `index` of a request with n > 1.
inline uint64_t philox_sibling_seed(uint64_t seed, uint32_t index) {
  if (index == 0) return seed;
  const PhiloxWords x = philox4x32(static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32), {index, 0, 0, 1});
  return (uint64_t{x[1]} << 32) | x[0];
}

}  // namespace deploykit
