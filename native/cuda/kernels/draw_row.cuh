// Steps 7 to 11 of docs/sampling.md on a whole row of logits by one block, whatever its shape; nothing is sorted. It is
// the way of rows whose likely tokens don't fit draw.cu's list.
//
// top_k and top_p are found by their thresholds: four passes over the row, each fixing 8 more bits of the float32 value
// (as an ordered key) from a histogram of counts or of masses. Masses are integers, weight * 2^40, so that sums don't
// depend on the order of threads; the draw itself sums float64 in a fixed order.
#pragma once

#include "cuda/kernels/sampling.cuh"

namespace deploykit::cuda {

#ifdef __CUDACC__
namespace {

constexpr int kMassBits = 13, kMassPieces = 4;  // of a mass of at most 2^40, and rows of at most 2^19 values

struct RowShared {
  // counts[0] alone for numbers of values; masses in pieces of kMassBits, whose sums over a row fit 32 bits: the hardware
  // adds those at once, and 64 bits in a loop.
  uint32_t counts[kMassPieces][256];
  double warp_sums[32];
  uint32_t folds[32];
  uint32_t key;
  unsigned long long above;
};

// The k-th highest key of the row, counted with repeats. -inf does not count; 0 where there are fewer than k.
__device__ __forceinline__ uint32_t top_k_key(RowShared& s, const float* x, int vocab, uint32_t k) {
  uint32_t prefix = 0, left = k;
  for (int shift = 24; shift >= 0; shift -= 8) {
    if (threadIdx.x < 256) s.counts[0][threadIdx.x] = 0;
    __syncthreads();
    each_logit(x, vocab, [&](int, float v) {
      const uint32_t key = key_of(v);
      if (v > -INFINITY && (shift == 24 || key >> (shift + 8) == prefix >> (shift + 8))) {
        atomicAdd(&s.counts[0][key >> shift & 255u], 1u);
      }
    });
    __syncthreads();
    if (threadIdx.x == 0) {
      int b = 255;
      uint32_t before = 0;
      while (b > 0 && before + s.counts[0][b] < left) before += s.counts[0][b--];
      s.key = prefix | static_cast<uint32_t>(b) << shift;
      s.above = before;
    }
    __syncthreads();
    prefix = s.key;
    left -= static_cast<uint32_t>(s.above);
    __syncthreads();
  }
  return prefix;
}

struct Weights {
  float highest;
  double temperature;
  __device__ __forceinline__ double operator()(float x) const {
    return exp((static_cast<double>(x) - static_cast<double>(highest)) / temperature);
  }
  __device__ __forceinline__ unsigned long long fixed(float x) const {
    const double e = (static_cast<double>(x) - static_cast<double>(highest)) / temperature;
    return e < -28.5 ? 0ull : static_cast<unsigned long long>(exp(e) * 0x1p40 + 0.5);  // e^-28.5 < 2^-41
  }
};

// The lowest key of the smallest set of most likely tokens (keys >= floor_key) whose mass reaches top_p.
__device__ __forceinline__ uint32_t top_p_key(RowShared& s, const float* x, int vocab, uint32_t floor_key,
                                              const Weights& weights, double top_p) {
  uint32_t prefix = 0;
  unsigned long long above = 0;
  double wanted = 0.0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int i = threadIdx.x; i < kMassPieces * 256; i += kSampleThreads) s.counts[i / 256][i % 256] = 0;
    __syncthreads();
    each_logit(x, vocab, [&](int, float v) {
      const uint32_t key = key_of(v);
      if (key < floor_key || !(v > -INFINITY)) return;
      if (shift != 24 && key >> (shift + 8) != prefix >> (shift + 8)) return;
      const unsigned long long mass = weights.fixed(v);
#pragma unroll
      for (int i = 0; i < kMassPieces; ++i) {
        const uint32_t piece = static_cast<uint32_t>(mass >> i * kMassBits) & (1u << kMassBits) - 1;
        if (piece != 0) atomicAdd(&s.counts[i][key >> shift & 255u], piece);
      }
    });
    __syncthreads();
    if (threadIdx.x == 0) {
      const auto mass_of = [&](int b) {
        unsigned long long mass = 0;
#pragma unroll
        for (int i = 0; i < kMassPieces; ++i) mass += static_cast<unsigned long long>(s.counts[i][b]) << i * kMassBits;
        return mass;
      };
      if (shift == 24) {
        unsigned long long total = 0;
        for (int b = 0; b < 256; ++b) total += mass_of(b);
        wanted = top_p * static_cast<double>(total);
      }
      // the last bucket that isn't empty and has less than the wanted mass before it
      int chosen = 255;
      unsigned long long before = above, chosen_before = above;
      for (int b = 255; b >= 0; --b) {
        const unsigned long long mass = mass_of(b);
        if (mass == 0) continue;
        if (before != 0 && !(static_cast<double>(before) < wanted)) break;
        chosen = b, chosen_before = before;
        before += mass;
      }
      s.key = prefix | static_cast<uint32_t>(chosen) << shift;
      s.above = chosen_before;
    }
    __syncthreads();
    prefix = s.key;
    above = s.above;
    __syncthreads();
  }
  return prefix;
}

