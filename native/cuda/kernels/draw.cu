// Steps 6 to 11 of docs/sampling.md: three kernels, the first two with kSampleParts blocks a row.
//
// 1. survey: each part's best token and, of 32 groups of its values, the largest. The k-th largest of all groups' largest
//    is a value that at least k tokens reach, and rarely many more.
// 2. pick: the tokens from that value on, in the order of their ids, into a list: of every part its own piece. Where
//    nothing is cut (no top_k, no top_p), the part's sum of weights instead.
// 3. finish: top_k and top_p exactly, on the list alone, and the draw. A row whose list doesn't fit, or that isn't all
//    that top_p wants, is drawn from as a whole (draw_row.cuh): flat distributions without top_k.
#include "cuda/kernels/draw_row.cuh"

namespace deploykit::cuda {
namespace {

constexpr int kParts = kSampleParts, kPartThreads = 256, kPartWarps = kPartThreads / 32;
constexpr int kGroups = 32 * kParts;         // of a row's values
// With as many groups as are asked for, the list grows out of hand: of values at random, 3/4 of the groups' largest are
// reached by 1.1 % of the row, 7/8 by 1.6 %, all by 11 %.
constexpr int kTopPGroups = kGroups * 3 / 4, kMostGroups = kGroups * 7 / 8;
constexpr int kPiece = 512, kList = 4096;    // ids of a part and of a row
constexpr int kEach = kList / kSampleThreads;  // of a thread of `finish`
constexpr uint32_t kNothing = 0x007fffffu;   // key_of(-inf)
constexpr unsigned long long kNotFinite = ~0ull;

struct DrawArgs {
  const float* logits;
  int64_t stride;
  const float* processed;
  int32_t vocab;
  const SampleRow* rows;
  int32_t* error;
  int32_t* token;
  // Workspace, of row r: best and sums [kParts], groups [kGroups], counts [kParts], list [kParts][kPiece].
  unsigned long long* best;  // ordered key above, complement of the id below
  double* sums;              // of the part's weights
  unsigned long long* masses;
  uint32_t* groups;
  int32_t* counts;
  int32_t* list;
};

__device__ __forceinline__ const float* values_of(const DrawArgs& a, const SampleRow& p, int row) {
  return p.slot >= 0 ? a.processed + static_cast<int64_t>(p.slot) * a.vocab : a.logits + row * a.stride;
}
__device__ __forceinline__ int part_size(int vocab) { return (vocab + kParts * 4 - 1) / (kParts * 4) * 4; }
__device__ __forceinline__ bool cuts_by_rank(const SampleRow& p, int vocab) { return p.top_k > 0 && p.top_k < vocab; }
// The row's list is made at all.
__device__ __forceinline__ bool lists(const SampleRow& p, int vocab) {
  return cuts_by_rank(p, vocab) ? p.top_k <= kMostGroups : p.top_p < 1.0;
}
__device__ __forceinline__ unsigned long long best_of_parts(const unsigned long long* best) {
  unsigned long long v = best[threadIdx.x % 32];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) v = max(v, __shfl_xor_sync(0xffffffffu, v, offset));
  return v;
}

// fn(i, x[i]) for i of [begin, end), begin a multiple of 4, a block's threads in turns of four.
template <class Fn>
__device__ __forceinline__ void each_of_part(const float* x, int begin, int end, Fn fn) {
  const bool whole = reinterpret_cast<uintptr_t>(x) % 16 == 0;
  for (int i = begin + 4 * static_cast<int>(threadIdx.x); i < end; i += 4 * kPartThreads) {
    if (whole && i + 4 <= end) {
      const float4 v = *reinterpret_cast<const float4*>(x + i);
      fn(i, v.x);
      fn(i + 1, v.y);
      fn(i + 2, v.z);
      fn(i + 3, v.w);
    } else {
      for (int j = i; j < min(i + 4, end); ++j) fn(j, x[j]);
    }
  }
}

__global__ void __launch_bounds__(kPartThreads) survey_kernel(const DrawArgs a) {
  __shared__ unsigned long long parts[kPartWarps];
  wait_prior_grid();
  allow_next_grid();
  const int row = blockIdx.y, part = blockIdx.x;
  if (a.error[row] < 0) return;
  const SampleRow& p = a.rows[row];
  const float* x = values_of(a, p, row);
  const int each = part_size(a.vocab), begin = min(part * each, a.vocab), end = min(begin + each, a.vocab);
  const bool raw = p.slot < 0;  // process_logits() has not looked at it
  unsigned long long best = 0;
  bool bad = false;
  each_of_part(x, begin, end, [&](int i, float v) {
    bad |= raw && !isfinite(v);
    best = max(best, static_cast<unsigned long long>(key_of(v)) << 32 | ~static_cast<uint32_t>(i));
  });
  if (bad) best = kNotFinite;
  uint32_t group = static_cast<uint32_t>(best >> 32);
#pragma unroll
  for (int offset = 1; offset < kPartThreads / 32; offset *= 2) {
    group = max(group, __shfl_xor_sync(0xffffffffu, group, offset));
  }
  constexpr int kGroupThreads = kPartThreads / 32;
  if (threadIdx.x % kGroupThreads == 0) {
    a.groups[static_cast<int64_t>(row) * kGroups + part * 32 + threadIdx.x / kGroupThreads] = group;
  }
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) best = max(best, __shfl_xor_sync(0xffffffffu, best, offset));
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < kPartWarps; ++w) best = max(best, parts[w]);
  a.best[row * kParts + part] = best;
}

