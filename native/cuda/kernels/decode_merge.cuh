// The end of decode attention: the warps' results become the block's, the blocks' the row's.
#pragma once

#include "cuda/kernels/decode_pieces.cuh"

namespace deploykit::cuda {

#ifdef __CUDACC__
namespace {

// Where a block stands among those of its row.
struct DecodePlace {
  int64_t i;                  // of the batch
  int head0, heads;           // query heads of the block
  int split, active;          // its part of the row, of how many
  int64_t place;              // of the row's first part in the workspace
  int64_t counter;
};

// All threads of the block, after it has met behind the warps' writes to `shared` (Results). The block that comes last
// merges the parts in ascending order.
template <int kValueBits, int D>
__device__ __forceinline__ void merge_results(const DecodeArgs& a, const DecodePlace& at_row, float* shared) {
  using R = Results<kValueBits, D>;
  using V = typename R::V;
  __shared__ bool last_one;
  const int64_t i = at_row.i, place = at_row.place;
  const int head0 = at_row.head0, heads_here = at_row.heads, split = at_row.split, active = at_row.active;
  float* tops = shared + kDecodeWarps * R::kWarp;
  float* masses = tops + kDecodeWarps * 8;
  float* highs = masses + kDecodeWarps * 8;
  // What a head's sums become where the row is whole: `factor` over the mass, with the sink.
  const auto finish = [&](int head, float highest, float total, float& factor) {
    factor = 1.0f;
    if (a.sinks != nullptr) {
      const float sink = a.sinks[head0 + head] * kLog2e, higher = fmaxf(highest, sink);
      factor = exp2_fast(highest - higher);
      total = total * factor + exp2_fast(sink - higher);
    }
    factor /= total;
  };
  const auto store = [&](int head, int dim, float v, float w) {
    const int64_t at = i * a.out_stride + static_cast<int64_t>(head0 + head) * D + dim;
    *reinterpret_cast<uint32_t*>(static_cast<uint16_t*>(a.out) + at) =
        a.bf16 ? Num<__nv_bfloat16>::pack(v, w) : Num<__half>::pack(v, w);
  };
  constexpr int64_t kPart = 8ll * D + 16;
  float* parts = a.parts + place * kPart;
  if (static_cast<int>(threadIdx.x) < heads_here) {
    const int head = threadIdx.x;
    float highest = -INFINITY, total = 0.0f;
#pragma unroll
    for (int w = 0; w < kDecodeWarps; ++w) highest = fmaxf(highest, tops[w * 8 + head]);
    float factors[kDecodeWarps], last_factor = 1.0f;
#pragma unroll
    for (int w = 0; w < kDecodeWarps; ++w) {
      factors[w] = tops[w * 8 + head] == -INFINITY ? 0.0f : exp2_fast(tops[w * 8 + head] - highest);
      total = fmaf(factors[w], masses[w * 8 + head], total);
    }
    if (active == 1) {
      finish(head, highest, total, last_factor);
    } else {
      __stcg(parts + split * kPart + 8 * D + head, highest);
      __stcg(parts + split * kPart + 8 * D + 8 + head, total);
    }
#pragma unroll
    for (int w = 0; w < kDecodeWarps; ++w) tops[w * 8 + head] = factors[w] * last_factor;
  }
  __syncthreads();
  for (int j = 2 * threadIdx.x; j < heads_here * D; j += kDecodeWarps * 64) {
    const int head = j / D, dim = j % D, piece = dim / V::kElements;
    const int at = (piece / 8 * V::kElements + dim % V::kElements) * R::kStride + head % 2 * 32 + head / 2 * 8 + piece % 8;
    float2 v = make_float2(0.0f, 0.0f);
#pragma unroll
    for (int w = 0; w < kDecodeWarps; ++w) {
      v.x = fmaf(tops[w * 8 + head], shared[w * R::kWarp + at], v.x);
      v.y = fmaf(tops[w * 8 + head], shared[w * R::kWarp + at + R::kStride], v.y);
    }
    if (active == 1) {
      store(head, dim, v.x, v.y);
    } else {
      __stcg(reinterpret_cast<float2*>(parts + split * kPart + j), v);
    }
  }
  if (active == 1) return;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    uint32_t* counter = a.counters + at_row.counter;
    last_one = atomicAdd(counter, 1u) == static_cast<uint32_t>(active - 1);
    if (last_one) *counter = 0;
  }
  __syncthreads();
  if (!last_one) return;
  __threadfence();
  if (active <= 8) {  // everything is asked for at once
    for (int j = threadIdx.x * 4; j < heads_here * D; j += kDecodeWarps * 32 * 4) {
      const int head = j / D;
      float high[8], sum[8];
      float4 p[8];
#pragma unroll
      for (int w = 0; w < 8; ++w) {
        high[w] = -INFINITY, sum[w] = 0.0f, p[w] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (w >= active) continue;
        high[w] = __ldcg(parts + w * kPart + 8 * D + head), sum[w] = __ldcg(parts + w * kPart + 8 * D + 8 + head);
        p[w] = __ldcg(reinterpret_cast<const float4*>(parts + w * kPart + j));
      }
      float highest = -INFINITY, total = 0.0f, last_factor;
#pragma unroll
      for (int w = 0; w < 8; ++w) highest = fmaxf(highest, high[w]);
      float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
      for (int w = 0; w < 8; ++w) {
        const float factor = exp2_fast(high[w] - highest);
        total = fmaf(factor, sum[w], total);
        v.x = fmaf(factor, p[w].x, v.x), v.y = fmaf(factor, p[w].y, v.y);
        v.z = fmaf(factor, p[w].z, v.z), v.w = fmaf(factor, p[w].w, v.w);
      }
      finish(head, highest, total, last_factor);
      store(head, j % D, v.x * last_factor, v.y * last_factor);
      store(head, j % D + 2, v.z * last_factor, v.w * last_factor);
    }
    return;
  }
  // Factors of the splits in shared memory, then one pass over the parts.
  float* factors = shared;  // [active][8]
  float* sums = shared + kDecodeMaxParts * 8;
  for (int j = threadIdx.x; j < active * 8; j += kDecodeWarps * 32) {
    const int w = j / 8, head = j % 8;
    if (head < heads_here) {
      factors[j] = __ldcg(parts + w * kPart + 8 * D + head);
      sums[j] = __ldcg(parts + w * kPart + 8 * D + 8 + head);
    }
  }
  __syncthreads();
  if (static_cast<int>(threadIdx.x) < heads_here) {
    const int head = threadIdx.x;
    float highest = -INFINITY, total = 0.0f;
    for (int w = 0; w < active; ++w) highest = fmaxf(highest, factors[w * 8 + head]);
    for (int w = 0; w < active; ++w) {
      const float factor = exp2_fast(factors[w * 8 + head] - highest);
      factors[w * 8 + head] = factor;
      total = fmaf(factor, sums[w * 8 + head], total);
    }
    finish(head, highest, total, highs[head]);
  }
  __syncthreads();
  for (int j = threadIdx.x * 4; j < heads_here * D; j += kDecodeWarps * 32 * 4) {
    const int head = j / D;
    float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 8
    for (int w = 0; w < active; ++w) {
      const float factor = factors[w * 8 + head];
      const float4 p = __ldcg(reinterpret_cast<const float4*>(parts + w * kPart + j));
      v.x = fmaf(factor, p.x, v.x), v.y = fmaf(factor, p.y, v.y);
      v.z = fmaf(factor, p.z, v.z), v.w = fmaf(factor, p.w, v.w);
    }
    store(head, j % D, v.x * highs[head], v.y * highs[head]);
    store(head, j % D + 2, v.z * highs[head], v.w * highs[head]);
  }
}

}  // namespace
#endif

}  // namespace deploykit::cuda