// The token, of a row whose largest value is weights.highest. A block of kSampleThreads.
__device__ __noinline__ void draw_from_row(RowShared& s, const float* x, int vocab, const SampleRow& p,
                                              const Weights& weights, int32_t* token) {
  uint32_t lowest_key = 0;
  if (p.top_k > 0 && p.top_k < vocab) lowest_key = top_k_key(s, x, vocab, static_cast<uint32_t>(p.top_k));
  if (p.top_p < 1.0) lowest_key = max(lowest_key, top_p_key(s, x, vocab, lowest_key, weights, p.top_p));
  const double min_p = p.min_p;
  const auto weight = [&](int i) {
    const float v = x[i];
    if (key_of(v) < lowest_key || !(v > -INFINITY)) return 0.0;
    const double w = weights(v);
    return w >= min_p ? w : 0.0;
  };

  // A warp owns consecutive ids; its lanes take every 32nd.
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int each = (vocab + 1023) / 1024 * 32, begin = warp * each, end = min(begin + each, vocab);
  double sum = 0.0;
  for (int i = begin + lane; i < end; i += 32) sum += weight(i);
  sum = warp_sum(sum);
  if (lane == 0) s.warp_sums[warp] = sum;
  __syncthreads();
  double total = 0.0;
  for (int w = 0; w < 32; ++w) total += s.warp_sums[w];
  const double target = random_number(p.seed, static_cast<uint32_t>(p.position)) * total;
  // The first warp whose running sum goes beyond the target; the last one with any mass if rounding leaves none.
  int owner = -1;
  double before = 0.0, owner_before = 0.0, running = 0.0;
  for (int w = 0; w < 32; ++w) {
    if (s.warp_sums[w] > 0.0) {
      owner = w, owner_before = running;
      running += s.warp_sums[w];
      if (running > target) break;
    }
  }
  if (warp != owner) return;
  before = owner_before;
  int chosen = -1, last_kept = -1;
  for (int base = begin; base < end && chosen < 0; base += 32) {
    const int i = base + lane;
    const double w = i < end ? weight(i) : 0.0;
    double scan = w;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const double other = __shfl_up_sync(0xffffffffu, scan, offset);
      if (lane >= offset) scan += other;
    }
    const uint32_t beyond = __ballot_sync(0xffffffffu, w > 0.0 && before + scan > target);
    const uint32_t kept = __ballot_sync(0xffffffffu, w > 0.0);
    if (kept != 0) last_kept = base + 31 - __clz(kept);
    if (beyond != 0) chosen = base + __ffs(beyond) - 1;
    before += __shfl_sync(0xffffffffu, scan, 31);
  }
  if (lane == 0) *token = chosen >= 0 ? chosen : last_kept;
}

}  // namespace
#endif

}  // namespace deploykit::cuda
