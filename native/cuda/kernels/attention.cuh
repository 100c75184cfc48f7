// What the attention kernels share: addresses in the KV memory and 16-bit values from its bytes.
#pragma once

#include <type_traits>

#include "cuda/kernels/common.cuh"

namespace deploykit::cuda {

struct KvArgs {
  char* base;
  int64_t block_bytes, layer_offset, head_bytes, max_blocks;
  const int32_t* block_table;
  int32_t block_len, kv_heads;
  int32_t block_shift;      // log2(block_len), -1 where it is no power of two
  int32_t k_row, v_row;     // bytes of a token's K and V
  int64_t v_offset;         // of V in a head's part
  int64_t k_params_offset;  // of the K params
  int64_t v_params_offset;
};

inline int32_t kv_row_bytes(KvType type, bool value, int32_t head_dim) {
  switch (type) {
    case KvType::f16:
    case KvType::bf16:
      return head_dim * 2;
    case KvType::int8:
    case KvType::fp8:
      return head_dim;
    case KvType::k8v4:
      return value ? head_dim / 2 : head_dim;
    case KvType::int4:
      return head_dim / 2;
    default:
      throw Error("unsupported", "KV memory on CUDA is f16, bf16, int8, k8v4, int4 or fp8");
  }
}

// Whether each token has a scale and a zero for K and for V.
inline bool has_params(KvType type) { return type == KvType::int8 || type == KvType::k8v4 || type == KvType::int4; }

// Whether keys are stored through kernels.h's transform.
#ifdef __CUDACC__
__host__ __device__
#endif
inline bool mixes_keys(KvType type) { return type == KvType::int4; }

inline KvArgs kv_args(const char* name, const KvView& kv) {
  require(kv.block_len >= 16 && kv.block_len % 16 == 0, name, "block_len % 16 == 0");
  require(kv.block_bytes % 16 == 0 && kv.layer_offset % 16 == 0, name,
          "block_bytes and layer_offset are multiples of 16");
  KvArgs a = {};
  a.base = static_cast<char*>(kv.base);
  a.block_bytes = kv.block_bytes;
  a.layer_offset = kv.layer_offset;
  a.head_bytes = kv_head_bytes(kv.type, kv.block_len, kv.head_dim);
  a.max_blocks = kv.max_blocks;
  a.block_table = kv.block_table;
  a.block_len = kv.block_len;
  a.kv_heads = kv.kv_heads;
  a.block_shift = -1;
  for (int32_t shift = 4; shift < 31; ++shift) {
    if (kv.block_len == 1 << shift) a.block_shift = shift;
  }
  a.k_row = kv_row_bytes(kv.type, false, kv.head_dim);
  a.v_row = kv_row_bytes(kv.type, true, kv.head_dim);
  a.v_offset = static_cast<int64_t>(a.k_row) * kv.block_len;
  a.k_params_offset = a.v_offset + static_cast<int64_t>(a.v_row) * kv.block_len;
  a.v_params_offset = a.k_params_offset + 4ll * kv.block_len;
  return a;
}

// fn(integral_constant D) for the head sizes that there are.
template <class Fn>
void with_head_dim(const char* name, int32_t head_dim, Fn fn) {
  switch (head_dim) {
    case 64:
      return fn(std::integral_constant<int, 64>{});
    case 80:
      return fn(std::integral_constant<int, 80>{});
    case 96:
      return fn(std::integral_constant<int, 96>{});
    case 128:
      return fn(std::integral_constant<int, 128>{});
    case 256:
      return fn(std::integral_constant<int, 256>{});
    default:
      throw Error("unsupported", std::string("cuda kernel ") + name + ": head_dim is 64, 80, 96, 128 or 256");
  }
}

#ifdef __CUDACC__
// The slot of the block table that holds token `index`.
__device__ __forceinline__ int kv_slot(const KvArgs& kv, int index) {
  return kv.block_shift >= 0 ? index >> kv.block_shift : index / kv.block_len;
}
// A head's part of the block that holds token `index` of `row`.
__device__ __forceinline__ char* kv_part(const KvArgs& kv, int64_t row, int head, int index) {
  const int64_t block = kv.block_table[row * kv.max_blocks + kv_slot(kv, index)];
  return kv.base + block * kv.block_bytes + kv.layer_offset + head * kv.head_bytes;
}

__device__ __forceinline__ uint32_t permute(uint32_t a, uint32_t b, uint32_t selector) {
  return __byte_perm(a, b, selector);
}
// f16 bias + nibble `place` (0 .. 3) of both halves of x; the bias is 1024 at even places, 64 at odd ones, whose nibble
// stays where it is in the mantissa: two places share a shift.
__device__ __forceinline__ uint32_t nibbles(uint32_t x, int place) {
  uint32_t v;
  if (place % 2 == 0) {
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(v) : "r"(x >> (4 * place)), "r"(0x000f000fu), "r"(0x64006400u));
  } else {
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(v) : "r"(x >> (4 * place - 4)), "r"(0x00f000f0u), "r"(0x54005400u));
  }
  return v;
}
// Two e4m3 numbers, the low 16 bits of x, in f16: exact.
__device__ __forceinline__ uint32_t from_fp8(uint32_t x) {
  const __half2_raw v = __nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(x), __NV_E4M3);
  return v.x | static_cast<uint32_t>(v.y) << 16;
}
__device__ __forceinline__ float2 kv_param(uint32_t p) {  // scale, zero
  return __half22float2(*reinterpret_cast<const __half2*>(&p));
}
#endif

}  // namespace deploykit::cuda
