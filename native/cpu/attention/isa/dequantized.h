// Attention in float32 over tiles that are converted to float32 first: every type, every instruction set.
#pragma once

#include "cpu/attention/isa/convert.h"
#include "cpu/attention/isa/fold.h"
#include "cpu/attention/isa/mix.h"

namespace deploykit::cpu::DEPLOYKIT_ISA {
namespace {

inline Vec scales_of(const uint16_t* scales, int which) { return load_f16(scales + which * kTileKeys); }

// K of a tile as [head_dim][16].
inline const float* key_tile(const AttendTask& task, const Span& span, int32_t tile) {
  const uint8_t* from = span.key[tile];
  if (task.type == KvType::f32) return reinterpret_cast<const float*>(from);
  float* to = task.work.key_tile;
  const int32_t rows = task.geometry.key_rows;
  if (task.type == KvType::f16) {
    for (int32_t i = 0; i < rows; ++i) store(to + i * 16, load_f16(reinterpret_cast<const uint16_t*>(from) + i * 16));
    return to;
  }
  if (task.type == KvType::bf16) {
    for (int32_t i = 0; i < rows; ++i) {
      Vec even, odd;
      load_bf16_pairs(from + i * 64, even, odd);
      store(to + i * 32, even);
      store(to + i * 32 + 16, odd);
    }
    return to;
  }
  const Vec scale = scales_of(span.scales[tile], 0), base = scales_of(span.scales[tile], 1);
  for (int32_t i = 0; i < rows; ++i) {
    if (task.type == KvType::int4) {
      for (int b = 0; b < 4; ++b) {
        store(to + (8 * i + b) * 16, fma(scale, field(from + i * 64, 8 * b, 15, 0), base));
        store(to + (8 * i + 4 + b) * 16, fma(scale, field(from + i * 64, 8 * b + 4, 15, 0), base));
      }
    } else {
      for (int b = 0; b < 4; ++b) store(to + (4 * i + b) * 16, fma(scale, field(from + i * 64, 8 * b, 255, 0), base));
    }
  }
  return to;
}

// V of a tile as [16][value_dims], zeros for keys that no query of the unit sees.
inline const float* value_tile(const AttendTask& task, const Span& span, int32_t tile) {
  const uint8_t* from = span.value[tile];
  float* to = task.work.value_tile;
  const int32_t dims = task.geometry.value_dims;
  const int32_t lo = span.lo - tile * kTileKeys, hi = span.hi - tile * kTileKeys;
  const bool whole = lo <= 0 && hi >= kTileKeys;
  if (task.type == KvType::f32) {
    if (whole) return reinterpret_cast<const float*>(from);
    __builtin_memcpy(to, from, static_cast<size_t>(kTileKeys * dims * 4));
  } else if (task.type == KvType::f16) {
    for (int32_t i = 0; i < kTileKeys * dims; i += 16) {
      store(to + i, load_f16(reinterpret_cast<const uint16_t*>(from) + i));
    }
  } else if (task.type == KvType::bf16) {
    for (int32_t pair = 0; pair < kTileKeys / 2; ++pair) {
      for (int32_t d = 0; d < dims; d += 16) {
        Vec even, odd;
        load_bf16_pairs(from + (pair * dims + d) * 4, even, odd);
        store(to + 2 * pair * dims + d, even);
        store(to + (2 * pair + 1) * dims + d, odd);
      }
    }
  } else {
    float scale[16], base[16];
    store(scale, scales_of(span.scales[tile], 2));
    store(base, scales_of(span.scales[tile], 3));
    for (int32_t key = 0; key < kTileKeys; ++key) {
      const Vec s = set1(scale[key]), z = set1(base[key]);
      float* row = to + key * dims;
      if (task.type == KvType::int8) {
        const uint8_t* words = from + int64_t{key / 4} * dims * 4;
        for (int32_t d = 0; d < dims; d += 16) {
          store(row + d, fma(s, field(words + d * 4, key % 4 * 8, 255, static_cast<int>(0x80808080u)), z));
        }
      } else {
        const uint8_t* words = from + int64_t{key / 4} * dims * 2;
        for (int32_t d = 0; d < dims; d += 32) {
          store(row + d, fma(s, field(words + d * 2, key % 4 * 8, 15, 0), z));
          store(row + d + 16, fma(s, field(words + d * 2, key % 4 * 8 + 4, 15, 0), z));
        }
      }
    }
  }
  for (int32_t key = 0; key < kTileKeys && !whole; ++key) {
    if (key >= lo && key < hi) continue;
    for (int32_t d = 0; d < dims; d += 16) store(to + key * dims + d, zero());
  }
  return to;
}

// Scores of R rows and one tile.
template <int R>
inline void dot_tile(const float* q, int32_t head_dim, const float* keys, float* scores) {
  Vec acc[R];
  for (int r = 0; r < R; ++r) acc[r] = zero();
  for (int32_t d = 0; d < head_dim; ++d) {
    const Vec k = load(keys + d * 16);
    for (int r = 0; r < R; ++r) acc[r] = fma(set1(q[r * head_dim + d]), k, acc[r]);
  }
  for (int r = 0; r < R; ++r) store(scores + r * kScoreStride, acc[r]);
}

// Sums of values of R rows and D * 16 dimensions, over the keys of one tile.
template <int R, int D>
inline void add_values(const float* weights, const float* values, int64_t stride, float* sums, int64_t sum_stride) {
  Vec acc[R][D];
  for (int r = 0; r < R; ++r) {
    for (int d = 0; d < D; ++d) acc[r][d] = load(sums + r * sum_stride + d * 16);
  }
  for (int key = 0; key < kTileKeys; ++key) {
    Vec v[D];
    for (int d = 0; d < D; ++d) v[d] = load(values + key * stride + d * 16);
    for (int r = 0; r < R; ++r) {
      const Vec p = set1(weights[r * kScoreStride + key]);
      for (int d = 0; d < D; ++d) acc[r][d] = fma(p, v[d], acc[r][d]);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int d = 0; d < D; ++d) store(sums + r * sum_stride + d * 16, acc[r][d]);
  }
}

// With few rows memory is what is waited for.
inline void fetch_tile(const uint8_t* tile, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) fetch_early(tile + i);
}

struct Dequantized {
#if defined(DEPLOYKIT_ISA_avx512)
  static constexpr int kRows = 6, kValueRows = 6;
#else
  static constexpr int kRows = 6, kValueRows = 2;
#endif

