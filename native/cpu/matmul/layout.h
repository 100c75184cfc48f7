// Packed layouts of matrices: what pack.cpp writes and the kernels of isa/ read.
//
// A tile is 16 rows of the matrix, all of their columns, in blocks: a record of scales, then the quants of the groups
// of 32 columns that share it. A kernel so reads its weights as one stream, every vector of it aligned to 64 bytes.
//   4-bit quants: 256 bytes a group, 4 vectors of 64 bytes; byte (lane * 4 + b) of vector j has w[lane][8 j + b] in
//   its low half and w[lane][8 j + 4 + b] in its high half.
//   8-bit quants: 512 bytes a group, 8 vectors; byte (lane * 4 + b) of vector j is w[lane][4 j + b].
// So the four columns that one dot-product instruction adds are neighbours, and rows are the lanes of its result.
// Every quant is unsigned: w = d * q + m with m = -zero * d where the format has a constant zero.
// A dense tile is [column][16] float32 or float16, or [column / 2][16][2] bfloat16.
#pragma once

#include <cstdint>

namespace deploykit::cpu {

enum Layout : int32_t {
  kDenseF32 = 0,
  kDenseF16,
  kDenseBf16,
  kU4D,     // record of 64 columns: for each 32 f16 d[16]; zero 8 (q4_0)
  kU4DM,    // record of 32 columns: f16 d[16], m[16] (q4_1)
  kU4DZ,    // record of `group` columns: f16 d[16], u8 z[16], 16 bytes unused; m = -z * d (awq, gptq)
  kU4K,     // record of 256 columns: f16 d[16], dmin[16], then for each 32: u8 sc[16], mn[16] (q4_k)
  kU8D16,   // as kU4D with zero 16 (q5_0)
  kU8D128,  // as kU4D with zero 128 (q8_0)
  kU8DM,    // as kU4DM (q5_1)
  kU8K,     // as kU4K (q5_k)
  kU8K6,    // record of 256 columns: f16 d[16], 32 bytes unused, then for each 16: i8 sc[16]; zero 32 (q6_k)
  kU8Row,   // one record: f32 d[16]; zero 128 (int8 per channel)
};

inline constexpr bool is_dense(int32_t kind) { return kind <= kDenseBf16; }

struct TileLayout {
  int32_t bits = 0;        // of a quant: 4 or 8; 0 = dense
  int64_t groups = 0;      // of 32 columns
  int64_t record = 0;      // bytes of a record
  int64_t per_record = 1;  // groups that share a record; the last block may have fewer
  int64_t block = 0;       // bytes of a record and its groups
  int64_t bytes = 0;       // of a tile, a multiple of 64

  int64_t record_at(int64_t group) const { return group / per_record * block; }
  int64_t quants_at(int64_t group) const { return record_at(group) + record + group % per_record * bits * 64; }
};
TileLayout tile_layout(int32_t kind, int64_t cols, int64_t group);

// w = d * q + m of 32 columns of one row. d and m are for columns 0..15 and 16..31.
struct RowGroup {
  float d[2], m[2];
  uint8_t q[32];
};
void read_group(const uint8_t* tile, int32_t kind, const TileLayout& layout, int64_t lane, int64_t group,
                RowGroup& out);

float half_to_float(uint16_t bits);
uint16_t float_to_bf16(float value);  // to nearest, ties to even; a NaN stays one

}  // namespace deploykit::cpu
