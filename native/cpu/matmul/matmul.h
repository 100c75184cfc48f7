// Matrix products y[m, n] = sum_k x[m, k] * w[n, k] for every weight format, over tiles of 16 rows of w.
//
// Packed layout, the same for every instruction set: rows in tiles of 16 (the last one padded with zeros), columns in
// groups; within a tile the 16 rows are the lanes of a vector, so that a sum over k needs no horizontal addition.
// Summation order is fixed: for every output, groups of 32 columns ascending, whatever m, tile range, or instruction
// set; so a row's result does not depend on the batch.
#pragma once

#include <cstdint>
#include <cstddef>

#include "cpu/isa.h"
#include "deploykit/engine.h"
#include "deploykit/weights.h"

namespace deploykit::cpu {

inline constexpr int64_t kTileRows = 16;
inline constexpr int64_t kActGroup = 32;  // columns that share an activation scale

// What a packed matrix is multiplied with: float32 activations, bf16 pairs, or int8 in groups of 32.
enum class ActKind : int32_t { f32 = 0, bf16 = 1, int8 = 2 };

// A matrix in the arena. Copyable view; the bytes belong to the arena.
struct PackedMatrix {
  int32_t kind = 0;  // internal: which packed layout (dense f32, f16, bf16; 4-bit or 8-bit with scales, minimums)
  ActKind act = ActKind::f32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t group = 0;     // columns that share a weight scale (32, 64, 128, or cols for per-channel)
  int64_t tile_bytes = 0;
  uint8_t* data = nullptr;  // 64-byte aligned

  int64_t tiles() const { return (rows + kTileRows - 1) / kTileRows; }
};

// The layout that `spec` gets under this compute dtype (dtype f32: float32 activations everywhere); data is null.
// Throws Error("unsupported" | "invalid") that names the tensor.
PackedMatrix plan_matrix(const WeightSpec& spec, DType dtype, Isa isa);
inline int64_t packed_bytes(const PackedMatrix& m) { return m.tiles() * m.tile_bytes; }
// Repack a whole tensor into m.data (exactly as stored: no requantizing unless docs say so). Threads may call it for
// different matrices at once.
void pack_matrix(const PackedMatrix& m, const WeightTensor& tensor);
// One row as float32 [cols] (token embeddings).
void unpack_row(const PackedMatrix& m, int64_t row, float* out);

// Activations of up to max_rows tokens, prepared in every kind a layer's matrices ask for. Buffers are the caller's.
struct Activations {
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t max_rows = 0, max_cols = 0;
  float* f32 = nullptr;      // [rows, cols]; stride cols
  uint16_t* bf16 = nullptr;  // [rows, cols]
  int8_t* q = nullptr;       // [rows, cols]
  float* scale = nullptr;    // [rows, cols / 32]
  float* sum = nullptr;      // [rows, cols / 32]: scale * sum of the group's q
  int32_t* neg = nullptr;    // [rows, cols / 32]: minus the sum of the group's q
  int32_t* neg16 = nullptr;  // [rows, cols / 16]: the same for each half of a group
};
// Bytes that one Activations of this size takes, and its pointers into `memory` (64-byte aligned).
int64_t activation_bytes(int64_t max_rows, int64_t max_cols);
void bind_activations(Activations& a, int64_t max_rows, int64_t max_cols, uint8_t* memory);

// The kernels of one instruction set. A row of activations with a NaN or an infinity gives results that are not finite,
// whatever the kind.
struct MatmulKernels {
  // Convert rows [row0, row1), columns [col0, col1) (multiples of 32) of a.f32 into kind.
  void (*prepare)(const Activations& a, ActKind kind, int64_t row0, int64_t row1, int64_t col0, int64_t col1);
  // y[m, tile * 16 ..] for m in [m0, m1) and tiles [t0, t1): out[(m - m0) * ldo + (tile - t0) * 16 + lane], float32.
  // Writes whole tiles: rows past m.rows come out as zeros, so ldo and out must have room for them.
  // Picks the kernel by m1 - m0: one row, a few, many. `scratch` has matmul_scratch_bytes().
  void (*multiply)(const PackedMatrix& w, const Activations& a, int64_t m0, int64_t m1, int64_t t0, int64_t t1,
                   float* out, int64_t ldo, uint8_t* scratch);
};
const MatmulKernels& matmul_kernels(Isa isa);
int64_t matmul_scratch_bytes(int64_t max_cols);

}  // namespace deploykit::cpu
