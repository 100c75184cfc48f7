#include "cuda/engine/sample_kernels.h"

#include "cuda/engine/device.h"
#include "deploykit/step.h"

namespace deploykit::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kBins = 256;

// Larger floats have larger keys.
__device__ uint32_t order_key(float x) {
  const uint32_t bits = __float_as_uint(x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// Philox4x32-10 on counter (position, 0, 0, 0): the uniform number of docs/sampling.md.
__device__ double uniform(uint32_t k0, uint32_t k1, uint32_t position) {
  uint32_t c0 = position, c1 = 0, c2 = 0, c3 = 0;
  for (int round = 0; round < 10; ++round) {
    const uint32_t hi0 = __umulhi(0xD2511F53u, c0), lo0 = 0xD2511F53u * c0;
    const uint32_t hi1 = __umulhi(0xCD9E8D57u, c2), lo1 = 0xCD9E8D57u * c2;
    c0 = hi1 ^ c1 ^ k0;
    c1 = lo1;
    c2 = hi0 ^ c3 ^ k1;
    c3 = lo0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  const uint64_t n = (static_cast<uint64_t>(c0) << 20) + (c1 >> 12);
  return (static_cast<double>(n) + 0.5) / 4503599627370496.0;
}

struct Shared {
  uint64_t best[kWarps];
  int32_t counts[kBins];
  double masses[kBins];
  double sums[kThreads];
  int32_t bad;
  uint32_t prefix, mask;
  int32_t left;
  double above;
  int32_t token;
};

// The largest (value, lowest index) of the row; the same in every thread. A value that is not finite sets shared.bad.
__device__ uint64_t row_best(const float* x, int32_t vocab, Shared& shared) {
  uint64_t best = 0;
  bool bad = false;
  const int32_t whole = (reinterpret_cast<uintptr_t>(x) % 16 == 0) ? vocab / 4 : 0;
  for (int32_t i = threadIdx.x; i < whole; i += kThreads) {
    const float4 v = reinterpret_cast<const float4*>(x)[i];
    const float values[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      bad |= !isfinite(values[j]);
      // -0 and 0 are equal, and the lower index wins among equals
      const uint64_t key = static_cast<uint64_t>(order_key(values[j] + 0.0f)) << 32 | ~static_cast<uint32_t>(i * 4 + j);
      best = key > best ? key : best;
    }
  }
  for (int32_t i = whole * 4 + threadIdx.x; i < vocab; i += kThreads) {
    bad |= !isfinite(x[i]);
    const uint64_t key = static_cast<uint64_t>(order_key(x[i] + 0.0f)) << 32 | ~static_cast<uint32_t>(i);
    best = key > best ? key : best;
  }
  for (int offset = 16; offset > 0; offset /= 2) {
    const uint64_t other = __shfl_xor_sync(0xffffffffu, best, offset);
    best = other > best ? other : best;
  }
  if (threadIdx.x == 0) shared.bad = 0;
  __syncthreads();
  if (bad) shared.bad = 1;
  if (threadIdx.x % 32 == 0) shared.best[threadIdx.x / 32] = best;
  __syncthreads();
  best = shared.best[0];
  for (int warp = 1; warp < kWarps; ++warp) best = shared.best[warp] > best ? shared.best[warp] : best;
  return best;
}

// The key of the k-th highest value, counted with repeats.
__device__ uint32_t kth_key(const float* x, int32_t vocab, int32_t k, Shared& shared) {
  if (threadIdx.x == 0) {
    shared.prefix = 0;
    shared.mask = 0;
    shared.left = k;
  }
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int bin = threadIdx.x; bin < kBins; bin += kThreads) shared.counts[bin] = 0;
    __syncthreads();
    const uint32_t prefix = shared.prefix, mask = shared.mask;
    for (int32_t i = threadIdx.x; i < vocab; i += kThreads) {
      const uint32_t key = order_key(x[i] + 0.0f);
      if ((key & mask) == prefix) atomicAdd(&shared.counts[key >> shift & 255], 1);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int bin = kBins - 1;
      while (bin > 0 && shared.counts[bin] < shared.left) shared.left -= shared.counts[bin--];
      shared.prefix |= static_cast<uint32_t>(bin) << shift;
      shared.mask |= 255u << shift;
    }
    __syncthreads();
  }
  return shared.prefix;
}

// The lowest key that top_p keeps: the mass above it is less than `target`. `weight` gives an element's mass or 0.
template <class Weight>
__device__ uint32_t mass_key(const float* x, int32_t vocab, double target, Weight weight, Shared& shared) {
  if (threadIdx.x == 0) {
    shared.prefix = 0;
    shared.mask = 0;
    shared.above = 0.0;
  }
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int bin = threadIdx.x; bin < kBins; bin += kThreads) {
      shared.masses[bin] = 0.0;
      shared.counts[bin] = 0;
    }
    __syncthreads();
    const uint32_t prefix = shared.prefix, mask = shared.mask;
    for (int32_t i = threadIdx.x; i < vocab; i += kThreads) {
      const uint32_t key = order_key(x[i] + 0.0f);
      if ((key & mask) != prefix) continue;
      const double w = weight(x[i], key);
      if (w > 0.0) {
        atomicAdd(&shared.masses[key >> shift & 255], w);
        shared.counts[key >> shift & 255] = 1;
      }
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int bin = kBins - 1, chosen = -1;
      for (; bin >= 0; --bin) {
        if (shared.counts[bin] == 0) continue;
        chosen = bin;
        if (shared.above + shared.masses[bin] >= target) break;
        // Rounding may leave the target out of reach: then the lowest bin with any mass is the answer.
        bool more = false;
        for (int lower = bin - 1; lower >= 0; --lower) more |= shared.counts[lower] != 0;
        if (!more) break;
        shared.above += shared.masses[bin];
      }
      shared.prefix |= static_cast<uint32_t>(chosen < 0 ? 0 : chosen) << shift;
      shared.mask |= 255u << shift;
    }
    __syncthreads();
  }
  return shared.prefix;
}

