// A head's row of a token in a warp: norm, rotation, store in 16 bits or quantized.
#pragma once

#include "cuda/kernels/attention.cuh"

namespace deploykit::cuda {

#ifdef __CUDACC__
namespace {

// The square root of a power of two.
template <int n>
constexpr float kRoot = 2.0f * kRoot<n / 4>;
template <>
constexpr float kRoot<1> = 1.0f;
template <>
constexpr float kRoot<2> = 1.41421356f;

// One row of D elements in a warp: lane l holds elements 2 (l + 32 k) and the one after.
template <class T, int D>
struct Row {
  static constexpr int kWords = (D / 2 + 31) / 32;
  float v[kWords][2];

  __device__ __forceinline__ bool has(int k) const { return D % 64 == 0 || threadIdx.x % 32 + 32 * k < D / 2; }
  __device__ __forceinline__ int word(int k) const { return threadIdx.x % 32 + 32 * k; }
  __device__ __forceinline__ void load(const T* p) {
#pragma unroll
    for (int k = 0; k < kWords; ++k) {
      const float2 f =
          has(k) ? Num<T>::to_float2(reinterpret_cast<const uint32_t*>(p)[word(k)]) : make_float2(0.0f, 0.0f);
      v[k][0] = f.x, v[k][1] = f.y;
    }
  }
  __device__ __forceinline__ void store(void* p) const {
#pragma unroll
    for (int k = 0; k < kWords; ++k) {
      if (has(k)) static_cast<uint32_t*>(p)[word(k)] = Num<T>::pack(v[k][0], v[k][1]);
    }
  }
  __device__ __forceinline__ void normalize(const T* weight, float eps, float offset) {
    float squares = 0.0f;
#pragma unroll
    for (int k = 0; k < kWords; ++k) squares += v[k][0] * v[k][0] + v[k][1] * v[k][1];
    const float factor = rsqrtf(warp_sum(squares) / D + eps);
#pragma unroll
    for (int k = 0; k < kWords; ++k) {
      if (!has(k)) continue;
      const float2 w = Num<T>::to_float2(reinterpret_cast<const uint32_t*>(weight)[word(k)]);
      v[k][0] *= factor * (w.x + offset), v[k][1] *= factor * (w.y + offset);
    }
  }
  __device__ __forceinline__ void rotate(float* buffer, const float2* angles, int half, bool interleaved) {
    if (half == 0) return;
    if (D == 128 && half == 64 && !interleaved) {  // a lane holds both elements of its pairs
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const float2 a = angles[2 * word(0) + e];
        const float x = v[0][e], y = v[kWords - 1][e];
        v[0][e] = x * a.x - y * a.y;
        v[kWords - 1][e] = y * a.x + x * a.y;
      }
      return;
    }
    if (!interleaved) {
      __syncwarp();
#pragma unroll
      for (int k = 0; k < kWords; ++k) {
        if (has(k)) reinterpret_cast<float2*>(buffer)[word(k)] = make_float2(v[k][0], v[k][1]);
      }
      __syncwarp();
    }
#pragma unroll
    for (int k = 0; k < kWords; ++k) {
      if (!has(k)) continue;
      if (interleaved) {
        if (word(k) >= half) continue;
        const float2 a = angles[word(k)];
        const float x = v[k][0], y = v[k][1];
        v[k][0] = x * a.x - y * a.y;
        v[k][1] = y * a.x + x * a.y;
        continue;
      }
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int d = 2 * word(k) + e;
        if (d < half) {
          v[k][e] = v[k][e] * angles[d].x - buffer[d + half] * angles[d].y;
        } else if (d < 2 * half) {
          v[k][e] = v[k][e] * angles[d - half].x + buffer[d - half] * angles[d - half].y;
        }
      }
    }
  }
  // Kernels.h's transform M of 4-bit keys, for a key and for the queries that meet it. All lanes of the warp.
  __device__ __forceinline__ void mix() {
    constexpr int kBlock = D & -D, kLanes = kBlock < 64 ? kBlock / 2 : 32, kBlocks = D / kBlock;
    constexpr float kUnit = 1.0f / kRoot<kBlock>;
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < kWords; ++k) {
      const float sum = v[k][0] + v[k][1];
      v[k][1] = v[k][0] - v[k][1], v[k][0] = sum;
#pragma unroll
      for (int offset = 1; offset < kLanes; offset *= 2) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const float other = __shfl_xor_sync(0xffffffffu, v[k][e], offset);
          v[k][e] = (lane & offset) != 0 ? other - v[k][e] : other + v[k][e];
        }
      }
    }
