// Drawing tokens: argmax, and steps 6 to 11 of docs/sampling.md. A block a row; nothing is sorted.
//
// top_k and top_p are found by their thresholds: four passes over the row, each fixing 8 more bits of the float32 value
// (as an ordered key) from a histogram of counts or of masses. Masses are integers, weight * 2^40, so that sums don't
// depend on the order of threads; the draw itself sums float64 in a fixed order.
#include "cuda/kernels/sampling.cuh"

namespace deploykit::cuda {
namespace {

constexpr int kParts = 32;  // blocks of one row's argmax

// Ordered key above, complement of the id below: the largest is the argmax with the lowest id. All ones: not finite.
__global__ void __launch_bounds__(256)
    argmax_parts(const float* logits, int64_t stride, int32_t vocab, unsigned long long* parts) {
  __shared__ unsigned long long best_of[8];
  wait_prior_grid();
  allow_next_grid();
  const float* x = logits + blockIdx.y * stride;
  unsigned long long best = 0;
  for (int i = blockIdx.x * 256 + threadIdx.x; i < vocab; i += kParts * 256) {
    const float v = x[i];
    const unsigned long long key =
        isfinite(v) ? static_cast<unsigned long long>(key_of(v)) << 32 | ~static_cast<uint32_t>(i) : ~0ull;
    best = key > best ? key : best;
  }
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    const unsigned long long other = __shfl_xor_sync(0xffffffffu, best, offset);
    best = other > best ? other : best;
  }
  if (threadIdx.x % 32 == 0) best_of[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < 8; ++w) best = best_of[w] > best ? best_of[w] : best;
  parts[blockIdx.y * kParts + blockIdx.x] = best;
}
__global__ void __launch_bounds__(32) argmax_end(const unsigned long long* parts, int32_t* token) {
  wait_prior_grid();
  allow_next_grid();
  unsigned long long best = __ldcg(parts + blockIdx.x * kParts + threadIdx.x);
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    const unsigned long long other = __shfl_xor_sync(0xffffffffu, best, offset);
    best = other > best ? other : best;
  }
  if (threadIdx.x == 0)
    token[blockIdx.x] = best == ~0ull ? kSampleNonfinite : static_cast<int32_t>(~static_cast<uint32_t>(best));
}

struct DrawShared {
  union {
    uint32_t counts[256];
    unsigned long long masses[256];
  };
  double warp_sums[32];
  uint32_t folds[32];
  uint32_t key;
  unsigned long long above;
};

