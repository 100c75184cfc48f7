// Attention over int8 and int4 with exact integer dot products: Q, and the weights of V, are fixed-point numbers of
// sixteen bits as two bytes each, so that one 64-byte load of K or V meets a high and a low vpdpbusd.
//   score = ks * qs * sum(q16 * k) + kz * qs * sum(q16), with k from 0 to 255 or 15;
//   value = ws * sum(w16 * v) + sum(p * vz), with w = p * vs and w16 = w * 32767 / max(w) over the span.
#pragma once

#include "cpu/attention/isa/convert.h"
#include "cpu/attention/isa/fold.h"
#include "cpu/attention/isa/mix.h"

#if defined(DEPLOYKIT_ISA_avx512)

namespace deploykit::cpu::DEPLOYKIT_ISA {
namespace {

// sum += four products of unsigned and signed bytes, in each of sixteen lanes. Written as an instruction: for the
// intrinsic, GCC 12 copies the accumulators of a tile from register to register and then runs out of registers.
inline void add_dots(__m512i& sum, __m512i unsigned_bytes, __m512i signed_bytes) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(unsigned_bytes), "v"(signed_bytes));
}
inline __m512i broadcast_word(const uint8_t* p) {
  int word;
  __builtin_memcpy(&word, p, 4);
  return _mm512_set1_epi32(word);
}
inline __m512i low_nibbles(__m512i x) { return _mm512_and_si512(x, _mm512_set1_epi8(15)); }
inline __m512i high_nibbles(__m512i x) { return _mm512_and_si512(_mm512_srli_epi16(x, 4), _mm512_set1_epi8(15)); }
inline Vec high_and_low(__m512i high, __m512i low) {
  return {_mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(high, 8), low))};
}

inline constexpr float kQueryLevels = 32512.0f;   // 127 * 256: the high byte stays a signed one after rounding
inline constexpr float kWeightLevels = 32767.0f;  // high byte 0 to 127, low byte 0 to 255

template <bool four_bit_keys, bool four_bit_values>
struct Integer {
  static constexpr int kRows = 6;

  static void prepare(const AttendTask& task, int32_t rows) {
    const int32_t dim = task.head_dim;
    const Vec factor = set1(query_factor(task));
    float scaled[kMaxHeadDim];
    for (int32_t r = 0; r < rows; ++r) {
      const float* from = task.q + r / task.group * task.q_stride + r % task.group * dim;
      Vec most = zero(), bad = zero();
      for (int32_t d = 0; d < dim; d += 16) store_n(scaled + d, mul(load_n(from + d, dim - d), factor), dim - d);
      if (four_bit_keys) mix(scaled, dim);
      for (int32_t d = 0; d < dim; d += 16) {
        const Vec x = load_n(scaled + d, dim - d);
        most = max(most, abs(x));
        bad = fma(x, zero(), bad);  // NaN where x is not finite
      }
      const float top = largest(most);
      const Vec inverse = set1(top > 0.0f ? kQueryLevels / top : 0.0f);
      uint8_t* high = task.work.query + int64_t{r} * dim * 2;
      uint8_t* low = high + dim;
      __m512i total = _mm512_setzero_si512();
      for (int32_t d = 0; d < dim; d += 16) {
        const Mask16 lanes = first_lanes(dim - d);
        const __m512i q = _mm512_cvtps_epi32(mul(load_n(scaled + d, dim - d), inverse).v);
        const __m512i h = _mm512_srai_epi32(_mm512_add_epi32(q, _mm512_set1_epi32(128)), 8);
        _mm_mask_storeu_epi8(high + d, lanes, _mm512_cvtepi32_epi8(h));
        _mm_mask_storeu_epi8(low + d, lanes, _mm512_cvtepi32_epi8(q));
        total = _mm512_add_epi32(total, q);
      }
      const float scale = top / kQueryLevels + sum(bad);
      task.work.query_scale[r] = scale;
      task.work.query_sum[r] = scale * static_cast<float>(_mm512_reduce_add_epi32(total));
    }
  }

  // Scales and zeros of the span's keys as float32: K's scale, K's zero, V's scale, V's zero.
  static void load_scales(const AttendTask& task, const Span& span) {
    float* to = task.work.scales;
    for (int32_t t = span.tile0; t < span.tile1; ++t) {
      const uint16_t* from = span.scales[t];
      float* at = to + t * kTileKeys;
      store(at, load_f16(from));
      store(at + kSpanKeys, load_f16(from + 16));
      const Vec scale = load_f16(from + 32), base = load_f16(from + 48);
      store(at + 2 * kSpanKeys, scale);
      store(at + 3 * kSpanKeys, four_bit_values ? base : fma(scale, set1(128.0f), base));  // int8 stores q - 128
    }
  }

