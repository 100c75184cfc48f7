// Attention over bf16 with dot products of bf16 pairs: Q and the weights of V are rounded to bf16, sums are float32.
#pragma once

#include "cpu/attention/isa/convert.h"
#include "cpu/attention/isa/fold.h"

#if defined(DEPLOYKIT_ISA_avx512)

namespace deploykit::cpu::DEPLOYKIT_ISA {
namespace {

inline __m512bh as_pairs(__m512i x) { return (__m512bh)x; }

inline __m512 dot_pairs(__m512 sum, __m512i a, __m512i b) { return _mm512_dpbf16_ps(sum, as_pairs(a), as_pairs(b)); }

inline __m512i broadcast_pair(const void* p) {
  int pair;
  __builtin_memcpy(&pair, p, 4);
  return _mm512_set1_epi32(pair);
}

// Scores of R rows and T tiles; q points at the rows' bf16, two bytes a dimension. The tiles' values, as large as the
// keys, are fetched meanwhile.
template <int R, int T>
inline void dot_tiles_bf16(const uint8_t* q, int64_t q_bytes, int32_t pairs, const uint8_t* const* keys,
                           const uint8_t* const* values, float* scores) {
  __m512 acc[R][T];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) acc[r][t] = _mm512_setzero_ps();
  }
  const uint8_t *k[T], *v[T];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) k[t] = keys[t], v[t] = values[t];
  for (int64_t i = 0; i < pairs; ++i) {
    __m512i tile[T];
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) tile[t] = _mm512_loadu_si512(k[t] + i * 64), fetch_early(v[t] + i * 64);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m512i pair = broadcast_pair(q + r * q_bytes + i * 4);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) acc[r][t] = dot_pairs(acc[r][t], pair, tile[t]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) _mm512_storeu_ps(scores + r * kScoreStride + t * kTileKeys, acc[r][t]);
  }
}

// Sums of values of R rows and D * 16 dimensions from `dim` on, over the tiles of `range`. As much of the keys of the
// span that comes next is fetched meanwhile.
template <int R, int D>
inline void sum_values_bf16(const AttendTask& task, const Span& span, const uint8_t* const* values, int32_t row,
                            TileRange range, int64_t dim) {
  const int64_t row_bytes = int64_t{task.geometry.value_dims} * 4;
  const uint8_t* const weights = task.work.weights + int64_t{row} * 2 * kScoreStride;
  __m512 acc[R][D];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int d = 0; d < D; ++d) acc[r][d] = _mm512_setzero_ps();
  }
  for (int32_t tile = range.begin; tile < range.end; ++tile) {
    const uint8_t* v = values[tile] + dim * 4;
    const uint8_t* w = weights + tile * kTileKeys * 2;
    const uint8_t* ahead = span.ahead[tile] + dim * 32;
    for (int pair = 0; pair < kTileKeys / 2; ++pair, v += row_bytes, w += 4, ahead += D * 64) {
      __m512i row[D];
#pragma GCC unroll 8
      for (int d = 0; d < D; ++d) row[d] = _mm512_loadu_si512(v + d * 64), fetch_early(ahead + d * 64);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const __m512i p = broadcast_pair(w + r * 2 * kScoreStride);
#pragma GCC unroll 8
        for (int d = 0; d < D; ++d) acc[r][d] = dot_pairs(acc[r][d], p, row[d]);
      }
    }
  }
  const Sink sink = sink_of(task, span.base, row);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    float* const to = sink.to + r * sink.stride + dim;
    const Vec old_factor = set1(task.work.old_factor[row + r]), new_factor = set1(task.work.new_factor[row + r]);
#pragma GCC unroll 8
    for (int d = 0; d < D; ++d) {
      const Vec sum_of_span = {acc[r][d]};
      store(to + d * 16,
            sink.partial ? sum_of_span : fold_values(load(to + d * 16), sum_of_span, old_factor, new_factor));
    }
  }
}

