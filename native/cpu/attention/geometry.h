// What stands where inside one KV head's part of a block, and the plain structs that kernels take.
//
// K, in tiles of 16 keys (8 where a block has 8): rows of [keys][4 bytes], a row holding for each key
//   f32: one dimension (f16: one, in [keys][2 bytes]); bf16: dimensions 2i, 2i + 1; int8: 4i .. 4i + 3;
//   int4: 8i .. 8i + 3 in the low nibbles and 8i + 4 .. 8i + 7 in the high ones.
// V, in the same tiles, dimensions padded to `value_dims`: f32 and f16: [key][dim]; bf16: [key / 2][dim][2];
//   int8: [key / 4][dim][4]; int4: [key / 4][dim / 32][16][4] bytes, dimension 32i + j in the low nibble of j and
//   32i + 16 + j in the high one.
// Scales, a tile: f16 [4][keys]: K's scale and zero, V's scale and zero. x = zero + scale * q with q from 0 to 255 or
//   15; V's int8 stores q - 128.
//
// int4 stores M k in place of a key k, and scores are M q . M k: M is orthonormal, so that they stay q . k, and a channel
// that is large in every key doesn't set the range of all others. With b the largest power of two that divides head_dim
// and m = head_dim / b: M = A x H, H the Hadamard matrix of b consecutive elements over sqrt(b), A[i][j] = (i == j) -
// 2 / m over the m runs of them (1 where m = 1). M M = 1.
#pragma once

#include <cstdint>

#include "deploykit/engine.h"

namespace deploykit::cpu {

inline constexpr int32_t kTileKeys = 16;
inline constexpr int32_t kSpanTiles = 16;     // kSpan / kTileKeys
inline constexpr int32_t kMaxHeadDim = 256;
inline constexpr int32_t kUnitRows = 48;      // query vectors of a unit, unless one token alone has more
inline constexpr int32_t kScoreStride = 272;  // floats of a row of scores: a span and one tile

struct KvGeometry {
  int32_t tile_keys = 0;      // 16, or 8 where block_len is 8
  int32_t value_dims = 0;     // head_dim padded to 16, to 32 for 4-bit values
  int32_t key_rows = 0;       // rows of a K tile
  int32_t key_row_bytes = 0;  // of one key in such a row: 4, or 2 for f16
  int64_t key_tile_bytes = 0, value_tile_bytes = 0, scale_tile_bytes = 0;
  int64_t value_offset = 0, scale_offset = 0;  // in a head's part
  int64_t head_bytes = 0;                      // a multiple of 64
};
KvGeometry kv_geometry(KvType type, int32_t head_dim, int32_t block_len);

// Memory of one unit while it runs. `rows` below are query vectors: all heads of the first token, of the second, ...
struct Workspace {
  float* scores = nullptr;       // [rows][kScoreStride]
  uint8_t* weights = nullptr;    // [rows][2 * kScoreStride]: bf16, or high bytes and then low bytes
  uint8_t* query = nullptr;      // [rows][4 * head_dim]: float32; or bf16; or high bytes and then low bytes
  float* query_scale = nullptr;  // [rows] each, padded to 16, from here on
  float* query_sum = nullptr;
  int32_t* token = nullptr;  // of each row, from the unit's first
  float* max = nullptr;
  float* sum = nullptr;
  float* span_max = nullptr;
  float* span_sum = nullptr;
  float* weight_scale = nullptr;
  float* weight_zero = nullptr;
  float* old_factor = nullptr;   // of what stands in `values`, and of the span's values, when they are added
  float* new_factor = nullptr;
  float* values = nullptr;       // [rows][dims]: sums of values so far, dims = head_dim padded to 32
  float* span_values = nullptr;  // [rows][dims] of this span
  float* scales = nullptr;       // [4][kSpan]: scales and zeros of the span's keys
  float* key_tile = nullptr;     // [head_dim][16]
  float* value_tile = nullptr;   // [16][dims]
  uint8_t* edge = nullptr;       // V tiles of which some keys are not the unit's
  uint8_t* joined = nullptr;     // K, V and scales of tiles that stand in two blocks
  int64_t dims = 0;
  int64_t joined_stride = 0;  // bytes of one such tile
};
// Places a workspace at `base` (64-byte aligned) and returns its bytes.
int64_t place_workspace(Workspace& work, uint8_t* base, int32_t head_dim, int32_t group);

// One unit of work as the kernels take it. Strides count floats; q and out point at the first query of the KV head.
struct AttendTask {
  KvType type = KvType::bf16;
  bool bf16_dot = false;  // dot products of bf16 pairs: Q and the weights of V are rounded to bf16
  KvGeometry geometry;
  const uint8_t* head = nullptr;  // the head's part in block 0
  int64_t block_bytes = 0;
  const int32_t* blocks = nullptr;
  int32_t block_len = 0;
  int32_t head_dim = 0, group = 0;
  int32_t queries = 0;   // tokens
  int32_t position = 0;  // of the first one
  int32_t window = 0;
  int32_t span0 = 0, span1 = 0;
  float scale = 0.0f, softcap = 0.0f;
  const float* q = nullptr;
  int64_t q_stride = 0;
  float* out = nullptr;
  int64_t out_stride = 0;
  const float* sinks = nullptr;  // [group]
  // Set where other units have other spans: maximum, sum and sums of values of each query head and span.
  float* partials = nullptr;
  int64_t partial_stride = 0;
  int32_t partial_span0 = 0, partial_spans = 0;  // row r and span s stand at [r * partial_spans + s - partial_span0]
  Workspace work;
};

// A partial result: [0] the maximum of the scores in base 2, [1] the sum, 0 where nothing is visible; values from [16].
inline constexpr int32_t kPartialHeader = 16;

struct StoreTask {
  KvType type = KvType::bf16;
  KvGeometry geometry;
  uint8_t* head = nullptr;
  int64_t block_bytes = 0;
  const int32_t* blocks = nullptr;
  int32_t block_len = 0, head_dim = 0;
  const float* k = nullptr;  // of the first token and this head
  const float* v = nullptr;
  int64_t stride = 0;
  int32_t position = 0, count = 0;
};

}  // namespace deploykit::cpu