  template <int R, int T>
  static void dot_tiles(const AttendTask& task, const Span& span, int32_t row, int32_t tile) {
    __m512i high[R][T], low[R][T];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) high[r][t] = low[r][t] = _mm512_setzero_si512();
    }
    const int64_t dim = task.head_dim;
    const uint8_t* q = task.work.query + row * dim * 2;
    const uint8_t *k[T], *v[T];
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) k[t] = span.key[tile + t], v[t] = span.value[tile + t];
    constexpr int64_t kAhead = four_bit_values && !four_bit_keys ? 32 : 64;  // bytes of V for 64 of K
    for (int64_t i = 0; i < task.geometry.key_rows; ++i) {
      __m512i keys[T];
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) keys[t] = _mm512_loadu_si512(k[t] + i * 64), fetch_early(v[t] + i * kAhead);
#pragma GCC unroll 2
      for (int part = 0; part < (four_bit_keys ? 2 : 1); ++part) {
        __m512i bytes[T];
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) {
          bytes[t] = !four_bit_keys ? keys[t] : part == 0 ? low_nibbles(keys[t]) : high_nibbles(keys[t]);
        }
        const int64_t at = four_bit_keys ? i * 8 + part * 4 : i * 4;
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          const __m512i qh = broadcast_word(q + r * dim * 2 + at), ql = broadcast_word(q + r * dim * 2 + dim + at);
#pragma GCC unroll 8
          for (int t = 0; t < T; ++t) {
            add_dots(high[r][t], bytes[t], qh);
            add_dots(low[r][t], bytes[t], ql);
          }
        }
      }
    }
    const float* scales = task.work.scales + tile * kTileKeys;
    float* s = task.work.scores + int64_t{row} * kScoreStride + tile * kTileKeys;
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Vec qs = set1(task.work.query_scale[row + r]), qsum = set1(task.work.query_sum[row + r]);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        const Vec ks = load(scales + t * kTileKeys), kz = load(scales + kSpanKeys + t * kTileKeys);
        const Vec dot = mul(high_and_low(high[r][t], low[r][t]), qs);
        store(s + r * kScoreStride + t * kTileKeys, fma(dot, ks, mul(kz, qsum)));
      }
    }
  }

  template <int R>
  static void scores_of(const AttendTask& task, const Span& span, int32_t row, TileRange range) {
    constexpr int kTiles = R > 3 ? 2 : 4;
    int32_t t = range.begin;
    for (; t + kTiles <= range.end; t += kTiles) dot_tiles<R, kTiles>(task, span, row, t);
    for (; t < range.end; ++t) dot_tiles<R, 1>(task, span, row, t);
  }

  static void weigh_row(const AttendTask& task, int32_t row, TileRange range, int32_t lo, int32_t hi) {
    float* s = task.work.scores + int64_t{row} * kScoreStride;
    uint8_t* high = task.work.weights + int64_t{row} * 2 * kScoreStride;
    uint8_t* low = high + kScoreStride;
    const float* scale = task.work.scales + 2 * kSpanKeys;
    const float* base = scale + kSpanKeys;
    cap_scores(task, s, lo, hi);
    const float top = max_of_scores(s, lo, hi);
    const Vec m = set1(top);
    Vec total = zero(), zeros = zero(), most = zero();
    for (int32_t t = range.begin; t < range.end; ++t) {
      const Mask16 lanes = lanes_in(t, lo, hi);
      const int32_t i = t * kTileKeys;
      Vec p = exp2_softmax(sub(load(s + i), m)), vs = load(scale + i), vz = load(base + i);
      if (lanes != 0xffff) {
        p = select(lanes, p, zero());
        vs = select(lanes, vs, zero());
        vz = select(lanes, vz, zero());
      }
      const Vec w = mul(p, vs);
      total = add(total, p);
      zeros = fma(p, vz, zeros);
      most = max(most, w);
      store(s + i, w);
    }
    const float largest_weight = largest(most);
    const Vec inverse = set1(largest_weight > 0.0f ? kWeightLevels / largest_weight : 0.0f);
    for (int32_t t = range.begin; t < range.end; ++t) {
      const int32_t i = t * kTileKeys;
      const __m512i w = _mm512_cvtps_epi32(mul(load(s + i), inverse).v);
      _mm_storeu_si128((__m128i*)(high + i), _mm512_cvtepi32_epi8(_mm512_srli_epi32(w, 8)));
      _mm_storeu_si128((__m128i*)(low + i), _mm512_cvtepi32_epi8(w));
    }
    task.work.span_max[row] = top;
    task.work.span_sum[row] = sum(total);
    task.work.weight_scale[row] = largest_weight / kWeightLevels;
    task.work.weight_zero[row] = sum(zeros);
  }

  static void weigh(const AttendTask& task, int32_t row, int32_t end, TileRange range, int32_t base) {
    for (; row < end; ++row) {
      const int32_t token = task.work.token[row];
      const int32_t lo = visible_lo(task, token, base), hi = visible_hi(task, token, base);
      if (lo < hi) {
        weigh_row(task, row, range, lo, hi);
        continue;
      }
      uint8_t* w = task.work.weights + int64_t{row} * 2 * kScoreStride;
      __builtin_memset(w, 0, 2 * kScoreStride);
      task.work.span_sum[row] = task.work.weight_scale[row] = task.work.weight_zero[row] = 0.0f;
    }
  }

  // Kept in the first-level cache: the scores of a few rows, not the keys, which every few rows read again.
  static void weights(const AttendTask& task, const Span& span, int32_t rows) {
    load_scales(task, span);
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

  // Sums of values of R rows and D * 16 dimensions from `dim` on.
  template <int R, int D>
  static void sum_values(const AttendTask& task, const Span& span, int32_t row, TileRange range, int64_t dim) {
    __m512i high[R][D], low[R][D];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int d = 0; d < D; ++d) high[r][d] = low[r][d] = _mm512_setzero_si512();
    }
    constexpr int64_t kDimBytes = four_bit_values ? 2 : 4;  // of four keys
    constexpr int64_t kKeyBytes = four_bit_keys ? 8 : 16;   // of a K tile for each dimension
    const int64_t row_bytes = task.geometry.value_dims * kDimBytes;
    const uint8_t* weights = task.work.weights + int64_t{row} * 2 * kScoreStride;
    for (int32_t tile = range.begin; tile < range.end; ++tile) {
      const uint8_t* v = span.value[tile] + dim * kDimBytes;
      const uint8_t* ahead = span.ahead[tile] + dim * kKeyBytes;
      for (int quad = 0; quad < kTileKeys / 4; ++quad, v += row_bytes, ahead += D * 4 * kKeyBytes) {
        __m512i values[D];
#pragma GCC unroll 8
        for (int d = 0; d < D; d += four_bit_values ? 2 : 1) {
          const __m512i bytes = _mm512_loadu_si512(v + d * 16 * kDimBytes);
          fetch_early(ahead + d * 4 * kKeyBytes);
          if constexpr (four_bit_values) {
            values[d] = low_nibbles(bytes);
            values[d + 1] = high_nibbles(bytes);
            if (!four_bit_keys) fetch_early(ahead + (d + 1) * 4 * kKeyBytes);
          } else {
            values[d] = bytes;
          }
        }
        const uint8_t* w = weights + tile * kTileKeys + quad * 4;
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          const __m512i wh = broadcast_word(w + r * 2 * kScoreStride);
          const __m512i wl = broadcast_word(w + r * 2 * kScoreStride + kScoreStride);
#pragma GCC unroll 8
          for (int d = 0; d < D; ++d) {
            add_dots(high[r][d], wh, values[d]);
            add_dots(low[r][d], wl, values[d]);
          }
        }
      }
    }
    const Sink sink = sink_of(task, span.base, row);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      float* const to = sink.to + r * sink.stride + dim;
      const Vec ws = set1(task.work.weight_scale[row + r]), wz = set1(task.work.weight_zero[row + r]);
      const Vec old_factor = set1(task.work.old_factor[row + r]), new_factor = set1(task.work.new_factor[row + r]);