// The largest key that at least `wanted` of the block's keys (kOwn a thread) reach; 0 where there are fewer keys.
template <int kOwn, int kWarps>
__device__ __forceinline__ uint32_t key_of_rank(const uint32_t (&keys)[kOwn], uint32_t wanted, uint32_t (*counts)[kWarps]) {
  uint32_t found = 0;
  for (int bit = 31; bit >= 0; --bit) {
    const uint32_t trial = found | 1u << bit;
    uint32_t count = 0;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) count += __popc(__ballot_sync(0xffffffffu, keys[i] >= trial));
    if (threadIdx.x % 32 == 0) counts[bit & 1][threadIdx.x / 32] = count;
    __syncthreads();
    uint32_t total = threadIdx.x % 32 < kWarps ? counts[bit & 1][threadIdx.x % 32] : 0;
    total = warp_sum(total);
    if (total >= wanted) found = trial;
  }
  return found;
}

__global__ void __launch_bounds__(kPartThreads) pick_kernel(const DrawArgs a) {
  __shared__ uint32_t counts[2][kPartWarps];
  __shared__ double sums[kPartWarps];
  __shared__ unsigned long long masses[kPartWarps];
  wait_prior_grid();
  allow_next_grid();
  const int row = blockIdx.y, part = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (a.error[row] < 0) return;
  const SampleRow p = a.rows[row];
  const unsigned long long best = best_of_parts(a.best + row * kParts);
  const float highest = value_of(static_cast<uint32_t>(best >> 32));
  if (p.temperature == 0.0 || best == kNotFinite || !(highest > -INFINITY)) return;
  const float* x = values_of(a, p, row);
  const int each = part_size(a.vocab), begin = min(part * each, a.vocab), end = min(begin + each, a.vocab);
  const Weights weights = {highest, p.temperature};
  const bool by_rank = cuts_by_rank(p, a.vocab);
  if (!by_rank) {
    double sum = 0.0;
    unsigned long long mass = 0;
    const bool plain = !(p.top_p < 1.0);
    each_of_part(x, begin, end, [&](int, float v) {
      if (!(v > -INFINITY)) return;
      if (plain) {
        const double w = weights(v);
        sum += w >= p.min_p ? w : 0.0;
      } else {
        mass += weights.fixed(v);
      }
    });
    sum = warp_sum(sum);
    mass = warp_sum(mass);
    if (lane == 0) sums[warp] = sum, masses[warp] = mass;
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int w = 1; w < kPartWarps; ++w) sum += sums[w], mass += masses[w];
      a.sums[row * kParts + part] = sum;
      a.masses[row * kParts + part] = mass;
    }
  }
  if (!lists(p, a.vocab)) return;
  uint32_t keys[kGroups / kPartThreads];
