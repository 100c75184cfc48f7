#include "cpu/matmul/blocks.h"

#include <cstring>

namespace deploykit::cpu {
namespace {

// The first 16 values are low halves, the last 16 high halves.
void nibbles(const uint8_t* packed, uint8_t* q) {
  for (int i = 0; i < 16; ++i) {
    q[i] = packed[i] & 15;
    q[16 + i] = packed[i] >> 4;
  }
}

void fifth_bits(const uint8_t* packed, uint8_t* q) {
  uint32_t bits = 0;
  std::memcpy(&bits, packed, 4);
  for (int i = 0; i < 32; ++i) q[i] = static_cast<uint8_t>(q[i] | (bits >> i & 1) << 4);
}

}  // namespace

void decode_q4_0(const uint8_t* block, uint8_t* q) { nibbles(block + 2, q); }

void decode_q4_1(const uint8_t* block, uint8_t* q) { nibbles(block + 4, q); }

void decode_q5_0(const uint8_t* block, uint8_t* q) {
  nibbles(block + 6, q);
  fifth_bits(block + 2, q);
}

void decode_q5_1(const uint8_t* block, uint8_t* q) {
  nibbles(block + 8, q);
  fifth_bits(block + 4, q);
}

void decode_q8_0(const uint8_t* block, uint8_t* q) {
  for (int i = 0; i < 32; ++i) q[i] = block[2 + i] ^ 0x80;
}

void decode_q4_k(const uint8_t* block, uint8_t* q) {
  for (int part = 0; part < 4; ++part) {
    const uint8_t* packed = block + 16 + part * 32;
    for (int i = 0; i < 32; ++i) {
      q[part * 64 + i] = packed[i] & 15;
      q[part * 64 + 32 + i] = packed[i] >> 4;
    }
  }
}

void decode_q5_k(const uint8_t* block, uint8_t* q) {
  const uint8_t* high = block + 16;
  for (int part = 0; part < 4; ++part) {
    const uint8_t* packed = block + 48 + part * 32;
    for (int i = 0; i < 32; ++i) {
      q[part * 64 + i] = static_cast<uint8_t>((packed[i] & 15) | (high[i] >> (2 * part) & 1) << 4);
      q[part * 64 + 32 + i] = static_cast<uint8_t>(packed[i] >> 4 | (high[i] >> (2 * part + 1) & 1) << 4);
    }
  }
}

void decode_q6_k(const uint8_t* block, uint8_t* q) {
  for (int part = 0; part < 2; ++part, q += 128) {
    const uint8_t* low = block + part * 64;
    const uint8_t* high = block + 128 + part * 32;
    for (int i = 0; i < 32; ++i) {
      q[i] = static_cast<uint8_t>((low[i] & 15) | (high[i] & 3) << 4);
      q[32 + i] = static_cast<uint8_t>((low[32 + i] & 15) | (high[i] >> 2 & 3) << 4);
      q[64 + i] = static_cast<uint8_t>(low[i] >> 4 | (high[i] >> 4 & 3) << 4);
      q[96 + i] = static_cast<uint8_t>(low[32 + i] >> 4 | (high[i] >> 6) << 4);
    }
  }
}

void read_scale_k4(const uint8_t* scales, int64_t index, uint8_t& scale, uint8_t& minimum) {
  if (index < 4) {
    scale = scales[index] & 63;
    minimum = scales[index + 4] & 63;
  } else {
    scale = static_cast<uint8_t>((scales[index + 4] & 15) | (scales[index - 4] >> 6) << 4);
    minimum = static_cast<uint8_t>(scales[index + 4] >> 4 | (scales[index] >> 6) << 4);
  }
}

}  // namespace deploykit::cpu