#pragma GCC unroll 8
      for (int d = 0; d < D; ++d) {
        const Vec o = fma(high_and_low(high[r][d], low[r][d]), ws, wz);
        store(to + d * 16, sink.partial ? o : fold_values(load(to + d * 16), o, old_factor, new_factor));
      }
    }
  }

  template <int R>
  static void values_of(const AttendTask& task, const Span& span, int32_t row, TileRange range) {
    constexpr int64_t kDims = R > 3 ? 32 : 64;
    const int64_t dims = task.geometry.value_dims;
    int64_t d = 0;
    for (; d + kDims <= dims; d += kDims) sum_values<R, kDims / 16>(task, span, row, range, d);
    if (d + 32 <= dims) sum_values<R, 2>(task, span, row, range, d), d += 32;
    if constexpr (!four_bit_values) {  // 4-bit values are padded to 32
      if (d < dims) sum_values<R, 1>(task, span, row, range, d);
    }
  }

  static void values(const AttendTask& task, const Span& span, int32_t rows) {
    for (int32_t r = 0; r < rows; r += kRows) {
      const int32_t count = at_most(kRows, rows - r);
      const TileRange range = tiles_of(task, r, r + count, span.base);
      if (range.begin >= range.end) continue;
      switch (count) {
        case 1: values_of<1>(task, span, r, range); break;
        case 2: values_of<2>(task, span, r, range); break;
        case 3: values_of<3>(task, span, r, range); break;
        case 4: values_of<4>(task, span, r, range); break;
        case 5: values_of<5>(task, span, r, range); break;
        default: values_of<6>(task, span, r, range); break;
      }
    }
  }
};

}  // namespace
}  // namespace deploykit::cpu::DEPLOYKIT_ISA

#endif