#pragma unroll
    for (int step = 1; step < kBlock / 64; step *= 2) {
#pragma unroll
      for (int k = 0; k < kWords; ++k) {
        if ((k & step) != 0) continue;
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const float sum = v[k][e] + v[k + step][e];
          v[k + step][e] = v[k][e] - v[k + step][e], v[k][e] = sum;
        }
      }
    }
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      float all = 0.0f;  // of the blocks' elements at this place; the last block stands in the second word
      if (kBlocks > 1) {
        all = v[0][e];
#pragma unroll
        for (int offset = kLanes; offset < 32; offset *= 2) all += __shfl_xor_sync(0xffffffffu, all, offset);
        all += __shfl_sync(0xffffffffu, v[kWords - 1][e], lane % kLanes);
      }
#pragma unroll
      for (int k = 0; k < kWords; ++k) v[k][e] = (v[k][e] - 2.0f / kBlocks * all) * kUnit;
    }
  }
  __device__ __forceinline__ void store_fp8(char* p) const {
#pragma unroll
    for (int k = 0; k < kWords; ++k) {
      if (!has(k)) continue;
      reinterpret_cast<uint16_t*>(p)[word(k)] =
          __nv_cvt_float2_to_fp8x2(make_float2(v[k][0], v[k][1]), __NV_SATFINITE, __NV_E4M3);
    }
  }
  // u = round((x - zero) / scale) of `bits` bits, elements in order; scale and zero of the row to `param`.
  __device__ __forceinline__ void store_quantized(char* p, char* param, int bits) const {
    float lowest = INFINITY, highest = -INFINITY;
#pragma unroll
    for (int k = 0; k < kWords; ++k) {
      if (!has(k)) continue;
      lowest = fminf(lowest, fminf(v[k][0], v[k][1]));
      highest = fmaxf(highest, fmaxf(v[k][0], v[k][1]));
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      lowest = fminf(lowest, __shfl_xor_sync(0xffffffffu, lowest, offset));
      highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, offset));
    }
    const float levels = static_cast<float>((1 << bits) - 1);
    const __half zero = __float2half_rn(lowest), scale = __float2half_rn((highest - lowest) / levels);
    const float z = __half2float(zero), s = __half2float(scale), inverse = s > 0.0f ? 1.0f / s : 0.0f;
#pragma unroll
    for (int k = 0; k < kWords; ++k) {
      if (!has(k)) continue;
      const int a = static_cast<int>(fminf(fmaxf(rintf((v[k][0] - z) * inverse), 0.0f), levels));
      const int b = static_cast<int>(fminf(fmaxf(rintf((v[k][1] - z) * inverse), 0.0f), levels));
      if (bits == 8) {
        reinterpret_cast<uint16_t*>(p)[word(k)] = static_cast<uint16_t>(a | b << 8);
      } else {
        reinterpret_cast<uint8_t*>(p)[word(k)] = static_cast<uint8_t>(a | b << 4);
      }
    }
    if (threadIdx.x % 32 == 0) {
      *reinterpret_cast<uint32_t*>(param) = __half_as_ushort(scale) | static_cast<uint32_t>(__half_as_ushort(zero))
                                                                          << 16;
    }
  }
};

// cos and sin of a token's angles, by the block's threads; it must meet before they are read.
template <int D>
__device__ __forceinline__ void rope_angles(const RopeCall& c, int64_t token, float2* angles) {
  for (int i = threadIdx.x; i < c.half; i += blockDim.x) {
    float sine, cosine;
    sincosf(static_cast<float>(c.position[token]) * c.inv_freq[i], &sine, &cosine);
    angles[i] = make_float2(cosine * c.attention_factor, sine * c.attention_factor);
  }
}
// A query's row as attention takes it.
template <class T, int D>
__device__ __forceinline__ void rope_query(Row<T, D>& x, const RopeCall& c, int64_t token, float* buffer,
                                           const float2* angles) {
  if (c.q_norm != nullptr) x.normalize(static_cast<const T*>(c.q_norm), c.norm_eps, c.norm_offset);
  if (c.logn_trained_len > 1) {
    const float factor = fmaxf(
        1.0f, logf(static_cast<float>(c.position[token]) + 1.0f) / logf(static_cast<float>(c.logn_trained_len)));
#pragma unroll
    for (int k = 0; k < Row<T, D>::kWords; ++k) x.v[k][0] *= factor, x.v[k][1] *= factor;
  }
  x.rotate(buffer, angles, c.half, c.interleaved);
}
template <class T, int D>
__device__ __forceinline__ void rope_key(Row<T, D>& x, const RopeCall& c, float* buffer, const float2* angles) {
  if (c.k_norm != nullptr) x.normalize(static_cast<const T*>(c.k_norm), c.norm_eps, c.norm_offset);
  x.rotate(buffer, angles, c.half, c.interleaved);
}

}  // namespace
#endif

}  // namespace deploykit::cuda