#pragma unroll
  for (int i = 0; i < kGroups / kPartThreads; ++i) {
    keys[i] = a.groups[static_cast<int64_t>(row) * kGroups + i * kPartThreads + threadIdx.x];
  }
  const uint32_t wanted = by_rank ? static_cast<uint32_t>(p.top_k) : kTopPGroups;
  const uint32_t lowest = max(key_of_rank(keys, wanted, counts), kNothing + 1);
  // In the order of the ids: a warp has ids one after another, four a lane, and knows how many the warps before it keep.
  const int warp_ids = (each / 4 + kPartWarps - 1) / kPartWarps * 4;
  const int first = min(begin + warp * warp_ids, end), last = min(first + warp_ids, end);
  const bool whole = reinterpret_cast<uintptr_t>(x) % 16 == 0;
  const auto kept = [&](int i) {
    uint32_t bits = 0;
    if (whole && i + 4 <= last) {
      const float4 v = *reinterpret_cast<const float4*>(x + i);
      return static_cast<uint32_t>(key_of(v.x) >= lowest) | static_cast<uint32_t>(key_of(v.y) >= lowest) << 1 |
             static_cast<uint32_t>(key_of(v.z) >= lowest) << 2 | static_cast<uint32_t>(key_of(v.w) >= lowest) << 3;
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) bits |= (i + j < last && key_of(x[i + j]) >= lowest ? 1u : 0u) << j;
    return bits;
  };
  uint32_t own = 0;
  for (int i = first + 4 * lane; i < last; i += 128) own += __popc(kept(i));
  own = warp_sum(own);
  __syncthreads();  // key_of_rank() has read `counts`
  if (lane == 0) counts[0][warp] = own;
  __syncthreads();
  uint32_t at = 0, all = 0;
  for (int w = 0; w < kPartWarps; ++w) at += w < warp ? counts[0][w] : 0, all += counts[0][w];
  int32_t* piece = a.list + (static_cast<int64_t>(row) * kParts + part) * kPiece;
  if (all <= kPiece) {
    for (int base = first; base < last; base += 128) {
      const int i = base + 4 * lane;
      uint32_t bits = i < last ? kept(i) : 0;
      uint32_t before = __popc(bits);
#pragma unroll
      for (int offset = 1; offset < 32; offset *= 2) {
        const uint32_t other = __shfl_up_sync(0xffffffffu, before, offset);
        if (lane >= offset) before += other;
      }
      const uint32_t here = __shfl_sync(0xffffffffu, before, 31);
      uint32_t to = at + before - __popc(bits);
      for (; bits != 0; bits &= bits - 1) piece[to++] = i + __ffs(bits) - 1;
      at += here;
    }
  }
  if (threadIdx.x == 0) a.counts[row * kParts + part] = static_cast<int32_t>(all);
}

struct ListShared {
  int32_t ids[kList];
  float values[kList];
  uint32_t counts[2][32];
  unsigned long long masses[2][32];
  double sums[32];
  uint32_t first, last;
  int32_t begin[kParts + 1];
};

// The first of `count` entries whose running sum of weights goes beyond the target, or the last with any weight where
// these are the last (`ends`); else -1, and `before` has grown by their sum. The target is `given`, or that share of the
// sum. Whole block; count <= kList.
template <bool kShare, class Weight>
__device__ __forceinline__ int scan_weights(ListShared& s, int count, double given, bool ends, double& before,
                                            Weight weight) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  double w[kEach], own = 0.0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int at = kEach * static_cast<int>(threadIdx.x) + i;
    w[i] = at < count ? weight(at) : 0.0;
    own += w[i];
  }
  double scan = own;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const double other = __shfl_up_sync(0xffffffffu, scan, offset);
    if (lane >= offset) scan += other;
  }
  if (lane == 31) s.sums[warp] = scan;
  if (threadIdx.x == 0) s.first = 0xffffffffu, s.last = 0;
  __syncthreads();
  double running = before, total = 0.0;
  for (int i = 0; i < 32; ++i) {
    running += i < warp ? s.sums[i] : 0.0;
    total += s.sums[i];
  }
  running += scan - own;
  const double target = kShare ? given * total : given;
  uint32_t mine = 0xffffffffu, last = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    running += w[i];
    if (!(w[i] > 0.0)) continue;
    const uint32_t at = kEach * threadIdx.x + i;
    last = at + 1;
    if (running > target) mine = min(mine, at);
  }
  if (mine != 0xffffffffu) atomicMin(&s.first, mine);
  if (last != 0) atomicMax(&s.last, last);
  __syncthreads();
  before += total;
  if (s.first != 0xffffffffu) return static_cast<int>(s.first);
  return ends ? static_cast<int>(s.last) - 1 : -1;
}

