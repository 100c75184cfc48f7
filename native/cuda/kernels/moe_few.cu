// Experts of few tokens: a tile of at most 8 slots costs what one does. The scheme of gemv16.cu and w4_gemv.cu: 16 rows
// of one expert a block over all of k, its warps take chunks of inputs in turn, weights are the first operand of
// mma.m16n8k16. Weights and tokens go straight into registers, both asked for `kDepth` chunks ahead.
#include "cuda/kernels/moe.cuh"
#include "cuda/kernels/w4.cuh"

namespace deploykit::cuda {
namespace {

// 16-bit weights: chunks of 32 inputs. A lane has 8 consecutive inputs of rows r and r + 8, and of token r.
template <class T>
struct FewDense {
  static constexpr int kInputs = 32;
  struct Weights {
    uint4 lo, hi;
  };
  struct Tokens {
    uint4 v;
  };
  const T *lo, *x;
  int64_t eight_rows;

  __device__ __forceinline__ void aim(const ExpertArgs& a, const ExpertUnit& u, int r, int t) {
    const T* w = reinterpret_cast<const T*>(a.weights + u.expert * a.weight_stride);
    lo = w + (static_cast<int64_t>(u.row_tile) * 16 + r) * a.k + t * 8;
    eight_rows = 8 * a.k;
  }
  __device__ __forceinline__ void aim_tokens(const T* row, int t) { x = row + t * 8; }
  __device__ __forceinline__ void load(Weights& w, int chunk) const {
    w.lo = load_stream16(lo + chunk * 32);
    w.hi = load_stream16(lo + eight_rows + chunk * 32);
  }
  __device__ __forceinline__ void load(Tokens& v, int chunk, bool has) const {
    v.v = make_uint4(0, 0, 0, 0);
    if (has) v.v = load16(x + chunk * 32);
  }
  __device__ __forceinline__ void multiply(float (&sum)[4], const Weights& w, const Tokens& v, int) const {
    mma<T>(sum, w.lo.x, w.hi.x, w.lo.y, w.hi.y, v.v.x, v.v.y);
    mma<T>(sum, w.lo.z, w.hi.z, w.lo.w, w.hi.w, v.v.z, v.v.w);
  }
};

// 4-bit weights: chunks of 64 inputs, of which a lane has 16 neighbours once its quad has exchanged words.
template <class T, int kGroup>
struct FewW4 {
  static constexpr int kInputs = 64, kParts = kGroup == 32 ? 2 : 1;
  struct Weights {
    uint4 q;
    uint2 p[kParts];
  };
  struct Tokens {
    uint4 v[2];
  };
  const uint4* q;
  const uint2* p;
  const T* x;