// 2^(x - top) for x <= top and a whole `top`: 2.6e-6, far finer than the rounding to bf16 that follows.
inline Vec exp2_coarse(Vec x, Vec least, Vec round) {  // least = top - 126, round = kRound - top
  x = max(least, x);
  const Vec magic = add(x, round);
  const Vec f = sub(x, sub(magic, round));
  Vec p = set1(9.570072356e-3f);
  p = fma(p, f, set1(5.591785799e-2f));
  p = fma(p, f, set1(2.402474556e-1f));
  p = fma(p, f, set1(6.931218152e-1f));
  p = fma(p, f, set1(9.999992612e-1f));
  const __m512i n = _mm512_slli_epi32(_mm512_castps_si512(magic.v), 23);
  return {_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p.v), n))};
}

struct Bf16Pairs {
  static constexpr int kRows = 6;

  static void prepare(const AttendTask& task, int32_t rows) {
    const Vec factor = set1(query_factor(task));
    for (int32_t r = 0; r < rows; ++r) {
      const float* from = task.q + r / task.group * task.q_stride + r % task.group * task.head_dim;
      uint8_t* to = task.work.query + int64_t{r} * task.head_dim * 2;
      for (int32_t d = 0; d < task.head_dim; d += 16) {
        const __m256bh half = _mm512_cvtneps_pbh(mul(load_n(from + d, task.head_dim - d), factor).v);
        _mm256_mask_storeu_epi16(to + d * 2, first_lanes(task.head_dim - d), (__m256i)half);
      }
    }
  }

  template <int R>
  static void scores_of(const AttendTask& task, const Span& span, int32_t row, TileRange range) {
    const int32_t pairs = task.head_dim / 2;
    const int64_t q_bytes = int64_t{task.head_dim} * 2;
    const uint8_t* q = task.work.query + row * q_bytes;
    float* s = task.work.scores + int64_t{row} * kScoreStride;
    int32_t t = range.begin;
    for (; t + 4 <= range.end; t += 4) {
      dot_tiles_bf16<R, 4>(q, q_bytes, pairs, span.key + t, span.value + t, s + t * kTileKeys);
    }
    for (; t < range.end; ++t) {
      dot_tiles_bf16<R, 1>(q, q_bytes, pairs, span.key + t, span.value + t, s + t * kTileKeys);
    }
  }

  // Two tiles of weights, zero in lanes that are not visible; adds them to `total`, rounded as they are used.
  static __m512 weigh_two(const float* s, uint8_t* w, Vec least, Vec round, uint32_t lanes, __m512 total) {
    Vec a = exp2_coarse(load(s), least, round), b = exp2_coarse(load(s + kTileKeys), least, round);
    if (lanes != 0xffffffffu) {
      a = select(static_cast<Mask16>(lanes), a, zero());
      b = select(static_cast<Mask16>(lanes >> 16), b, zero());
    }
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(b.v, a.v);
    _mm512_storeu_si512(w, both);
    return dot_pairs(total, both, _mm512_set1_epi16(0x3f80));  // times 1.0
  }

  static void weigh(const AttendTask& task, int32_t row0, int32_t end, TileRange range, int32_t base) {
    int32_t lo[kRows], hi[kRows];
    float top[kRows];
    for (int32_t r = row0; r < end; ++r) {
      const int32_t i = r - row0;
      float* s = task.work.scores + int64_t{r} * kScoreStride;
      lo[i] = visible_lo(task, task.work.token[r], base);
      hi[i] = visible_hi(task, task.work.token[r], base);
      if (lo[i] >= hi[i]) continue;
      cap_scores(task, s, lo[i], hi[i]);
      top[i] = __builtin_ceilf(max_of_scores(s, lo[i], hi[i]));
    }
    for (int32_t r = row0; r < end; ++r) {
      const int32_t i = r - row0;
      const float* s = task.work.scores + int64_t{r} * kScoreStride;
      uint8_t* w = task.work.weights + int64_t{r} * 2 * kScoreStride;
      if (lo[i] >= hi[i]) {
        for (int32_t t = range.begin; t < range.end; ++t) __builtin_memset(w + t * kTileKeys * 2, 0, kTileKeys * 2);
        task.work.span_sum[r] = 0.0f;
        continue;
      }
      const Vec least = set1(top[i] - 126.0f), round = set1(kRound - top[i]);
      const int32_t full0 = (lo[i] + 31) / 32 * 2, full1 = hi[i] / 32 * 2;
      __m512 total = _mm512_setzero_ps();
      for (int32_t t = range.begin & ~1; t < range.end; t += 2) {
        const uint32_t lanes = t >= full0 && t < full1 ? 0xffffffffu
                                                       : static_cast<uint32_t>(lanes_in(t, lo[i], hi[i])) |
                                                             static_cast<uint32_t>(lanes_in(t + 1, lo[i], hi[i])) << 16;
        total = weigh_two(s + t * kTileKeys, w + t * kTileKeys * 2, least, round, lanes, total);
      }
      task.work.span_max[r] = top[i];
      task.work.span_sum[r] = sum(Vec{total});
    }
  }

