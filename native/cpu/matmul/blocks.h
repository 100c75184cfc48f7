// GGUF blocks, decoded to unsigned quants in column order. The definitions are ggml's.
#pragma once

#include <cstdint>

namespace deploykit::cpu {

// block -> q[32]
void decode_q4_0(const uint8_t* block, uint8_t* q);  // f16 d, u4[32]: d * (q - 8)
void decode_q4_1(const uint8_t* block, uint8_t* q);  // f16 d, f16 m, u4[32]: d * q + m
void decode_q5_0(const uint8_t* block, uint8_t* q);  // f16 d, high bits[32], u4[32]: d * (q - 16)
void decode_q5_1(const uint8_t* block, uint8_t* q);  // f16 d, f16 m, high bits[32], u4[32]: d * q + m
void decode_q8_0(const uint8_t* block, uint8_t* q);  // f16 d, i8[32]: d * (q - 128), q = stored + 128
// block -> q[256]
void decode_q4_k(const uint8_t* block, uint8_t* q);  // f16 d, f16 dmin, 12 bytes of scales, u4[256]
void decode_q5_k(const uint8_t* block, uint8_t* q);  // the same with high bits[256] before the u4[256]
void decode_q6_k(const uint8_t* block, uint8_t* q);  // u4[256], high pairs[256], i8 scale[16], f16 d: d * sc * (q - 32)
// Scale and minimum (6 bits each) of 32 columns from the 12 bytes of q4_k and q5_k.
void read_scale_k4(const uint8_t* scales, int64_t index, uint8_t& scale, uint8_t& minimum);

}  // namespace deploykit::cpu
