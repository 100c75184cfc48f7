// What the kernels of 8-bit weights share: packed words unpacked into operands, the end of a row, and what is behind
// the door.
#pragma once

#include "cuda/kernels/linear.cuh"

namespace deploykit::cuda {

// The tiers of w8_matmul.
bool w8_gemv_fits(int32_t m, int64_t k);  // at most 8 tokens that stay in shared memory
void w8_gemv(DType dtype, const LinearArgs& a, const W8Weight& w, cudaStream_t stream);
void w8_mma(DType dtype, const LinearArgs& a, const W8Weight& w, cudaStream_t stream);
template <class T>
void w8_wgmma(int tokens, const LinearArgs& a, const W8Weight& w, cudaStream_t stream);

#ifdef __CUDACC__
// A word's bytes 0 and 2 (row r) and 1 and 3 (row r + 8) as pairs of T, exact.
template <class T>
__device__ __forceinline__ void w8_unpack(uint32_t word, uint32_t& lo, uint32_t& hi);
template <>
__device__ __forceinline__ void w8_unpack<__half>(uint32_t word, uint32_t& lo, uint32_t& hi) {
  // 1024 + (q + 128), less 1152.
  lo = sub2<__half>((word & 0x00ff00ffu) ^ 0x64806480u, 0x64806480u);
  hi = sub2<__half>((word >> 8 & 0x00ff00ffu) ^ 0x64806480u, 0x64806480u);
}
template <>
__device__ __forceinline__ void w8_unpack<__nv_bfloat16>(uint32_t word, uint32_t& lo, uint32_t& hi) {
  // 128 + the low seven bits, less 128 or, where the sign is set, 256.
  const auto pair = [](uint32_t v) {
    return sub2<__nv_bfloat16>((v & 0x007f007fu) | 0x43004300u, (v & 0x00800080u) | 0x43004300u);
  };
  lo = pair(word);
  hi = pair(word >> 8);
}
// Two words are the first operand of mma.m16n8k16.
template <class T>
__device__ __forceinline__ void w8_operand(uint32_t word0, uint32_t word1, uint32_t (&out)[4]) {
  w8_unpack<T>(word0, out[0], out[1]);
  w8_unpack<T>(word1, out[2], out[3]);
}

// Four 8 x 8 matrices of 16-bit numbers; lane i names row i % 8 of matrix i / 8.
__device__ __forceinline__ void w8_load_matrices(uint32_t address, uint32_t (&v)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
               : "r"(address)
               : "memory");
}

// What a lane needs at the end of rows `row` and `row + 8`.
struct W8Rows {
  float scale_lo = 0.0f, scale_hi = 0.0f, bias_lo = 0.0f, bias_hi = 0.0f;
  template <class T>
  __device__ __forceinline__ void load(const LinearArgs& a, const float* scales, int64_t row) {
    scale_lo = scales[row], scale_hi = scales[row + 8];
    if (a.bias != nullptr) {
      bias_lo = Num<T>::to_float(static_cast<const T*>(a.bias)[row]);
      bias_hi = Num<T>::to_float(static_cast<const T*>(a.bias)[row + 8]);
    }
  }
};

// Rows `row` and `row + 8` of 2 * kPairs tokens: sums 4i .. 4i + 3 are those of tokens first + 8i + {0, 1}, of row,
// then of row + 8.
template <class T, int kPairs, int kSums>
__device__ __forceinline__ void w8_finish(const LinearArgs& a, const W8Rows& rows, int64_t row, int64_t first,
                                          const float (&sums)[kSums]) {
  static_assert(kSums == 4 * kPairs, "two tokens and two rows");
  const auto lo = [&](int i) { return fmaf(rows.scale_lo, sums[i / 2 * 4 + i % 2], rows.bias_lo); };
  const auto hi = [&](int i) { return fmaf(rows.scale_hi, sums[i / 2 * 4 + 2 + i % 2], rows.bias_hi); };
  const auto token_of = [&](int i) { return first + i / 2 * 8 + i % 2; };
  if (a.y_f32) {
    float* y = static_cast<float*>(a.y) + row;
#pragma unroll
    for (int i = 0; i < 2 * kPairs; ++i) {
      if (token_of(i) >= a.m) continue;
      y[token_of(i) * a.y_stride] = lo(i);
      y[token_of(i) * a.y_stride + 8] = hi(i);
    }
    return;
  }
  T* y = static_cast<T*>(a.y) + row;
  if (a.epilogue == Epilogue::residual) {
    const T* residual = static_cast<const T*>(a.residual) + row;
#pragma unroll
    for (int i = 0; i < 2 * kPairs; ++i) {
      if (token_of(i) >= a.m) continue;
      const T* from = residual + token_of(i) * a.residual_stride;
      const float add_lo = Num<T>::to_float(from[0]), add_hi = Num<T>::to_float(from[8]);
      y[token_of(i) * a.y_stride] = Num<T>::from_float(fmaf(a.residual_scale, lo(i), add_lo));
      y[token_of(i) * a.y_stride + 8] = Num<T>::from_float(fmaf(a.residual_scale, hi(i), add_hi));
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < 2 * kPairs; ++i) {
    if (token_of(i) >= a.m) continue;
    y[token_of(i) * a.y_stride] = Num<T>::from_float(lo(i));
    y[token_of(i) * a.y_stride + 8] = Num<T>::from_float(hi(i));
  }
}
#endif

}  // namespace deploykit::cuda