// Draws from the row's list; false where the list isn't enough.
__device__ __forceinline__ bool draw_from_list(ListShared& s, const DrawArgs& a, const SampleRow& p, int row, const float* x,
                                               const Weights& weights) {
  const int lane = threadIdx.x % 32;
  const int count = a.counts[row * kParts + lane];
  const int total = warp_sum(count);
  if (__any_sync(0xffffffffu, count > kPiece) || total > kList) return false;  // every warp sees the same
  int behind = count;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int other = __shfl_up_sync(0xffffffffu, behind, offset);
    if (lane >= offset) behind += other;
  }
  if (threadIdx.x < 32) s.begin[lane] = behind - count;
  __syncthreads();
  const int part = threadIdx.x / 32;  // a warp a part
  const int32_t* piece = a.list + (static_cast<int64_t>(row) * kParts + part) * kPiece;
  const int own = __shfl_sync(0xffffffffu, count, part);
  for (int i = lane; i < own; i += 32) {
    const int id = piece[i];
    s.ids[s.begin[part] + i] = id;
    s.values[s.begin[part] + i] = x[id];
  }
  __syncthreads();
  uint32_t keys[kEach], lowest = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int at = kEach * static_cast<int>(threadIdx.x) + i;
    keys[i] = at < total ? key_of(s.values[at]) : 0;
  }
  const bool by_rank = cuts_by_rank(p, a.vocab);
  if (by_rank) lowest = key_of_rank(keys, static_cast<uint32_t>(p.top_k), s.counts);
  if (p.top_p < 1.0) {
    unsigned long long mass[kEach];
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      mass[i] = keys[i] != 0 && keys[i] >= lowest ? weights.fixed(value_of(keys[i])) : 0;
    }
    // The mass of the keys from `trial` on; two buffers in turn, so that one barrier is enough.
    const auto reach = [&](uint32_t trial, int turn) {
      unsigned long long own_mass = 0;
#pragma unroll
      for (int i = 0; i < kEach; ++i) own_mass += keys[i] >= trial ? mass[i] : 0;
      own_mass = warp_sum(own_mass);
      if (lane == 0) s.masses[turn][threadIdx.x / 32] = own_mass;
      __syncthreads();
      return warp_sum(s.masses[turn][lane]);
    };
    // Of all that top_k has left, or of the row: then the list must be enough of it.
    const unsigned long long listed = reach(0, 0);
    const unsigned long long whole = by_rank ? listed : warp_sum(a.masses[row * kParts + lane]);
    const double wanted = p.top_p * static_cast<double>(whole);
    if (!(static_cast<double>(listed) >= wanted)) return false;
    uint32_t found = 0;  // the largest key from which on the mass reaches what is wanted
    for (int bit = 31; bit >= 0; --bit) {
      const uint32_t trial = found | 1u << bit;
      if (static_cast<double>(reach(trial, bit & 1)) >= wanted) found = trial;
    }
    // The best token is always kept.
    lowest = max(lowest, min(found, key_of(weights.highest)));
  }
  const auto weight = [&](int at) {
    const float v = s.values[at];
    if (key_of(v) < lowest) return 0.0;
    const double w = weights(v);
    return w >= p.min_p ? w : 0.0;
  };
  double before = 0.0;
  const double share = random_number(p.seed, static_cast<uint32_t>(p.position));
  const int at = scan_weights<true>(s, total, share, true, before, weight);
  if (threadIdx.x == 0) a.token[row] = s.ids[at];
  return true;
}

