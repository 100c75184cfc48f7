// What the checks of the attention kernels share: attention in float64, KV memory with shuffled blocks.
#pragma once

#include <ctime>
#include <numeric>
#include <random>

#include "bench.cuh"
#include "cuda/kernels/attention.cuh"

namespace bench {

// ------------------------------------------------------------------------------------------------------ references
// Element d of K or V of a token, from the layout's definition.
static __device__ double cache_value(const KvArgs& kv, KvType type, const char* part, int place, int d, bool value,
                              bool bf16) {
  const char* row =
      part + (value ? kv.v_offset + static_cast<int64_t>(place) * kv.v_row : static_cast<int64_t>(place) * kv.k_row);
  if (type == KvType::f16) return __half2float(reinterpret_cast<const __half*>(row)[d]);
  if (type == KvType::bf16) return __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(row)[d]);
  if (type == KvType::fp8) return float(reinterpret_cast<const __nv_fp8_e4m3*>(row)[d]);
  const __half* param =
      reinterpret_cast<const __half*>(part + (value ? kv.v_params_offset : kv.k_params_offset) + place * 4);
  const bool four = type == KvType::int4 || (type == KvType::k8v4 && value);
  const uint8_t byte = static_cast<uint8_t>(four ? row[d / 2] : row[d]);
  const int u = four ? (d % 2 ? byte >> 4 : byte & 15) : byte;
  return double(u) * __half2float(param[0]) + __half2float(param[1]);
}
// Random contents for tokens below length[i] of row i; everything else keeps its poison.
static __global__ void fill_cache(KvArgs kv, KvType type, int D, const int32_t* length, uint64_t seed) {
  const int row = blockIdx.z, head = blockIdx.y, index = blockIdx.x;
  if (index >= length[row]) return;
  char* part = kv_part(kv, row, head, index);
  const int place = index % kv.block_len;
  const uint64_t base = ((row * 64ull + head) * 1000003ull + index) * 1024;
  for (int value = 0; value < 2; ++value) {
    char* p =
        part + (value ? kv.v_offset + static_cast<int64_t>(place) * kv.v_row : static_cast<int64_t>(place) * kv.k_row);
    const int bytes = value ? kv.v_row : kv.k_row;
    if (type == KvType::f16 || type == KvType::bf16) {
      for (int d = threadIdx.x; d < D; d += 32) {
        const float x = (uniform01(seed, base + value * 512 + d) - 0.5f) * 4.0f + (value ? 0.5f : 0.0f);
        if (type == KvType::f16)
          reinterpret_cast<__half*>(p)[d] = __float2half(x);
        else
          reinterpret_cast<__nv_bfloat16*>(p)[d] = __float2bfloat16(x);
      }
    } else if (type == KvType::fp8) {
      for (int d = threadIdx.x; d < D; d += 32) {
        const float x = (uniform01(seed, base + value * 512 + d) - 0.5f) * 4.0f + (value ? 0.5f : 0.0f);
        reinterpret_cast<__nv_fp8_e4m3*>(p)[d] = __nv_fp8_e4m3(x);
      }
    } else {
      for (int d = threadIdx.x; d < bytes; d += 32) p[d] = static_cast<char>(mix(seed + base + value * 512 + d));
      const bool four = type == KvType::int4 || (type == KvType::k8v4 && value);
      if (threadIdx.x == 0) {
        const float scale = (0.5f + uniform01(seed, base + 900 + value)) * (four ? 0.25f : 0.015f);
        __half* param = reinterpret_cast<__half*>(part + (value ? kv.v_params_offset : kv.k_params_offset) + place * 4);
        param[0] = __float2half(scale);
        param[1] = __float2half(-scale * (four ? 7.0f : 120.0f) + uniform01(seed, base + 910 + value));
      }
    }
  }
}
// One query and head a block.
template <class T>
__global__ void reference_attention(AttentionCall c, KvArgs kv, KvType type, int D, const int32_t* row_of,
                                    const int32_t* index_of, double* scores, int64_t max_len, double* out) {
  const int64_t i = blockIdx.x;
  const int head = blockIdx.y, row = row_of[i], length = row < 0 ? 0 : index_of[i] + 1;
  __shared__ double shared[256];
  double* s = scores + (i * c.heads + head) * max_len;
  const T* q = static_cast<const T*>(c.q) + i * c.q_stride + head * D;
  const int kv_head = head / (c.heads / kv.kv_heads);
  const int oldest = c.window > 0 && length > c.window ? length - c.window : 0;
  if (row < 0) {
    for (int d = threadIdx.x; d < D; d += 128) out[(i * c.heads + head) * D + d] = 0;
    return;
  }
  double top = -1e300;
  for (int k = oldest + threadIdx.x; k < length; k += 128) {
    const char* part = kv_part(kv, row, kv_head, k);
    double sum = 0;
    for (int d = 0; d < D; ++d)
      sum += double(Num<T>::to_float(q[d])) * cache_value(kv, type, part, k % kv.block_len, d, false, false);
    sum *= c.scale;
    if (c.softcap > 0) sum = c.softcap * tanh(sum / c.softcap);
    s[k] = sum;
    top = fmax(top, sum);
  }
  shared[threadIdx.x] = top;
  __syncthreads();
  for (int k = 0; k < 128; ++k) top = fmax(top, shared[k]);
  if (c.sinks != nullptr) top = fmax(top, double(c.sinks[head]));
  double mass = 0;
  for (int k = oldest + threadIdx.x; k < length; k += 128) mass += s[k] = exp(s[k] - top);
  shared[128 + threadIdx.x] = mass;
  __syncthreads();
  mass = c.sinks != nullptr ? exp(c.sinks[head] - top) : 0;
  for (int k = 0; k < 128; ++k) mass += shared[128 + k];
  for (int d = threadIdx.x; d < D; d += 128) {
    double sum = 0;
    for (int k = oldest; k < length; ++k) {
      sum += s[k] * cache_value(kv, type, kv_part(kv, row, kv_head, k), k % kv.block_len, d, true, false);
    }
    out[(i * c.heads + head) * D + d] = sum / mass;
  }
}