  __device__ __forceinline__ void aim(const ExpertArgs& a, const ExpertUnit& u, int r, int t) {
    q = reinterpret_cast<const uint4*>(a.weights + u.expert * a.weight_stride) + u.row_tile * (a.k / 64) * 32 + r * 4 +
        t;
    p = reinterpret_cast<const uint2*>(a.params + u.expert * a.param_stride) + u.row_tile * (a.k / kGroup) * 8 + r;
  }
  __device__ __forceinline__ void aim_tokens(const T* row, int t) { x = row + t * 16; }
  __device__ __forceinline__ void load(Weights& w, int chunk) const {
    w.q = load_stream16(q + chunk * 32);
#pragma unroll
    for (int i = 0; i < kParts; ++i) {
      w.p[i] = load_stream8(p + (kGroup == 128 ? chunk / 2 : chunk * kParts + i) * 8);
    }
  }
  __device__ __forceinline__ void load(Tokens& v, int chunk, bool has) const {
    v.v[0] = v.v[1] = make_uint4(0, 0, 0, 0);
    if (has) v.v[0] = load16(x + chunk * 64), v.v[1] = load16(x + chunk * 64 + 8);
  }
  __device__ __forceinline__ void multiply(float (&sum)[4], const Weights& w, const Tokens& v, int t) const {
    uint32_t words[4] = {w.q.x, w.q.y, w.q.z, w.q.w};
    exchange_words(words, t);
    const uint32_t in[8] = {v.v[0].x, v.v[0].y, v.v[0].z, v.v[0].w, v.v[1].x, v.v[1].y, v.v[1].z, v.v[1].w};
    // A chunk has two groups of 32: lanes 0 and 1 of a quad have one, 2 and 3 the other, and each group's sum is an mma
    // of its own, with the other group's lanes at zero.
    const bool second = kParts == 2 && t >= 2;
    uint2 own = w.p[0];
    if (second) own = w.p[kParts - 1];
    const uint32_t zero_lo = zero_pair<T>(own.x), zero_hi = zero_pair<T>(own.y);
    float d[kParts][4] = {};
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      uint32_t out[4];
      unpack_word<T>(words[s], zero_lo, zero_hi, out);
#pragma unroll
      for (int i = 0; i < kParts; ++i) {
        const bool mine = kParts == 1 || second == (i == 1);
        mma<T>(d[i], out[0], out[1], out[2], out[3], mine ? in[s] : 0u, mine ? in[s + 4] : 0u);
      }
    }
#pragma unroll
    for (int i = 0; i < kParts; ++i) {
      const float scale_lo = scale_of(w.p[i].x), scale_hi = scale_of(w.p[i].y);
      sum[0] = fmaf(scale_lo, d[i][0], sum[0]);
      sum[1] = fmaf(scale_lo, d[i][1], sum[1]);
      sum[2] = fmaf(scale_hi, d[i][2], sum[2]);
      sum[3] = fmaf(scale_hi, d[i][3], sum[3]);
    }
  }
};

template <class T, class F, int kWarps, int kDepth, int kBlocks>
__global__ void __launch_bounds__(kWarps * 32, kBlocks) moe_few_kernel(const ExpertArgs a) {
  __shared__ float4 part[kWarps][32];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, r = lane / 4, t = lane % 4;
  const int chunks = static_cast<int>(a.k / F::kInputs);
  if (!a.reads_routes_early) wait_prior_grid();
  const ExpertUnit u = expert_unit(a);
  if (u.count == 0) {
    if (a.reads_routes_early) wait_prior_grid();
    return;
  }
  F f;
  f.aim(a, u, r, t);
  typename F::Weights w[kDepth];
  typename F::Tokens v[kDepth];
#pragma unroll
  for (int i = 0; i < kDepth; ++i) {
    if (warp + i * kWarps < chunks) f.load(w[i], warp + i * kWarps);
  }
  const bool has = r < u.count;
  f.aim_tokens(expert_input<T>(a, u.first + (has ? r : 0)), t);
  if (a.reads_routes_early) wait_prior_grid();
  allow_next_grid();
#pragma unroll
  for (int i = 0; i < kDepth; ++i) {
    if (warp + i * kWarps < chunks) f.load(v[i], warp + i * kWarps, has);
  }
  float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  for (int base = warp; base < chunks; base += kDepth * kWarps) {
#pragma unroll
    for (int i = 0; i < kDepth; ++i) {
      const int c = base + i * kWarps;
      if (c >= chunks) break;
      f.multiply(sum, w[i], v[i], t);
      const int next = c + kDepth * kWarps;
      if (next < chunks) {
        f.load(w[i], next);
        f.load(v[i], next, has);
      }
    }
  }
  part[warp][lane] = make_float4(sum[0], sum[1], sum[2], sum[3]);
  __syncthreads();
  if (warp != 0) return;
#pragma unroll
  for (int other = 1; other < kWarps; ++other) {
    const float4 p = part[other][lane];
    sum[0] += p.x, sum[1] += p.y, sum[2] += p.z, sum[3] += p.w;
  }
  const int64_t row = static_cast<int64_t>(u.row_tile) * 16 + r;
  if (2 * t < u.count) finish_slot<T>(a, u.expert, row, u.first + 2 * t, sum[0], sum[2]);
  if (2 * t + 1 < u.count) finish_slot<T>(a, u.expert, row, u.first + 2 * t + 1, sum[1], sum[3]);
}

template <class T, class F, int kWarps, int kDepth, int kBlocks>
void run(ExpertArgs& a, cudaStream_t stream) {
  a.row_tiles = static_cast<int32_t>(a.n / 16);
  const int64_t blocks = static_cast<int64_t>(a.row_tiles) * a.tiles_bound;
  require(blocks <= INT32_MAX, "moe", "the tiles fit a launch");
  launch("moe", moe_few_kernel<T, F, kWarps, kDepth, kBlocks>, dim3(static_cast<unsigned>(blocks)), dim3(kWarps * 32), 0,
         stream, a);
}

template <class T, class F, int kDepth>
void pick(int variant, ExpertArgs& a, cudaStream_t stream) {
  switch (variant) {
    case 0:
      return run<T, F, 4, kDepth, 6>(a, stream);
    case 1:
      return run<T, F, 8, kDepth, 3>(a, stream);
    case 2:
      return run<T, F, 16, 2, 2>(a, stream);
    default:
      return run<T, F, 2, kDepth, 12>(a, stream);
  }
}

template <class T>
void pick_weights(int32_t group, int variant, ExpertArgs& a, cudaStream_t stream) {
  if (group == 0) return pick<T, FewDense<T>, 4>(variant, a, stream);
  if (group == 32) return pick<T, FewW4<T, 32>, 2>(variant, a, stream);
  if (group == 64) return pick<T, FewW4<T, 64>, 2>(variant, a, stream);
  return pick<T, FewW4<T, 128>, 3>(variant, a, stream);
}

}  // namespace

void moe_few(DType dtype, int32_t group, int variant, ExpertArgs a, cudaStream_t stream) {
  if (dtype == DType::f16) {
    pick_weights<__half>(group, variant, a, stream);
  } else {
    pick_weights<__nv_bfloat16>(group, variant, a, stream);
  }
}

}  // namespace deploykit::cuda
