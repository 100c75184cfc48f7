// What the linear kernels share: their arguments and the end of a row.
#pragma once

#include "cuda/kernels/common.cuh"

namespace deploykit::cuda {

struct LinearArgs {
  const void* x;
  int64_t x_stride;
  void* y;
  int64_t y_stride;
  const void* bias;
  const void* residual;
  int64_t residual_stride;
  const void* norm_weight;
  float residual_scale, norm_eps, norm_offset;
  int32_t m;
  int64_t n, k;
  Epilogue epilogue;
  Activation activation;
  bool y_f32;
};

inline LinearArgs linear_args(const char* name, const LinearCall& call, int64_t n, int64_t k, int32_t max_m) {
  require(call.dtype == DType::f16 || call.dtype == DType::bf16, name, "dtype is f16 or bf16");
  require(call.m >= 1 && call.m <= max_m, name, "1 <= m <= the tier's limit");
  require(n >= 16 && n % 16 == 0, name, "n % 16 == 0");
  require(call.x_stride % 8 == 0, name, "x_stride % 8 == 0");
  require(!call.y_f32 || call.epilogue == Epilogue::none, name, "float32 output has no residual or gate");
  require(call.epilogue != Epilogue::residual || call.residual != nullptr, name, "a residual is given");
  return {call.x,
          call.x_stride,
          call.y,
          call.y_stride,
          call.bias,
          call.residual,
          call.residual_stride,
          call.norm_weight,
          call.residual_scale,
          call.norm_eps,
          call.norm_offset,
          call.m,
          n,
          k,
          call.epilogue,
          call.activation,
          call.y_f32};
}

#ifdef __CUDACC__
// The end of rows `row` and `row + 8` (row % 16 < 8) of token `token`: their sums are lo and hi.
template <class T>
__device__ __forceinline__ void finish_pair(const LinearArgs& a, int64_t row, int token, float lo, float hi) {
  if (token >= a.m) return;
  const T* bias = static_cast<const T*>(a.bias);
  if (bias != nullptr) {
    lo += Num<T>::to_float(bias[row]);
    hi += Num<T>::to_float(bias[row + 8]);
  }
  if (a.epilogue == Epilogue::gated) {
    T* y = static_cast<T*>(a.y) + token * a.y_stride;
    y[(row >> 4) * 8 + (row & 7)] = Num<T>::from_float(activation(a.activation, lo) * hi);
    return;
  }
  if (a.y_f32) {
    float* y = static_cast<float*>(a.y) + token * a.y_stride;
    y[row] = lo;
    y[row + 8] = hi;
    return;
  }
  if (a.epilogue == Epilogue::residual) {
    const T* residual = static_cast<const T*>(a.residual) + token * a.residual_stride;
    lo = fmaf(a.residual_scale, lo, Num<T>::to_float(residual[row]));
    hi = fmaf(a.residual_scale, hi, Num<T>::to_float(residual[row + 8]));
  }
  T* y = static_cast<T*>(a.y) + token * a.y_stride;
  y[row] = Num<T>::from_float(lo);
  y[row + 8] = Num<T>::from_float(hi);
}

// Inputs [first, first + count) of every token into shared memory, token by token `stride` bytes apart, times the
// norm's weight where there is a norm; square_part[token] (of this warp) gets x's sum of squares. count % 8 == 0. All
// threads.
template <class T, bool kNorm, int kThreads>
__device__ __forceinline__ void stage_tokens(const LinearArgs& a, char* shared, int stride, int64_t first, int count,
                                             float* square_part) {
  const T* g = static_cast<const T*>(a.norm_weight) + first;
  for (int token = 0; token < a.m; ++token) {
    const T* x = static_cast<const T*>(a.x) + token * a.x_stride + first;
    float squares = 0.0f;
    for (int i = threadIdx.x * 8; i < count; i += kThreads * 8) {
      uint4 v = load16(x + i);
      if (kNorm) {
        const uint4 weight = load16(g + i);
        uint32_t* pv = reinterpret_cast<uint32_t*>(&v);
        const uint32_t* pw = reinterpret_cast<const uint32_t*>(&weight);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const float2 f = Num<T>::to_float2(pv[j]), w = Num<T>::to_float2(pw[j]);
          squares = fmaf(f.x, f.x, squares);
          squares = fmaf(f.y, f.y, squares);
          pv[j] = Num<T>::pack(f.x * (w.x + a.norm_offset), f.y * (w.y + a.norm_offset));
        }
      }
      *reinterpret_cast<uint4*>(shared + token * stride + i * 2) = v;
    }
    if (kNorm) {
      squares = warp_sum(squares);
      if (threadIdx.x % 32 == 0) square_part[token] = first == 0 ? squares : square_part[token] + squares;
    }
  }
}

// Sums of a block's warps: part[warp][lane] are this warp's d0 .. d3 for 16 rows and 8 tokens, square_part[warp][token]
// the sums of squares of x. Warp 0 ends with the totals, times 1 / rms where there is a norm, and returns true.
template <int kWarps, bool kNorm>
__device__ __forceinline__ bool reduce_warps(float (&d)[4], float4 (*part)[32], float (*square_part)[8],
                                             const LinearArgs& a) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  part[warp][lane] = make_float4(d[0], d[1], d[2], d[3]);
  __syncthreads();
  if (warp != 0) return false;
#pragma unroll
  for (int w = 1; w < kWarps; ++w) {
    const float4 v = part[w][lane];
    d[0] += v.x, d[1] += v.y, d[2] += v.z, d[3] += v.w;
  }
  if (kNorm) {
    const int t = lane % 4;
    float s0 = 0.0f, s1 = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      s0 += 2 * t < a.m ? square_part[w][2 * t] : 0.0f;
      s1 += 2 * t + 1 < a.m ? square_part[w][2 * t + 1] : 0.0f;
    }
    s0 = rsqrtf(s0 / static_cast<float>(a.k) + a.norm_eps);
    s1 = rsqrtf(s1 / static_cast<float>(a.k) + a.norm_eps);
    d[0] *= s0, d[2] *= s0, d[1] *= s1, d[3] *= s1;
  }
  return true;
}
#endif

// Inputs staged at a time: a multiple of `unit` so that m tokens take at most 48 KiB.
inline int slab_inputs(int64_t k, int32_t m, int unit) {
  const int64_t most = 49152 / 2 / m / unit * unit, all = ceil_div(k, unit) * unit;
  return static_cast<int>(all < most ? all : most < unit ? unit : most);
}

}  // namespace deploykit::cuda
