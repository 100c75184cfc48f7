// A span of keys as one unit sees it: which of its keys are visible and where their tiles stand.
#pragma once

#include "cpu/attention/geometry.h"
#include "cpu/ops/isa/vec.h"

namespace deploykit::cpu::DEPLOYKIT_ISA {
namespace {

inline constexpr int32_t kSpanKeys = kSpanTiles * kTileKeys;

struct Span {
  int32_t base = 0;              // position of its first key
  int32_t lo = 0, hi = 0;        // keys that some query of the unit sees, from base
  int32_t tile0 = 0, tile1 = 0;  // their tiles
  const uint8_t* key[kSpanTiles];
  const uint8_t* value[kSpanTiles];
  const uint16_t* scales[kSpanTiles];
  const uint8_t* ahead[kSpanTiles];  // K tiles of the next span, to be fetched early; of this one where it has none
};

inline void fetch_early(const uint8_t* p) { __builtin_prefetch(p, 0, 2); }

inline int32_t at_least(int32_t a, int32_t b) { return a > b ? a : b; }
inline int32_t at_most(int32_t a, int32_t b) { return a < b ? a : b; }

// Keys that query `token` of the unit sees in a span that begins at `base`: [lo, hi) from base, empty where hi <= lo.
inline int32_t visible_lo(const AttendTask& task, int32_t token, int32_t base) {
  const int32_t first = task.window > 0 ? task.position + token - task.window + 1 : 0;
  return at_least(first - base, 0);
}
inline int32_t visible_hi(const AttendTask& task, int32_t token, int32_t base) {
  return at_most(task.position + token + 1 - base, kSpanKeys);
}

// Tiles that rows [row0, row1) see.
struct TileRange {
  int32_t begin, end;
};
inline TileRange tiles_of(const AttendTask& task, int32_t row0, int32_t row1, int32_t base) {
  const int32_t lo = visible_lo(task, task.work.token[row0], base);
  const int32_t hi = visible_hi(task, task.work.token[row1 - 1], base);
  if (hi <= lo) return {0, 0};
  return {lo / kTileKeys, (hi + kTileKeys - 1) / kTileKeys};
}

// Lanes of tile `tile` that are in [lo, hi).
inline Mask16 lanes_in(int32_t tile, int32_t lo, int32_t hi) {
  const int32_t from = lo - tile * kTileKeys, to = hi - tile * kTileKeys;
  if (to <= 0 || from >= kTileKeys) return 0;
  const Mask16 below = first_lanes(to);
  return from <= 0 ? below : static_cast<Mask16>(below & ~first_lanes(from));
}

// Joins the two 8-key tiles at positions `at` and at + 8 into one of 16 keys. What has no visible key is not touched:
// its block may be another row's by now.
inline void join(const AttendTask& task, Span& span, int32_t tile) {
  const KvGeometry& g = task.geometry;
  uint8_t* const k = task.work.joined + tile * task.work.joined_stride;
  uint8_t* const v = k + 2 * g.key_tile_bytes;
  uint8_t* const s = v + 2 * g.value_tile_bytes;
  const int64_t key_half = int64_t{g.key_row_bytes} * 8, scale_half = 16;
  for (int32_t half = 0; half < 2; ++half) {
    const int32_t from = tile * kTileKeys + half * 8;
    const bool needed = from < span.hi && from + 8 > span.lo;
    const uint8_t* head =
        needed ? task.head + task.blocks[(span.base + from) / task.block_len] * task.block_bytes : nullptr;
    for (int32_t row = 0; row < g.key_rows; ++row) {
      uint8_t* to = k + (2 * row + half) * key_half;
      if (needed) {
        __builtin_memcpy(to, head + row * key_half, static_cast<size_t>(key_half));
      } else {
        __builtin_memset(to, 0, static_cast<size_t>(key_half));
      }
    }
    uint8_t* to = v + half * g.value_tile_bytes;
    if (needed) {
      __builtin_memcpy(to, head + g.value_offset, static_cast<size_t>(g.value_tile_bytes));
    } else {
      __builtin_memset(to, 0, static_cast<size_t>(g.value_tile_bytes));
    }
    for (int32_t kind = 0; kind < 4 && g.scale_tile_bytes; ++kind) {
      uint8_t* place = s + (2 * kind + half) * scale_half;
      if (needed) {
        __builtin_memcpy(place, head + g.scale_offset + kind * scale_half, static_cast<size_t>(scale_half));
      } else {
        __builtin_memset(place, 0, static_cast<size_t>(scale_half));
      }
    }
  }
  span.key[tile] = k;
  span.value[tile] = v;
  span.scales[tile] = reinterpret_cast<const uint16_t*>(s);
}

// Span `index` of the task; false where the unit sees nothing of it.
inline bool find_span(const AttendTask& task, int32_t index, Span& span) {
  const KvGeometry& g = task.geometry;
  span.base = index * kSpanKeys;
  span.lo = visible_lo(task, 0, span.base);
  span.hi = visible_hi(task, task.queries - 1, span.base);
  if (span.hi <= span.lo) return false;
  span.tile0 = span.lo / kTileKeys;
  span.tile1 = (span.hi + kTileKeys - 1) / kTileKeys;
  for (int32_t tile = span.tile0; tile < span.tile1; ++tile) {
    if (g.tile_keys < kTileKeys) {
      join(task, span, tile);
      continue;
    }
    const int32_t position = span.base + tile * kTileKeys;
    const uint8_t* head = task.head + task.blocks[position / task.block_len] * task.block_bytes;
    const int32_t in_block = position % task.block_len / kTileKeys;
    span.key[tile] = head + in_block * g.key_tile_bytes;
    span.value[tile] = head + g.value_offset + in_block * g.value_tile_bytes;
    span.scales[tile] = reinterpret_cast<const uint16_t*>(head + g.scale_offset + in_block * g.scale_tile_bytes);
  }
  return true;
}

inline void look_ahead(Span& span, const Span* next) {
  for (int32_t t = span.tile0; t < span.tile1; ++t) {
    const bool has = next && t >= next->tile0 && t < next->tile1;
    span.ahead[t] = has ? next->key[t] : span.key[t];
  }
}

}  // namespace
}  // namespace deploykit::cpu::DEPLOYKIT_ISA
