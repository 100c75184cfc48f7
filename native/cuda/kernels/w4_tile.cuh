// What w4_wgmma_kernel.cuh multiplies with: packed words unpacked into wgmma's first operand, scale included.
#pragma once

#include "cuda/kernels/w4.cuh"
#include "cuda/kernels/wgmma.cuh"

namespace deploykit::cuda {

#ifdef DEPLOYKIT_WGMMA

template <class T>
__device__ __forceinline__ uint32_t fma2(uint32_t a, uint32_t b, uint32_t c) {
  using T2 = typename Num<T>::T2;
  const T2 v =
      __hfma2(*reinterpret_cast<const T2*>(&a), *reinterpret_cast<const T2*>(&b), *reinterpret_cast<const T2*>(&c));
  return *reinterpret_cast<const uint32_t*>(&v);
}

// What turns packed words of rows r (lo) and r + 8 (hi) into T(scale * (q - zero)), rounded once: as w4_dequantize does.
template <class T>
struct W4Scales;

// A scale has 11 significant bits and bf16 holds 8: the rest is a number of its own, its product with q - zero exact.
template <>
struct W4Scales<__nv_bfloat16> {
  uint32_t zero_lo, zero_hi, scale_lo, scale_hi, rest_lo, rest_hi;

  __device__ __forceinline__ void set(uint2 param) {
    zero_lo = zero_pair<__nv_bfloat16>(param.x), zero_hi = zero_pair<__nv_bfloat16>(param.y);
    split(scale_of(param.x), scale_lo, rest_lo);
    split(scale_of(param.y), scale_hi, rest_hi);
  }
  // q - zero, exact.
  __device__ __forceinline__ void unpack_integers(uint32_t word, uint32_t (&out)[4]) const {
    unpack_word<__nv_bfloat16>(word, zero_lo, zero_hi, out);
  }
  __device__ __forceinline__ void unpack(uint32_t word, uint32_t (&out)[4]) const {
    unpack_integers(word, out);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t small = mul2<__nv_bfloat16>(out[i], i & 1 ? rest_hi : rest_lo);
      out[i] = fma2<__nv_bfloat16>(out[i], i & 1 ? scale_hi : scale_lo, small);
    }
  }

 private:
  static __device__ __forceinline__ void split(float scale, uint32_t& main, uint32_t& rest) {
    main = Num<__nv_bfloat16>::pack(scale, scale);
    const float left = scale - __uint_as_float(main & 0xffff0000u);
    rest = Num<__nv_bfloat16>::pack(left, left);
  }
};

template <>
struct W4Scales<__half> {
  uint32_t zero_lo, zero_hi, scale_lo, scale_hi;

  __device__ __forceinline__ void set(uint2 param) {
    zero_lo = zero_pair<__half>(param.x);
    const uint32_t z = param.y >> 16;
    zero_hi = sub2<__half>(0xd400d400u, 0x64006400u + (z | z << 16));  // -64 - (1024 + z)
    zero_hi = sub2<__half>(zero_hi, 0xe400e400u);                      // + 1024: -(64 + z)
    scale_lo = __byte_perm(param.x, 0, 0x1010), scale_hi = __byte_perm(param.y, 0, 0x1010);
  }
  // Nibbles of row r + 8 stay where they are: 1024 + 16 q, then a sixteenth of it.
  __device__ __forceinline__ void unpack_integers(uint32_t word, uint32_t (&out)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
      uint32_t lo, hi;
      asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(lo) : "r"(word), "r"(0x000f000fu), "r"(0x64006400u));
      asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(hi) : "r"(word), "r"(0x00f000f0u), "r"(0x64006400u));
      out[i] = sub2<__half>(lo, zero_lo);
      out[i + 1] = fma2<__half>(hi, 0x2c002c00u, zero_hi);
      word >>= 8;
    }
  }
  __device__ __forceinline__ void unpack(uint32_t word, uint32_t (&out)[4]) const {
    unpack_integers(word, out);
#pragma unroll
    for (int i = 0; i < 4; ++i) out[i] = mul2<__half>(out[i], i & 1 ? scale_hi : scale_lo);
  }
};
#endif

}  // namespace deploykit::cuda
