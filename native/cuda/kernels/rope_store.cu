// Rotation of Q and K, and the store of K and V into the KV memory, quantized on the way where the cache is.
#include "cuda/kernels/attention.cuh"

namespace deploykit::cuda {
namespace {

constexpr int kWarps = 8;

struct RopeArgs {
  RopeCall call;
  KvArgs kv;
  KvType type;
  int32_t head_dim;
};

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

template <class T, int D>
__global__ void __launch_bounds__(kWarps * 32) rope_kernel(const RopeArgs a) {
  __shared__ float2 angles[D / 2];
  __shared__ __align__(8) float buffers[kWarps][D];
  const RopeCall& c = a.call;
  const int64_t token = blockIdx.x;
  // Before the wait: the kernel in front wrote q, k and v alone (kernels.h says so).
  const int row = c.row[token];
  const int index = row < 0 ? 0 : c.index[token];
  if (row >= 0 && static_cast<int>(threadIdx.x) < c.half) {
    float sine, cosine;
    sincosf(static_cast<float>(c.position[token]) * c.inv_freq[threadIdx.x], &sine, &cosine);
    angles[threadIdx.x] = make_float2(cosine * c.attention_factor, sine * c.attention_factor);
  }
  __syncthreads();
  wait_prior_grid();
  allow_next_grid();
  if (row < 0) return;
  const int warp = threadIdx.x / 32, kv_heads = a.kv.kv_heads;
  for (int unit = warp + kWarps * static_cast<int>(blockIdx.y); unit < c.heads + 2 * kv_heads;
       unit += kWarps * static_cast<int>(gridDim.y)) {
    Row<T, D> x;
    if (unit < c.heads) {
      T* q = static_cast<T*>(c.q) + token * c.q_stride + unit * D;
      x.load(q);
      if (c.q_norm != nullptr) x.normalize(static_cast<const T*>(c.q_norm), c.norm_eps, c.norm_offset);
      if (c.logn_trained_len > 1) {
        const float factor = fmaxf(
            1.0f, logf(static_cast<float>(c.position[token]) + 1.0f) / logf(static_cast<float>(c.logn_trained_len)));
#pragma unroll
        for (int k = 0; k < Row<T, D>::kWords; ++k) x.v[k][0] *= factor, x.v[k][1] *= factor;
      }
      x.rotate(buffers[warp], angles, c.half, c.interleaved);
      x.store(q);
      continue;
    }
    const bool is_value = unit >= c.heads + kv_heads;
    const int head = unit - c.heads - (is_value ? kv_heads : 0);
    x.load(static_cast<const T*>(is_value ? c.v : c.k) + token * c.kv_stride + head * D);
    if (!is_value) {
      if (c.k_norm != nullptr) x.normalize(static_cast<const T*>(c.k_norm), c.norm_eps, c.norm_offset);
      x.rotate(buffers[warp], angles, c.half, c.interleaved);
    }
    char* part = kv_part(a.kv, row, head, index);
    const int place = index % a.kv.block_len;
    char* to = part + (is_value ? a.kv.v_offset + static_cast<int64_t>(place) * a.kv.v_row
                                : static_cast<int64_t>(place) * a.kv.k_row);
    char* param = part + (is_value ? a.kv.v_params_offset : a.kv.k_params_offset) + place * 4;
    if (a.type == KvType::f16 || a.type == KvType::bf16) {
      x.store(to);
    } else {
      x.store_quantized(to, param, a.type == KvType::int8 || (a.type == KvType::k8v4 && !is_value) ? 8 : 4);
    }
  }
}

}  // namespace

void rope_store(const RopeCall& call, const KvView& kv, cudaStream_t stream) {
  const char* name = "rope_store";
  require(call.dtype == DType::f16 || call.dtype == DType::bf16, name, "dtype is f16 or bf16");
  require(call.half >= 0 && 2 * call.half <= kv.head_dim, name, "2 * half <= head_dim");
  require(call.q_stride % 2 == 0 && call.kv_stride % 2 == 0, name, "even strides");
  const bool plain = kv.type == KvType::f16 || kv.type == KvType::bf16;
  require(!plain || kv.type == (call.dtype == DType::bf16 ? KvType::bf16 : KvType::f16), name,
          "a 16-bit cache has the activations' type");
  if (call.tokens == 0) return;
  const RopeArgs a = {call, kv_args(name, kv), kv.type, kv.head_dim};
  const int64_t units = call.heads + 2 * kv.kv_heads;
  const unsigned parts = call.tokens >= 264 ? 1u : static_cast<unsigned>(ceil_div(units, kWarps));
  with_head_dim(name, kv.head_dim, [&](auto d) {
    constexpr int D = decltype(d)::value;
    const auto kernel = call.dtype == DType::bf16 ? rope_kernel<__nv_bfloat16, D> : rope_kernel<__half, D>;
    launch(name, kernel, dim3(static_cast<unsigned>(call.tokens), parts), dim3(kWarps * 32), 0, stream, a);
  });
}

}  // namespace deploykit::cuda