// The k-th highest key of the row, counted with repeats. -inf does not count; 0 where there are fewer than k.
__device__ __forceinline__ uint32_t top_k_key(DrawShared& s, const float* x, int vocab, uint32_t k) {
  uint32_t prefix = 0, left = k;
  for (int shift = 24; shift >= 0; shift -= 8) {
    if (threadIdx.x < 256) s.counts[threadIdx.x] = 0;
    __syncthreads();
    each_logit(x, vocab, [&](int, float v) {
      const uint32_t key = key_of(v);
      if (v > -INFINITY && (shift == 24 || key >> (shift + 8) == prefix >> (shift + 8))) {
        atomicAdd(&s.counts[key >> shift & 255u], 1u);
      }
    });
    __syncthreads();
    if (threadIdx.x == 0) {
      int b = 255;
      uint32_t before = 0;
      while (b > 0 && before + s.counts[b] < left) before += s.counts[b--];
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
__device__ __forceinline__ uint32_t top_p_key(DrawShared& s, const float* x, int vocab, uint32_t floor_key,
                                              const Weights& weights, double top_p) {
  uint32_t prefix = 0;
  unsigned long long above = 0;
  double wanted = 0.0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    if (threadIdx.x < 256) s.masses[threadIdx.x] = 0;
    __syncthreads();
    each_logit(x, vocab, [&](int, float v) {
      const uint32_t key = key_of(v);
      if (key < floor_key || !(v > -INFINITY)) return;
      if (shift != 24 && key >> (shift + 8) != prefix >> (shift + 8)) return;
      const unsigned long long mass = weights.fixed(v);
      if (mass != 0) atomicAdd(&s.masses[key >> shift & 255u], mass);
    });
    __syncthreads();
    if (threadIdx.x == 0) {
      if (shift == 24) {
        unsigned long long total = 0;
        for (int b = 0; b < 256; ++b) total += s.masses[b];
        wanted = top_p * static_cast<double>(total);
      }
      // the last bucket that isn't empty and has less than the wanted mass before it
      int chosen = 255;
      unsigned long long before = above, chosen_before = above;
      for (int b = 255; b >= 0; --b) {
        if (s.masses[b] == 0) continue;
        if (before != 0 && !(static_cast<double>(before) < wanted)) break;
        chosen = b, chosen_before = before;
        before += s.masses[b];
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

__global__ void __launch_bounds__(kSampleThreads) draw_kernel(const float* logits, int64_t stride,
                                                              const float* processed, int32_t vocab,
                                                              const SampleRow* rows, int32_t* error, int32_t* token) {
  __shared__ DrawShared s;
  wait_prior_grid();
  allow_next_grid();
  const int row = blockIdx.x;
  if (error[row] < 0) {
    if (threadIdx.x == 0) token[row] = error[row];
    return;
  }
  const SampleRow p = rows[row];
  const float* x = p.slot >= 0 ? processed + static_cast<int64_t>(p.slot) * vocab : logits + row * stride;
  // the highest value, and the lowest id that has it
  uint32_t highest_key = 0;
  each_logit(x, vocab, [&](int, float v) { highest_key = max(highest_key, key_of(v)); });
  highest_key = block_fold(highest_key, s.folds, [](uint32_t a, uint32_t b) { return max(a, b); });
  const float highest = value_of(highest_key);
  if (!(highest > -INFINITY)) {
    if (threadIdx.x == 0) error[row] = token[row] = kSampleNoToken;
    return;
  }
  if (p.temperature == 0.0) {
    uint32_t first = 0xffffffffu;
    each_logit(x, vocab, [&](int i, float v) {
      if (key_of(v) == highest_key) first = min(first, static_cast<uint32_t>(i));
    });
    first = block_fold(first, s.folds, [](uint32_t a, uint32_t b) { return min(a, b); });
    if (threadIdx.x == 0) token[row] = static_cast<int32_t>(first);
    return;
  }
  const Weights weights = {highest, p.temperature};
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
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
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
  if (lane == 0) token[row] = chosen >= 0 ? chosen : last_kept;
}

__global__ void count_kernel(const SampleRow* rows, const int32_t* token, int32_t n, int32_t vocab, uint32_t* counts) {
  wait_prior_grid();
  allow_next_grid();
  const int i = blockIdx.x * 256 + threadIdx.x;
  if (i >= n || rows[i].slot < 0 || token[i] < 0) return;
  counts[static_cast<int64_t>(rows[i].slot) * vocab + token[i]] += 1;
}

}  // namespace

int64_t sample_workspace_bytes(int32_t n, int32_t) { return static_cast<int64_t>(n) * kParts * 8; }

void argmax(const float* logits, int64_t stride, int32_t n, int32_t vocab, int32_t* token, void* workspace,
            cudaStream_t stream) {
  require(vocab >= 1 && n <= 65535, "argmax", "vocab >= 1 and n <= 65535");
  if (n == 0) return;
  auto* parts = static_cast<unsigned long long*>(workspace);
  launch("argmax", argmax_parts, dim3(kParts, static_cast<unsigned>(n)), dim3(256), 0, stream, logits, stride, vocab,
         parts);
  launch("argmax", argmax_end, dim3(static_cast<unsigned>(n)), dim3(32), 0, stream,
         static_cast<const unsigned long long*>(parts), token);
}

void draw(const float* logits, int64_t stride, const float* processed, int32_t n, int32_t vocab, const SampleRow* rows,
          int32_t* error, int32_t* token, cudaStream_t stream) {
  require(vocab >= 1, "draw", "vocab >= 1");
  if (n == 0) return;
  launch("draw", draw_kernel, dim3(static_cast<unsigned>(n)), dim3(kSampleThreads), 0, stream, logits, stride,
         processed, vocab, rows, error, token);
}

void count_tokens(const SampleRow* rows, const int32_t* token, int32_t n, int32_t vocab, uint32_t* counts,
                  cudaStream_t stream) {
  if (n == 0) return;
  launch("count_tokens", count_kernel, dim3(static_cast<unsigned>(ceil_div(n, 256))), dim3(256), 0, stream, rows, token,
         n, vocab, counts);
}

}  // namespace deploykit::cuda