  static void prepare(const AttendTask& task, int32_t rows) {
    const Vec factor = set1(query_factor(task));
    float* to = reinterpret_cast<float*>(task.work.query);
    for (int32_t r = 0; r < rows; ++r) {
      const float* from = task.q + r / task.group * task.q_stride + r % task.group * task.head_dim;
      for (int32_t d = 0; d < task.head_dim; d += 16) {
        const int32_t left = task.head_dim - d;
        store_n(to + int64_t{r} * task.head_dim + d, mul(load_n(from + d, left), factor), left);
      }
      if (task.type == KvType::int4) mix(to + int64_t{r} * task.head_dim, task.head_dim);
    }
  }

  static void weights(const AttendTask& task, const Span& span, int32_t rows) {
    const float* query = reinterpret_cast<const float*>(task.work.query);
    for (int32_t tile = span.tile0; tile < span.tile1; ++tile) {
      if (rows <= kRows) fetch_tile(span.value[tile], task.geometry.value_tile_bytes);
      const float* keys = key_tile(task, span, tile);
      for (int32_t r = 0; r < rows; r += kRows) {
        const int32_t count = at_most(kRows, rows - r);
        const TileRange range = tiles_of(task, r, r + count, span.base);
        if (tile < range.begin || tile >= range.end) continue;
        const float* q = query + int64_t{r} * task.head_dim;
        float* s = task.work.scores + int64_t{r} * kScoreStride + tile * kTileKeys;
        switch (count) {
          case 1: dot_tile<1>(q, task.head_dim, keys, s); break;
          case 2: dot_tile<2>(q, task.head_dim, keys, s); break;
          case 3: dot_tile<3>(q, task.head_dim, keys, s); break;
          case 4: dot_tile<4>(q, task.head_dim, keys, s); break;
          case 5: dot_tile<5>(q, task.head_dim, keys, s); break;
          default: dot_tile<6>(q, task.head_dim, keys, s); break;
        }
      }
    }
    for (int32_t r = 0; r < rows; r += kRows) {
      const int32_t end = at_most(rows, r + kRows);
      weigh(task, r, end, tiles_of(task, r, end, span.base), span.base);
    }
  }

