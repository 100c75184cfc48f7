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

// A quad's 4 x 4 words transposed: lane t of the quad gives word s to lane s, and ends with the quad's words t in the
// order of the lanes. Whole warps. After it lane t holds 16 neighbouring inputs: word s has 2s, 2s + 1, 2s + 8, 2s + 9.
__device__ __forceinline__ void exchange_words(uint32_t (&words)[4], int t) {
#pragma unroll
  for (int step = 1; step <= 2; step *= 2) {
    const bool upper = t & step;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      uint32_t& low = words[step == 1 ? 2 * i : i];
      uint32_t& high = words[step == 1 ? 2 * i + 1 : i + 2];
      const uint32_t other = __shfl_xor_sync(0xffffffffu, upper ? low : high, step);
      low = upper ? other : low;
      high = upper ? high : other;
    }
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
