// Blocks of activation rows in the order that the kernels read them, and the tables through which they are called.
#pragma once

#include <cstdint>

#include "cpu/matmul/layout.h"

namespace deploykit::cpu::DEPLOYKIT_ISA {

// Tiles [first, last) of a matrix; out is [rows, ldo] and begins at tile `first`.
struct Tiles {
  const uint8_t* data = nullptr;
  int64_t tile_bytes = 0;
  int64_t cols = 0;
  TileLayout layout;
  int64_t first = 0, last = 0;
  float* out = nullptr;
  int64_t ldo = 0;
};

// `rows` rows of activations in a block for R >= rows of them; what comes after is not stored.
// int8: q [group][R][32]; scale, sum, neg [group][R]; neg16 [group][R][2].
struct Int8Block {
  const int8_t* q = nullptr;
  const float* scale = nullptr;
  const float* sum = nullptr;
  const int32_t* neg = nullptr;
  const int32_t* neg16 = nullptr;
  int64_t rows = 0;
};
// float32: x [column][R]; bf16: pairs [column / 2][R][2].
struct FloatBlock {
  const void* x = nullptr;
  int64_t rows = 0;
};

using Int8Kernel = void (*)(const Tiles&, const Int8Block&);
using FloatKernel = void (*)(const Tiles&, const FloatBlock&);

// The kernel for this layout and at least `rows` rows; `block` becomes its R. At most matmul_..._rows() rows.
Int8Kernel matmul_int8_kernel(int32_t kind, int64_t rows, int64_t& block);
FloatKernel matmul_float_kernel(int32_t kind, int64_t rows, int64_t& block);
FloatKernel matmul_pairs_kernel(int64_t rows, int64_t& block);
int64_t matmul_int8_rows();
int64_t matmul_float_rows();

}  // namespace deploykit::cpu::DEPLOYKIT_ISA
