// Prefill attention's list of items: 128 rows (query, head) of one KV head each.
#pragma once

#include <atomic>

#include "cuda/kernels/attention.cuh"
#include "cuda/kernels/wgmma.cuh"

namespace deploykit::cuda {

struct PrefillArgs {
  void* out;
  int64_t out_stride;
  const float* sinks;
  const int32_t* q_start;
  const int32_t* index0;
  const int32_t* row;
  const int32_t* block_table;
  int64_t max_blocks;
  int32_t sequences, tiles;  // tiles: of the longest sequence, at most
  int32_t section;           // sequences (1 .. 32) whose items follow one another: their keys and values stay in L2
  int32_t head_dim, group, kv_heads;
  int32_t pack_shift, pack_tiles;  // 2^pack_shift heads share a tile; tiles of a group
  int32_t block_len, box;          // box: tokens of a copy
  int32_t window;
  int32_t turn;   // which counters of the list this launch uses
  int32_t fresh;  // sequences without a history read K and V of this step, not the KV memory
  float scale, softcap;
};

constexpr int kPrefillRows = 128;

#ifdef __CUDACC__
namespace {

// How many items of a launch's list were taken, and how many blocks have found it empty: the last of them clears both.
// Launches take turns at the counters; two of the same turn are thousands of launches apart.
constexpr uint32_t kTurns = 4096;
__device__ uint32_t list_counters[kTurns][2];
inline int32_t next_turn() {
  static std::atomic<uint32_t> calls{0};
  return static_cast<int32_t>(calls.fetch_add(1, std::memory_order_relaxed) % kTurns);
}

struct PrefillItem {
  int32_t stop;
  int32_t q_begin, count;   // rows of q
  int32_t index0, m0;       // index of the sequence's first query; the item's first query in the sequence
  int32_t kv_head, head0;   // head0: in the group
  int32_t row, n_begin, n_end;
  int32_t length, oldest;   // keys [oldest, length) are seen by some query
  int32_t stored;           // keys of the sequence that there are
  int32_t fresh;
};

__device__ __forceinline__ int prefill_tiles(const PrefillArgs& a, int sequence) {
  if (sequence >= a.sequences) return 0;
  const int shift = 7 - a.pack_shift;
  return (a.q_start[sequence + 1] - a.q_start[sequence] + (1 << shift) - 1) >> shift;
}

#ifdef DEPLOYKIT_WGMMA  // what walks it is built for sm_90a
// The list of items: section by section (sequences that follow one another), in a section by the place of the tile in
// its sequence (last first), then by sequence, then by head. One warp walks it forward.
struct PrefillList {
  int first = 0;        // sequence of the section
  int tiles = 0;        // of sequence first + lane
  int before = 0;       // pairs (sequence, tile) in front of the section
  int pairs = 0;        // in the section

  __device__ __forceinline__ int from_tile(int tile) const { return __reduce_add_sync(0xffffffffu, max(tiles - tile, 0)); }
  __device__ __forceinline__ void enter(const PrefillArgs& a, int sequence) {
    const int lane = threadIdx.x % 32;
    first = sequence;
    tiles = lane < a.section ? prefill_tiles(a, sequence + lane) : 0;
    before += pairs;
    pairs = from_tile(0);
  }
  // Item `work`, in all lanes; false beyond the end.
  template <int kKeys>
  __device__ __forceinline__ bool take(const PrefillArgs& a, int work, PrefillItem& item) {
    const int units = a.kv_heads * a.pack_tiles, lane = threadIdx.x % 32;
    const int pair = work / units, unit = work - pair * units;
    while (pair >= before + pairs) {
      if (first + a.section >= a.sequences) return false;
      enter(a, first + a.section);
    }
    const int place = pair - before;
    int low = 0, high = a.tiles - 1;
    while (low < high) {  // the highest tile with more than `place` pairs at it or above
      const int middle = (low + high + 1) / 2;
      if (from_tile(middle) > place) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    const unsigned mask = __ballot_sync(0xffffffffu, tiles > low);
    const int rank = place - from_tile(low + 1);  // among the sequences that have this tile
    const unsigned here = __ballot_sync(0xffffffffu, tiles > low && __popc(mask & (1u << lane) - 1) == rank);
    const int sequence = first + __ffs(here) - 1;
    item.stop = 0;
    item.q_begin = a.q_start[sequence];
    item.count = a.q_start[sequence + 1] - item.q_begin;
    item.index0 = a.index0[sequence];
    item.row = a.row[sequence];
    const int queries = kPrefillRows >> a.pack_shift;
    item.m0 = low * queries;
    item.kv_head = unit / a.pack_tiles;
    item.head0 = (unit - item.kv_head * a.pack_tiles) << a.pack_shift;
    item.stored = item.index0 + item.count;
    item.length = min(item.index0 + item.m0 + queries, item.stored);
    item.oldest = a.window > 0 ? max(0, item.index0 + item.m0 - a.window + 1) : 0;
    item.n_begin = item.oldest / kKeys;
    item.n_end = (item.length + kKeys - 1) / kKeys;
    item.fresh = a.fresh != 0 && item.index0 == 0;
    return true;
  }
};
#endif

}  // namespace
#endif

}  // namespace deploykit::cuda
