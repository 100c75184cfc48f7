// Weights widened to float32 in registers times float32 activations, columns in ascending order: y = fma(w, x, y).
// And pairs of bfloat16, for each pair the second column before the first, as vdpbf16ps does.
#include "cpu/matmul/isa/blocks_of_rows.h"
#include "cpu/matmul/isa/formats.h"

namespace deploykit::cpu::DEPLOYKIT_ISA {
namespace {

constexpr int64_t kAhead = 2048;
constexpr int kParts16 = 16 / kLanes;  // vectors that make up the lanes of a tile

// One column (bf16: a pair of columns) of a dense tile from `lane` on.
template <int32_t kKind>
struct Dense {
  static constexpr int kColumns = kKind == kDenseBf16 ? 2 : 1;
  static constexpr int kBytes = kKind == kDenseF16 ? 32 : 64;  // all 16 lanes
  DEPLOYKIT_INLINE static const uint8_t* at(const uint8_t* tile, int lane) { return tile + lane * (kBytes / 16); }
};

template <int T>
struct Units {
  const uint8_t* tile[T];
  int lane[T];
  float* out[T];

  DEPLOYKIT_INLINE Units(const Tiles& w, int64_t unit) {
#pragma GCC unroll 8
    for (int i = 0; i < T; ++i) {
      const int64_t t = (unit + i) / kParts16;
      lane[i] = static_cast<int>((unit + i) % kParts16) * kLanes;
      tile[i] = w.data + (w.first + t) * w.tile_bytes;
      out[i] = w.out + t * 16 + lane[i];
    }
  }
};

template <int R, int T>
DEPLOYKIT_INLINE void clear(F (&y)[T][R]) {
#pragma GCC unroll 8
  for (int i = 0; i < T; ++i) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) y[i][r] = zero();
  }
}

template <int R, int T>
DEPLOYKIT_INLINE void finish(const F (&y)[T][R], const Units<T>& u, int64_t rows, int64_t ldo) {
#pragma GCC unroll 8
  for (int i = 0; i < T; ++i) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      if (r < rows) store(u.out[i] + r * ldo, y[i][r]);
    }
  }
}

template <int32_t kKind, int R, int T>
DEPLOYKIT_INLINE void dense_units(const Tiles& w, const FloatBlock& block, int64_t unit) {
  using W = Dense<kKind>;
  const Units<T> u(w, unit);
  const uint8_t* p[T];
  for (int i = 0; i < T; ++i) p[i] = W::at(u.tile[i], u.lane[i]);
  const auto* x = static_cast<const float*>(block.x);
  F y[T][R];
  clear(y);
  const int64_t steps = (w.cols + W::kColumns - 1) / W::kColumns;
  for (int64_t k = 0; k < steps; ++k, x += R * W::kColumns) {
#pragma GCC unroll 8
    for (int i = 0; i < T; ++i) {
      __builtin_prefetch(p[i] + kAhead);
      if constexpr (kKind == kDenseBf16) {
        const B pair = load_bytes(p[i]);
        const F second = pair_second(pair), first = pair_first(pair);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
          y[i][r] = fma(second, broadcast(x + R + r), y[i][r]);
          y[i][r] = fma(first, broadcast(x + r), y[i][r]);
        }
      } else {
        const F v = kKind == kDenseF16 ? load_half(p[i]) : load(p[i]);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) y[i][r] = fma(v, broadcast(x + r), y[i][r]);
      }
      p[i] += W::kBytes;
    }
  }
  finish(y, u, block.rows, w.ldo);
}

#if defined(DEPLOYKIT_ISA_avx512)
template <int R, int T>
DEPLOYKIT_INLINE void pair_units(const Tiles& w, const FloatBlock& block, int64_t unit) {
  const Units<T> u(w, unit);
  const uint8_t* p[T];
  for (int i = 0; i < T; ++i) p[i] = u.tile[i];
  const auto* x = static_cast<const uint16_t*>(block.x);
  F y[T][R];
  clear(y);
  const int64_t steps = (w.cols + 1) / 2;
  for (int64_t k = 0; k < steps; ++k, x += 2 * R) {
#pragma GCC unroll 8
    for (int i = 0; i < T; ++i) {
      __builtin_prefetch(p[i] + kAhead);
      const B pair = load_bytes(p[i]);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) y[i][r] = dot_pairs(y[i][r], pair, x + 2 * r);
      p[i] += 64;
    }
  }
  finish(y, u, block.rows, w.ldo);
}
#endif

template <int kIndex, int R>
DEPLOYKIT_INLINE void quant_column(F (&y)[R], B v, const Scale& s, const float* x) {
  const F weight = fma(s.d, to_float(byte_of<kIndex>(v)), s.m);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) y[r] = fma(weight, broadcast(x + kIndex * R + r), y[r]);
}