__device__ double block_sum(double value, Shared& shared) {
  shared.sums[threadIdx.x] = value;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) shared.sums[threadIdx.x] += shared.sums[threadIdx.x + half];
    __syncthreads();
  }
  const double total = shared.sums[0];
  __syncthreads();
  return total;
}

__global__ void __launch_bounds__(kThreads) sample_kernel(StepArrays step, Rows rows, const float* logits,
                                                          int32_t vocab, int32_t* sampled) {
  __shared__ Shared shared;
  const int32_t slice = blockIdx.x;
  const int32_t row = step.rows[slice];
  const RowSampling sampling = rows.sampling[row];
  if (row == rows.dummy || !(step.flags[slice] & kWantSample) || rows.finished[row] || sampling.on_host) {
    if (threadIdx.x == 0) sampled[slice] = -1;
    return;
  }
  const float* x = logits + static_cast<int64_t>(slice) * vocab;
  const uint64_t best = row_best(x, vocab, shared);
  const int32_t argmax = static_cast<int32_t>(~static_cast<uint32_t>(best));
  if (shared.bad) {
    if (threadIdx.x == 0) sampled[slice] = -1;
    return;
  }
  if (sampling.temperature == 0.0) {
    if (threadIdx.x == 0) sampled[slice] = argmax;
    return;
  }
  const double maximum = x[argmax], temperature = sampling.temperature;
  uint32_t lowest = 0;  // keys below it are dropped
  if (sampling.top_k > 0 && sampling.top_k < vocab) lowest = kth_key(x, vocab, sampling.top_k, shared);
  const auto weight = [&](float value, uint32_t key) {
    return key >= lowest ? exp((static_cast<double>(value) - maximum) / temperature) : 0.0;
  };
  if (sampling.top_p < 1.0) {
    double mass = 0.0;
    for (int32_t i = threadIdx.x; i < vocab; i += kThreads) mass += weight(x[i], order_key(x[i] + 0.0f));
    const double total = block_sum(mass, shared);
    const uint32_t kept = mass_key(x, vocab, sampling.top_p * total, weight, shared);
    lowest = kept > lowest ? kept : lowest;
  }
  const double least = sampling.min_p;
  const auto kept_weight = [&](float value) {
    const double w = weight(value, order_key(value + 0.0f));
    return w >= least ? w : 0.0;
  };
  // Inverse CDF in the order of ids: every thread owns a run of them.
  const int32_t run = (vocab + kThreads - 1) / kThreads;
  const int32_t begin = min(static_cast<int32_t>(threadIdx.x) * run, vocab), end = min(begin + run, vocab);
  double own = 0.0;
  for (int32_t i = begin; i < end; ++i) own += kept_weight(x[i]);
  shared.sums[threadIdx.x] = own;
  if (threadIdx.x == 0) shared.token = argmax;
  __syncthreads();
  if (threadIdx.x == 0) {
    double total = 0.0;
    for (int i = 0; i < kThreads; ++i) {
      const double next = total + shared.sums[i];
      shared.sums[i] = total;  // mass before the run
      total = next;
    }
    shared.above = total;
  }
  __syncthreads();
  const int32_t position = rows.known[row] - rows.prompt_len[row];
  const double target = uniform(sampling.seed_low, sampling.seed_high, static_cast<uint32_t>(position)) * shared.above;
  double mass = shared.sums[threadIdx.x];
  if (own > 0.0 && mass <= target && target < mass + own) {
    int32_t last = -1;
    bool found = false;
    for (int32_t i = begin; i < end && !found; ++i) {
      const double w = kept_weight(x[i]);
      if (w <= 0.0) continue;
      mass += w;
      last = i;
      found = mass > target;
    }
    shared.token = last;
  }
  __syncthreads();
  if (threadIdx.x == 0) sampled[slice] = shared.token;
}

}  // namespace

void sample_slices(const StepArrays& step, const Rows& rows, const float* logits, int32_t vocab, int32_t* sampled,
                   int32_t slices, cudaStream_t stream) {
  sample_kernel<<<slices, kThreads, 0, stream>>>(step, rows, logits, vocab, sampled);
  DK_CUDA(cudaGetLastError());
}

}  // namespace deploykit::cuda
