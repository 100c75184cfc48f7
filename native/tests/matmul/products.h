// A packed matrix and prepared activations in guarded buffers, and products of them.
#pragma once

#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "cpu/matmul/matmul.h"
#include "stored.h"

namespace products {

using namespace deploykit::cpu;
using deploykit::DType;

// Memory that begins at a multiple of 64, filled with 0xff bytes (NaN as floats).
class Memory {
 public:
  explicit Memory(int64_t bytes) : bytes_(static_cast<size_t>(bytes + 128), 0xff) {}
  uint8_t* data() {
    const auto at = reinterpret_cast<uintptr_t>(bytes_.data());
    return bytes_.data() + (64 - at % 64) % 64;
  }

 private:
  std::vector<uint8_t> bytes_;
};

struct Packed {
  PackedMatrix m;
  Memory memory;
  Packed(const stored::Matrix& source, DType dtype, Isa isa)
      : m(plan_matrix(source.spec, dtype, isa)), memory(packed_bytes(m)) {
    m.data = memory.data();
    pack_matrix(m, source.tensor());
  }
  Packed(const Packed&) = delete;
};

struct Inputs {
  Activations a;
  Memory memory;
  Inputs(int64_t rows, int64_t cols, uint32_t seed) : memory(activation_bytes(rows, cols)) {
    bind_activations(a, rows, cols, memory.data());
    a.rows = rows;
    a.cols = cols;
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < rows * cols; ++i) a.f32[i] = normal(random);
  }
  Inputs(const Inputs&) = delete;
};

inline void prepare(Inputs& in, ActKind kind, Isa isa) {
  matmul_kernels(isa).prepare(in.a, kind, 0, in.a.rows, 0, in.a.cols);
}

// Rows [m0, m1), tiles [t0, t1), in a matrix of NaNs [m1 - m0][(t1 - t0) * 16 + 16]: the last 16 must stay.
inline std::vector<float> multiply(const PackedMatrix& m, const Inputs& in, int64_t m0, int64_t m1, int64_t t0,
                                   int64_t t1, Isa isa) {
  const int64_t ldo = (t1 - t0) * kTileRows + 16;
  std::vector<float> out(static_cast<size_t>((m1 - m0) * ldo), std::nanf(""));
  Memory scratch(matmul_scratch_bytes(in.a.cols));
  matmul_kernels(isa).multiply(m, in.a, m0, m1, t0, t1, out.data(), ldo, scratch.data());
  return out;
}

inline bool same_bits(const float* a, const float* b, int64_t n) {
  return std::memcmp(a, b, static_cast<size_t>(n) * 4) == 0;
}

}  // namespace products