  static void weigh(const AttendTask& task, int32_t row, int32_t end, TileRange range, int32_t base) {
    for (; row < end; ++row) {
      float* s = task.work.scores + int64_t{row} * kScoreStride;
      const int32_t token = task.work.token[row];
      const int32_t lo = visible_lo(task, token, base), hi = visible_hi(task, token, base);
      if (lo >= hi) {
        for (int32_t t = range.begin; t < range.end; ++t) store(s + t * kTileKeys, zero());
        task.work.span_sum[row] = 0.0f;
        continue;
      }
      cap_scores(task, s, lo, hi);
      const float m = max_of_scores(s, lo, hi);
      task.work.span_max[row] = m;
      task.work.span_sum[row] = weights_f32(s, range, lo, hi, m);
    }
  }

  template <int R>
  static void values_of(const AttendTask& task, const float* weights, const float* tile, float* sums) {
    const int64_t stride = task.geometry.value_dims;
    int64_t d = 0;
    for (; d + 32 <= stride; d += 32) add_values<R, 2>(weights, tile + d, stride, sums + d, task.work.dims);
    if (d < stride) add_values<R, 1>(weights, tile + d, stride, sums + d, task.work.dims);
  }

  static void values(const AttendTask& task, const Span& span, int32_t rows) {
    float* const sums = task.work.span_values;
    for (int64_t i = 0; i < rows * task.work.dims; i += 16) store(sums + i, zero());
    for (int32_t tile = span.tile0; tile < span.tile1; ++tile) {
      if (rows <= kRows) fetch_tile(span.ahead[tile], task.geometry.key_tile_bytes);
      const float* values = value_tile(task, span, tile);
      for (int32_t r = 0; r < rows; r += kRows) {
        const int32_t count = at_most(kRows, rows - r);
        const TileRange range = tiles_of(task, r, r + count, span.base);
        if (tile < range.begin || tile >= range.end) continue;
        for (int32_t i = 0; i < count; i += kValueRows) {
          const float* w = task.work.scores + int64_t{r + i} * kScoreStride + tile * kTileKeys;
          float* to = sums + (r + i) * task.work.dims;
          switch (at_most(kValueRows, count - i)) {
            case 1: values_of<1>(task, w, values, to); break;
            case 2: values_of<2>(task, w, values, to); break;
#if defined(DEPLOYKIT_ISA_avx512)
            case 3: values_of<3>(task, w, values, to); break;
            case 4: values_of<4>(task, w, values, to); break;
            case 5: values_of<5>(task, w, values, to); break;
            case 6: values_of<6>(task, w, values, to); break;
#endif
            default: break;
          }
        }
      }
    }
    for (int32_t r = 0; r < rows; ++r) {
      const Sink sink = sink_of(task, span.base, r);
      const float* from = sums + r * task.work.dims;
      const Vec old_factor = set1(task.work.old_factor[r]), new_factor = set1(task.work.new_factor[r]);
      for (int64_t d = 0; d < task.geometry.value_dims; d += 16) {
        const Vec v = load(from + d);
        store(sink.to + d, sink.partial ? v : fold_values(load(sink.to + d), v, old_factor, new_factor));
      }
    }
  }
};

}  // namespace
}  // namespace deploykit::cpu::DEPLOYKIT_ISA
