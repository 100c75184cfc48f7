// The three regimes: one row of activations, a few, many. Rows are cut into blocks whose sums stay in registers; tiles
// into panels that stay in the cache while all blocks pass over them.
#include "cpu/matmul/matmul.h"

#include "cpu/matmul/isa/blocks_of_rows.h"
#include "cpu/matmul/isa/simd.h"

namespace deploykit::cpu::DEPLOYKIT_ISA {
namespace {

constexpr int64_t kPanelBytes = 256 * 1024;  // of weights, a part of a core's second-level cache
constexpr int64_t kPanelTiles = 24;          // at least, so that interleaving a block of rows costs little beside them

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t larger(int64_t a, int64_t b) { return a < b ? b : a; }

// Rows a block, so that all blocks are nearly of one size.
int64_t rows_a_block(int64_t rows, int64_t most) {
  const int64_t blocks = (rows + most - 1) / most;
  return (rows + blocks - 1) / blocks;
}

int8_t* aligned(uint8_t* p, int64_t& used, int64_t bytes) {
  uint8_t* start = p + used;
  used += (bytes + 63) / 64 * 64;
  return reinterpret_cast<int8_t*>(start);
}

// Rows [row, row + rows) interleaved for blocks of R; what is past them repeats the last one.
Int8Block interleave_int8(const Activations& a, int64_t row, int64_t rows, int64_t R, uint8_t* memory) {
  const int64_t groups = a.cols / kActGroup;
  int64_t used = 0;
  int8_t* q = aligned(memory, used, groups * R * 32);
  auto* scale = reinterpret_cast<float*>(aligned(memory, used, groups * R * 4));
  auto* sum = reinterpret_cast<float*>(aligned(memory, used, groups * R * 4));
  auto* neg = reinterpret_cast<int32_t*>(aligned(memory, used, groups * R * 4));
  auto* neg16 = reinterpret_cast<int32_t*>(aligned(memory, used, groups * R * 8));
  for (int64_t r = 0; r < R; ++r) {
    const int64_t from = row + smaller(r, rows - 1);
    const int8_t* source = a.q + from * a.cols;
    const int64_t base = from * groups;
    for (int64_t g = 0; g < groups; ++g) {
      __builtin_memcpy(q + (g * R + r) * 32, source + g * 32, 32);
      scale[g * R + r] = a.scale[base + g];
      sum[g * R + r] = a.sum[base + g];
      neg[g * R + r] = a.neg[base + g];
      __builtin_memcpy(neg16 + (g * R + r) * 2, a.neg16 + (base + g) * 2, 8);
    }
  }
  return Int8Block{q, scale, sum, neg, neg16, rows};
}

void multiply_int8(Tiles w, const PackedMatrix& m, const Activations& a, int64_t m0, int64_t m1, uint8_t* scratch) {
  const int64_t t0 = w.first, t1 = w.last, groups = w.layout.groups;
  float* out = w.out;
  int64_t R = 0;
  if (m1 - m0 == 1) {
    const Int8Kernel kernel = matmul_int8_kernel(m.kind, 1, R);
    const int64_t g0 = m0 * groups;
    kernel(w, Int8Block{a.q + m0 * a.cols, a.scale + g0, a.sum + g0, a.neg + g0, a.neg16 + 2 * g0, 1});
    return;
  }
  const int64_t step = rows_a_block(m1 - m0, matmul_int8_rows());
  const int64_t panel = m1 - m0 <= step ? t1 - t0 : larger(kPanelBytes / m.tile_bytes, kPanelTiles);
  for (int64_t t = t0; t < t1; t += panel) {
    w.first = t;
    w.last = smaller(t + panel, t1);
    for (int64_t row = m0; row < m1; row += step) {
      const int64_t rows = smaller(step, m1 - row);
      const Int8Kernel kernel = matmul_int8_kernel(m.kind, rows, R);
      w.out = out + (row - m0) * w.ldo + (t - t0) * kTileRows;
      kernel(w, interleave_int8(a, row, rows, R, scratch));
    }
  }
}

enum class Float { f32, widened, pairs };

// float32 [column][R], or bfloat16 pairs [column / 2][R][2]; an odd last column is paired with a zero.
FloatBlock interleave_float(const Activations& a, Float kind, int64_t row, int64_t rows, int64_t R, uint8_t* memory) {
  const int64_t cols = a.cols;
  auto* f32 = reinterpret_cast<float*>(memory);
  auto* pairs = reinterpret_cast<uint16_t*>(memory);
  const int64_t even = (cols + 1) / 2 * 2;
  for (int64_t r = 0; r < R; ++r) {
    const int64_t from = (row + smaller(r, rows - 1)) * cols;
    for (int64_t k = 0; k < even; ++k) {
      if (kind == Float::f32) {
        f32[k * R + r] = k < cols ? a.f32[from + k] : 0.0f;
      } else if (kind == Float::pairs) {
        pairs[(k / 2 * R + r) * 2 + k % 2] = k < cols ? a.bf16[from + k] : 0;
      } else {
        const uint32_t word = k < cols ? static_cast<uint32_t>(a.bf16[from + k]) << 16 : 0;
        __builtin_memcpy(f32 + k * R + r, &word, 4);
      }
    }
  }
  return FloatBlock{memory, rows};
}

void multiply_float(Tiles w, const PackedMatrix& m, const Activations& a, Float kind, int64_t m0, int64_t m1,
                    uint8_t* scratch) {
  const int64_t t0 = w.first, t1 = w.last;
  float* out = w.out;
  int64_t R = 0;
  const int64_t step = rows_a_block(m1 - m0, matmul_float_rows());
  const int64_t panel = m1 - m0 <= step ? t1 - t0 : larger(kPanelBytes / m.tile_bytes, kPanelTiles);
  for (int64_t t = t0; t < t1; t += panel) {
    w.first = t;
    w.last = smaller(t + panel, t1);
    for (int64_t row = m0; row < m1; row += step) {
      const int64_t rows = smaller(step, m1 - row);
      FloatKernel kernel = nullptr;
#if defined(DEPLOYKIT_ISA_avx512)
      if (kind == Float::pairs) kernel = matmul_pairs_kernel(rows, R);
#endif
      if (kind != Float::pairs) kernel = matmul_float_kernel(m.kind, rows, R);
      w.out = out + (row - m0) * w.ldo + (t - t0) * kTileRows;
      kernel(w, interleave_float(a, kind, row, rows, R, scratch));
    }
  }
}

void multiply_any(const PackedMatrix& m, const Activations& a, int64_t m0, int64_t m1, int64_t t0, int64_t t1,
                  float* out, int64_t ldo, uint8_t* scratch, bool pairs) {
  if (m0 >= m1 || t0 >= t1) return;
  const Tiles w{m.data, m.tile_bytes, m.cols, tile_layout(m.kind, m.cols, m.group), t0, t1, out, ldo};
  if (m.act == ActKind::int8) return multiply_int8(w, m, a, m0, m1, scratch);
  const Float kind = m.act == ActKind::f32 ? Float::f32 : pairs ? Float::pairs : Float::widened;
  multiply_float(w, m, a, kind, m0, m1, scratch);
}

void multiply(const PackedMatrix& m, const Activations& a, int64_t m0, int64_t m1, int64_t t0, int64_t t1, float* out,
              int64_t ldo, uint8_t* scratch) {
  multiply_any(m, a, m0, m1, t0, t1, out, ldo, scratch, false);
}

#if defined(DEPLOYKIT_ISA_avx512)
void multiply_bf16(const PackedMatrix& m, const Activations& a, int64_t m0, int64_t m1, int64_t t0, int64_t t1,
                   float* out, int64_t ldo, uint8_t* scratch) {
  multiply_any(m, a, m0, m1, t0, t1, out, ldo, scratch, true);
}
#endif

}  // namespace

void matmul_prepare(const Activations& a, ActKind kind, int64_t row0, int64_t row1, int64_t col0, int64_t col1);

extern const MatmulKernels kMatmulKernels;
const MatmulKernels kMatmulKernels = {matmul_prepare, multiply};
#if defined(DEPLOYKIT_ISA_avx512)
extern const MatmulKernels kMatmulKernelsBf16;
const MatmulKernels kMatmulKernelsBf16 = {matmul_prepare, multiply_bf16};
#endif

}  // namespace deploykit::cpu::DEPLOYKIT_ISA