template <int32_t kKind, int R, int T>
DEPLOYKIT_INLINE void quant_units(const Tiles& w, const FloatBlock& block, int64_t unit) {
  using W = Format<kKind>;
  const Units<T> u(w, unit);
  const auto* x = static_cast<const float*>(block.x);
  F y[T][R];
  clear(y);
  int64_t block_at = 0, index = 0;  // of the group in the tile, and in its record
  for (int64_t g = 0; g < w.layout.groups; ++g, x += 32 * R) {
    const int64_t at = block_at + W::kRecord + index * W::kGroupBytes;
    for (int half = 0; half < 2; ++half) {
      Scale s[T];
#pragma GCC unroll 8
      for (int i = 0; i < T; ++i) s[i] = W::scale(u.tile[i] + block_at, index, half, u.lane[i]);
      for (int step = 4 * half; step < 4 * half + 4; ++step) {
#pragma GCC unroll 8
        for (int i = 0; i < T; ++i) {
          const uint8_t* q = u.tile[i] + at + u.lane[i] * 4;
          __builtin_prefetch(q + kAhead);
          B v;
          if constexpr (W::kBits == 4) {
            v = load_bytes(q + step / 2 * 64);
            v = step % 2 == 0 ? low_halves(v) : high_halves(v);
          } else {
            v = load_bytes(q + step * 64);
          }
          const float* columns = x + step * 4 * R;
          quant_column<0>(y[i], v, s[i], columns);
          quant_column<1>(y[i], v, s[i], columns);
          quant_column<2>(y[i], v, s[i], columns);
          quant_column<3>(y[i], v, s[i], columns);
        }
      }
    }
    if (++index == w.layout.per_record) {
      index = 0;
      block_at += w.layout.block;
    }
  }
  finish(y, u, block.rows, w.ldo);
}

constexpr int32_t kPairs = -1;  // bfloat16 on both sides

template <int32_t kKind, int R, int T>
DEPLOYKIT_INLINE void units(const Tiles& w, const FloatBlock& block, int64_t unit) {
#if defined(DEPLOYKIT_ISA_avx512)
  if constexpr (kKind == kPairs) return pair_units<R, T>(w, block, unit);
#endif
  if constexpr (kKind >= 0 && is_dense(kKind)) dense_units<kKind, R, T>(w, block, unit);
  if constexpr (kKind >= 0 && !is_dense(kKind)) quant_units<kKind, R, T>(w, block, unit);
}

// One row has one chain of additions a vector: several vectors side by side keep the multipliers busy.
template <int32_t kKind, int R>
void run(const Tiles& w, const FloatBlock& block) {
  constexpr int T = R == 1 ? 4 : 1;
  const int64_t count = (w.last - w.first) * kParts16;
  int64_t unit = 0;
  for (; unit + T <= count; unit += T) units<kKind, R, T>(w, block, unit);
  for (; unit < count; ++unit) units<kKind, R, 1>(w, block, unit);
}

template <int32_t kKind>
FloatKernel choose(int64_t rows, int64_t& block) {
#define DEPLOYKIT_SIZE(n)           \
  if constexpr (n <= kFloatRows) {  \
    if (rows <= n) {                \
      block = n;                    \
      return &run<kKind, n>;        \
    }                               \
  }
  DEPLOYKIT_SIZE(1)
  DEPLOYKIT_SIZE(4)
  DEPLOYKIT_SIZE(8)
  DEPLOYKIT_SIZE(12)
#undef DEPLOYKIT_SIZE
  return nullptr;
}

}  // namespace

FloatKernel matmul_float_kernel(int32_t kind, int64_t rows, int64_t& block) {
  switch (kind) {
    case kDenseF32: return choose<kDenseF32>(rows, block);
    case kDenseF16: return choose<kDenseF16>(rows, block);
    case kDenseBf16: return choose<kDenseBf16>(rows, block);
    case kU4D: return choose<kU4D>(rows, block);
    case kU4DM: return choose<kU4DM>(rows, block);
    case kU4DZ: return choose<kU4DZ>(rows, block);
    case kU4K: return choose<kU4K>(rows, block);
    case kU8D16: return choose<kU8D16>(rows, block);
    case kU8D128: return choose<kU8D128>(rows, block);
    case kU8DM: return choose<kU8DM>(rows, block);
    case kU8K: return choose<kU8K>(rows, block);
    case kU8K6: return choose<kU8K6>(rows, block);
    case kU8Row: return choose<kU8Row>(rows, block);
    default: return nullptr;
  }
}

#if defined(DEPLOYKIT_ISA_avx512)
FloatKernel matmul_pairs_kernel(int64_t rows, int64_t& block) { return choose<kPairs>(rows, block); }
#endif

int64_t matmul_float_rows() { return kFloatRows; }

}  // namespace deploykit::cpu::DEPLOYKIT_ISA