// Nothing is cut but by min_p: the parts' sums say in which part the draw ends.
__device__ __forceinline__ void draw_from_parts(ListShared& s, const DrawArgs& a, const SampleRow& p, int row, const float* x,
                                                const Weights& weights) {
  const double* sums = a.sums + row * kParts;
  double total = 0.0;
  for (int i = 0; i < kParts; ++i) total += sums[i];
  const double target = random_number(p.seed, static_cast<uint32_t>(p.position)) * total;
  int owner = 0;
  double before = 0.0, running = 0.0;
  for (int i = 0; i < kParts; ++i) {
    if (!(sums[i] > 0.0)) continue;
    owner = i, before = running;
    running += sums[i];
    if (running > target) break;
  }
  const int each = part_size(a.vocab), end = min((owner + 1) * each, a.vocab);
  for (int begin = owner * each; begin < end; begin += kList) {
    const int count = min(kList, end - begin);
    const int at = scan_weights<false>(s, count, target, begin + kList >= end, before, [&](int i) {
      const float v = x[begin + i];
      if (!(v > -INFINITY)) return 0.0;
      const double w = weights(v);
      return w >= p.min_p ? w : 0.0;
    });
    if (at >= 0) {
      if (threadIdx.x == 0) a.token[row] = begin + at;
      return;
    }
    __syncthreads();
  }
}

__global__ void __launch_bounds__(kSampleThreads) finish_kernel(const DrawArgs a) {
  __shared__ union {
    ListShared list;
    RowShared row;
  } s;
  wait_prior_grid();
  allow_next_grid();
  const int row = blockIdx.x;
  if (a.error[row] < 0) {
    if (threadIdx.x == 0) a.token[row] = a.error[row];
    return;
  }
  const SampleRow p = a.rows[row];
  const unsigned long long best = best_of_parts(a.best + row * kParts);
  const float highest = value_of(static_cast<uint32_t>(best >> 32));
  if (best == kNotFinite || !(highest > -INFINITY)) {
    if (threadIdx.x == 0) a.error[row] = a.token[row] = best == kNotFinite ? kSampleNonfinite : kSampleNoToken;
    return;
  }
  if (p.temperature == 0.0) {
    if (threadIdx.x == 0) a.token[row] = static_cast<int32_t>(~static_cast<uint32_t>(best));
    return;
  }
  const float* x = values_of(a, p, row);
  const Weights weights = {highest, p.temperature};
  if (lists(p, a.vocab)) {
    if (draw_from_list(s.list, a, p, row, x, weights)) return;
    __syncthreads();
  } else if (!cuts_by_rank(p, a.vocab)) {
    return draw_from_parts(s.list, a, p, row, x, weights);
  }
  draw_from_row(s.row, x, a.vocab, p, weights, a.token + row);
}

constexpr int64_t kRowBytes = kParts * (8 + 8 + 8 + 4) + kGroups * 4 + int64_t{kParts} * kPiece * 4;

}  // namespace

int64_t sample_workspace_bytes(int32_t n, int32_t) { return n * kRowBytes; }

void draw(const float* logits, int64_t stride, const float* processed, int32_t n, int32_t vocab, const SampleRow* rows,
          int32_t* error, int32_t* token, void* workspace, cudaStream_t stream) {
  require(vocab >= 1 && vocab <= 1 << 19 && n <= 65535, "draw", "1 <= vocab <= 524288 and n <= 65535");
  if (n == 0) return;
  DrawArgs a = {};
  a.logits = logits, a.stride = stride, a.processed = processed, a.vocab = vocab;
  a.rows = rows, a.error = error, a.token = token;
  char* at = static_cast<char*>(workspace);
  const auto take = [&](auto*& pointer, int64_t count) {
    pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(at);
    at += n * count * static_cast<int64_t>(sizeof *pointer);
  };
  take(a.best, kParts);
  take(a.sums, kParts);
  take(a.masses, kParts);
  take(a.groups, kGroups);
  take(a.counts, kParts);
  take(a.list, kParts * kPiece);
  const dim3 parts(kParts, static_cast<unsigned>(n));
  launch("draw", survey_kernel, parts, dim3(kPartThreads), 0, stream, a);
  launch("draw", pick_kernel, parts, dim3(kPartThreads), 0, stream, a);
  launch("draw", finish_kernel, dim3(static_cast<unsigned>(n)), dim3(kSampleThreads), 0, stream, a);
}

}  // namespace deploykit::cuda
