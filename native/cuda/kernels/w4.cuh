// 4-bit weights: the packed layout (kernels.h) seen from a kernel.
#pragma once

#include "cuda/kernels/linear.cuh"

namespace deploykit::cuda {

inline void require_w4(const char* name, const W4Weight& w) {
  require(w.group == 32 || w.group == 64 || w.group == 128, name, "group is 32, 64 or 128");
  require(w.n >= 16 && w.n % 16 == 0, name, "n % 16 == 0");
  require(w.k >= 64 && w.k % 64 == 0 && w.k % w.group == 0, name, "k % 64 == 0 and k % group == 0");
}

#ifdef __CUDACC__
// One word of a lane into the operand registers of one mma: q - z for rows r (out 0, 2) and r + 8 (out 1, 3).
// zero_lo and zero_hi are magic + z in both halves, so the differences are exact.
template <class T>
__device__ __forceinline__ void unpack_word(uint32_t word, uint32_t zero_lo, uint32_t zero_hi, uint32_t (&out)[4]) {
  constexpr uint32_t magic = Num<T>::kMagic;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    uint32_t v;  // (word >> 4i) & 0x000f000f | magic
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(v) : "r"(word >> (4 * i)), "r"(0x000f000fu), "r"(magic));
    out[i] = sub2<T>(v, i & 1 ? zero_hi : zero_lo);
  }
}

template <class T>
__device__ __forceinline__ uint32_t zero_pair(uint32_t param) {
  const uint32_t z = param >> 16;
  return Num<T>::kMagic + (z | (z << 16));
}
__device__ __forceinline__ float scale_of(uint32_t param) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(param & 0xffffu)));
}
#endif

}  // namespace deploykit::cuda
