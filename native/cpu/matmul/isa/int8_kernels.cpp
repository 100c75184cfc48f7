// Quantized weights times int8 activations: per group of 32 columns an exact integer sum, then float32 in this order:
//   y = fma(float(sum of (q - zero) * a), d * scale_a, y), and where the minimum is stored y = fma(m, sum_a, y);
//   with one scale a row: y = fma(float(sum), scale_a, y), and y * d at the end.
#include "cpu/matmul/isa/blocks_of_rows.h"
#include "cpu/matmul/isa/formats.h"

namespace deploykit::cpu::DEPLOYKIT_ISA {
namespace {

constexpr int64_t kAhead = 4096;  // bytes of weights that are asked for before they are needed

// One group of 32 columns of kLanes rows of weights and R rows of activations.
template <int32_t kKind, int R>
DEPLOYKIT_INLINE void add_group(F (&y)[R], const uint8_t* record, int64_t index, const uint8_t* quants, int lane,
                                const Int8Block& block, int64_t g) {
  using W = Format<kKind>;
  using D = Dot<W::kBits, W::kZero>;
  constexpr int kVectors = 8 / W::kParts;  // steps of 4 columns that share a scale
  const int8_t* q = block.q + g * (32 * R);
#pragma GCC unroll 2
  for (int part = 0; part < W::kParts; ++part) {
    const int32_t* neg = W::kParts == 2 ? block.neg16 + g * (2 * R) + part : block.neg + g * R;
    typename D::Acc acc[R];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) acc[r] = D::begin(neg + r * W::kParts);
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) {
      const int step = part * kVectors + j;
      B v;
      if constexpr (W::kBits == 4) {
        v = load_bytes(quants + step / 2 * 64);
        v = step % 2 == 0 ? low_halves(v) : high_halves(v);
      } else {
        v = load_bytes(quants + step * 64);
      }
      v = D::prepare(v);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) acc[r] = D::add(acc[r], v, q + r * 32 + step * 4);
    }
    Scale s;
    if constexpr (!W::kRowScale) s = W::scale(record, index, part, lane);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const F sum = to_float(D::end(acc[r], neg + r * W::kParts));
      const F scale = broadcast(block.scale + g * R + r);
      if constexpr (W::kRowScale) {
        y[r] = fma(sum, scale, y[r]);
      } else {
        y[r] = fma(sum, mul(s.d, scale), y[r]);
      }
      if constexpr (W::kZero == 0) y[r] = fma(s.m, broadcast(block.sum + g * R + r), y[r]);
    }
  }
}

// A tile is passed over once for every kLanes of its lanes; with one row of activations, where reading the weights is
// what takes time, once for all of them.
template <int32_t kKind, int R>
void run(const Tiles& w, const Int8Block& block) {
  using W = Format<kKind>;
  constexpr int kWide = R == 1 ? 16 / kLanes : 1;  // vectors side by side
  const int64_t groups = w.layout.groups;
  const int64_t per_record = W::kGroups != 0 ? W::kGroups : w.layout.per_record;
  const uint8_t* end = w.data + w.last * w.tile_bytes;
  for (int64_t t = w.first; t < w.last; ++t) {
    const uint8_t* tile = w.data + t * w.tile_bytes;
    for (int lane = 0; lane < 16; lane += kLanes * kWide) {
      const uint8_t* p = tile;
      F y[kWide][R];
#pragma GCC unroll 4
      for (int i = 0; i < kWide; ++i) {
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) y[i][r] = zero();
      }
      for (int64_t g = 0; g < groups;) {
        const uint8_t* record = p;
        p += W::kRecord;
        const int64_t count = per_record < groups - g ? per_record : groups - g;
        for (int64_t index = 0; index < count; ++index, ++g, p += W::kGroupBytes) {
          if (lane == 0 && p + kAhead < end) {
#pragma GCC unroll 16
            for (int i = 0; i <= W::kBits; ++i) __builtin_prefetch(p + kAhead + 64 * i);
          }
#pragma GCC unroll 4
          for (int i = 0; i < kWide; ++i) {
            const int at = lane + i * kLanes;
            add_group<kKind, R>(y[i], record, index, p + at * 4, at, block, g);
          }
        }
      }
#pragma GCC unroll 4
      for (int i = 0; i < kWide; ++i) {
        const int at = lane + i * kLanes;
        float* out = w.out + (t - w.first) * 16 + at;
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
          if constexpr (W::kRowScale) y[i][r] = mul(y[i][r], W::scale(tile, 0, 0, at).d);
          if (r < block.rows) store(out + r * w.ldo, y[i][r]);
        }
      }
    }
  }
}

// Blocks of these sizes: up to 4 rows each of its own, then the next larger one.
template <int32_t kKind>
Int8Kernel choose(int64_t rows, int64_t& block) {
#define DEPLOYKIT_SIZE(n)           \
  if constexpr (n <= kInt8Rows) {   \
    if (rows <= n) {                \
      block = n;                    \
      return &run<kKind, n>;        \
    }                               \
  }
  DEPLOYKIT_SIZE(1)
  DEPLOYKIT_SIZE(2)
  DEPLOYKIT_SIZE(3)
  DEPLOYKIT_SIZE(4)
  DEPLOYKIT_SIZE(6)
  DEPLOYKIT_SIZE(8)
  DEPLOYKIT_SIZE(10)
  DEPLOYKIT_SIZE(12)
#undef DEPLOYKIT_SIZE
  return nullptr;
}

}  // namespace

Int8Kernel matmul_int8_kernel(int32_t kind, int64_t rows, int64_t& block) {
  switch (kind) {
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

int64_t matmul_int8_rows() { return kInt8Rows; }

}  // namespace deploykit::cpu::DEPLOYKIT_ISA