  // Kept in the first-level cache: the scores of a few rows, not the keys, which every few rows read again.
  static void weights(const AttendTask& task, const Span& span, int32_t rows) {
    for (int32_t r = 0; r < rows; r += kRows) {
      const int32_t end = at_most(rows, r + kRows);
      const TileRange range = tiles_of(task, r, end, span.base);
      if (range.begin >= range.end) {
        for (int32_t i = r; i < end; ++i) task.work.span_sum[i] = 0.0f;
        continue;
      }
      switch (end - r) {
        case 1: scores_of<1>(task, span, r, range); break;
        case 2: scores_of<2>(task, span, r, range); break;
        case 3: scores_of<3>(task, span, r, range); break;
        case 4: scores_of<4>(task, span, r, range); break;
        case 5: scores_of<5>(task, span, r, range); break;
        default: scores_of<6>(task, span, r, range); break;
      }
      weigh(task, r, end, range, span.base);
    }
  }

  // A copy of a V tile with zeros for keys that no query of the unit sees.
  static const uint8_t* trimmed(const AttendTask& task, const Span& span, int32_t tile, uint8_t* to) {
    const int32_t dims = task.geometry.value_dims;
    uint16_t* out = reinterpret_cast<uint16_t*>(to);
    const uint16_t* in = reinterpret_cast<const uint16_t*>(span.value[tile]);
    for (int32_t key = 0; key < kTileKeys; ++key) {
      const int32_t at = tile * kTileKeys + key;
      const uint16_t keep = at >= span.lo && at < span.hi ? 0xffff : 0;
      for (int32_t d = 0; d < dims; ++d) {
        const int32_t i = (key / 2 * dims + d) * 2 + key % 2;
        out[i] = static_cast<uint16_t>(in[i] & keep);
      }
    }
    return to;
  }

  template <int R>
  static void values_of(const AttendTask& task, const Span& span, const uint8_t* const* tiles, int32_t row,
                        TileRange range) {
    const int64_t dims = task.geometry.value_dims;
    int64_t d = 0;
    for (; d + 64 <= dims; d += 64) sum_values_bf16<R, 4>(task, span, tiles, row, range, d);
    if (d + 32 <= dims) sum_values_bf16<R, 2>(task, span, tiles, row, range, d), d += 32;
    if (d < dims) sum_values_bf16<R, 1>(task, span, tiles, row, range, d);
  }

  static void values(const AttendTask& task, const Span& span, int32_t rows) {
    const uint8_t* tiles[kSpanTiles];
    for (int32_t t = span.tile0; t < span.tile1; ++t) tiles[t] = span.value[t];
    const int32_t first = span.tile0, last = span.tile1 - 1;
    if (span.lo > first * kTileKeys) tiles[first] = trimmed(task, span, first, task.work.edge);
    if (span.hi < (last + 1) * kTileKeys && (last != first || tiles[first] == span.value[first])) {
      tiles[last] = trimmed(task, span, last, task.work.edge + task.geometry.value_dims * kTileKeys * 2);
    }
    for (int32_t r = 0; r < rows; r += kRows) {
      const int32_t count = at_most(kRows, rows - r);
      const TileRange range = tiles_of(task, r, r + count, span.base);
      if (range.begin >= range.end) continue;
      switch (count) {
        case 1: values_of<1>(task, span, tiles, r, range); break;
        case 2: values_of<2>(task, span, tiles, r, range); break;
        case 3: values_of<3>(task, span, tiles, r, range); break;
        case 4: values_of<4>(task, span, tiles, r, range); break;
        case 5: values_of<5>(task, span, tiles, r, range); break;
        default: values_of<6>(task, span, tiles, r, range); break;
      }
    }
  }
};

}  // namespace
}  // namespace deploykit::cpu::DEPLOYKIT_ISA

#endif