inline const char* type_name(KvType t) {
  switch (t) {
    case KvType::f16:
      return "f16";
    case KvType::bf16:
      return "bf16";
    case KvType::int8:
      return "int8";
    case KvType::k8v4:
      return "k8v4";
    case KvType::fp8:
      return "fp8";
    default:
      return "int4";
  }
}

// A pool of `layers` layers with shuffled blocks for rows of these lengths.
struct Pool {
  int layers, rows;
  std::vector<int32_t> lengths;
  int64_t head_bytes, layer_bytes, block_bytes, max_blocks, blocks;
  Buffer<char> data;
  Buffer<int32_t> table, length;
  KvType type;
  int block_len, kv_heads, D;
  static int64_t count(const std::vector<int32_t>& l, int block_len) {
    int64_t n = 0;
    for (int32_t v : l) n += (v + block_len - 1) / block_len;
    return n + 3;
  }
  static int64_t most(const std::vector<int32_t>& l, int block_len) {
    return (*std::max_element(l.begin(), l.end()) + block_len - 1) / block_len + 1;
  }
  Pool(KvType t, int layers_, std::vector<int32_t> l, int block_len_, int kv_heads_, int D_, bool fill = true)
      : layers(layers_),
        rows(static_cast<int>(l.size())),
        lengths(l),
        head_bytes(kv_head_bytes(t, block_len_, D_)),
        layer_bytes(head_bytes * kv_heads_),
        block_bytes((layer_bytes * layers_ + 15) / 16 * 16),
        max_blocks(most(l, block_len_)),
        blocks(count(l, block_len_)),
        data(blocks * block_bytes),
        table(static_cast<int64_t>(l.size()) * max_blocks),
        length(static_cast<int64_t>(l.size())),
        type(t),
        block_len(block_len_),
        kv_heads(kv_heads_),
        D(D_) {
    std::vector<int32_t> order(static_cast<size_t>(blocks)),
        entries(static_cast<size_t>(rows) * max_blocks, 0x7fffffff);
    std::iota(order.begin(), order.end(), 0);
    std::mt19937 random(static_cast<unsigned>(next_seed()));
    std::shuffle(order.begin(), order.end(), random);
    size_t next = 0;
    for (int r = 0; r < rows; ++r) {
      for (int b = 0; b < (lengths[r] + block_len - 1) / block_len; ++b) entries[r * max_blocks + b] = order[next++];
    }
    table.set(entries);
    length.set(lengths);
    if (!fill) return;
    for (int layer = 0; layer < layers; ++layer) {
      const KvArgs a = kv_args("bench", view(layer));
      const int most_tokens = *std::max_element(lengths.begin(), lengths.end());
      fill_cache<<<dim3(most_tokens, kv_heads, rows), 32>>>(a, type, D, length, next_seed());
    }
    CU(cudaDeviceSynchronize());
  }
  KvView view(int layer) const {
    KvView v;
    v.base = data.data, v.block_bytes = block_bytes, v.layer_offset = layer * layer_bytes, v.block_len = block_len;
    v.kv_heads = kv_heads, v.head_dim = D, v.type = type, v.block_table = table.data, v.max_blocks = max_blocks;
    return v;
  }
};

template <class T>
double tolerance() {
  return dtype_of<T>() == DType::f16 ? 1.0 / 1024 : 1.0 / 150;
}

}  // namespace bench
