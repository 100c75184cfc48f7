// The end of a gemm16 tile: sums of a warpgroup's 64 rows become outputs, through shared memory so that the matrix is
// read and written in 16-byte pieces of a token.
#pragma once

#include "cuda/kernels/gemm16.cuh"
#include "cuda/kernels/pipeline.cuh"

namespace deploykit::cuda {

#ifdef __CUDACC__
// Bytes of a token's outputs of kWarps warps; the pad spreads 8 tokens over all banks.
template <int kWarps>
constexpr int kFinishRowBytes = kWarps * 32 + 16;

__device__ __forceinline__ void store_matrices4(uint32_t address, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(a), "r"(b),
               "r"(c), "r"(d)
               : "memory");
}
__device__ __forceinline__ void store_matrices2(uint32_t address, uint32_t a, uint32_t b) {
  asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(address), "r"(a), "r"(b)
               : "memory");
}
__device__ __forceinline__ void load_matrices4(uint32_t address, uint32_t (&v)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
               : "r"(address)
               : "memory");
}

// SiLU in the few instructions that a tile's end has time for.
__device__ __forceinline__ float silu_fast(float x) {
  float inverse;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(1.0f + exp2_fast(x * -1.44269504f)));
  return x * inverse;
}

// The residual of kChunk tokens and the rows of kWarps warps, a chunk ahead of its use.
template <class T, int kChunk, int kWarps>
struct ResidualAhead {
  static constexpr int kThreads = kWarps * 32, kPieces = kWarps * 2;  // pieces of 16 bytes a token
  static constexpr int kEach = kChunk * kPieces / kThreads;
  uint4 v[kEach];

  __device__ __forceinline__ void load(const LinearArgs& a, int64_t row0, int first) {
    if (a.epilogue != Epilogue::residual) return;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int at = threadIdx.x % kThreads + i * kThreads, token = first + at / kPieces;
      const int64_t column = row0 + at % kPieces * 8;
      v[i] = make_uint4(0, 0, 0, 0);
      if (token < a.m && column < a.n) {
        v[i] = load16(static_cast<const T*>(a.residual) + token * a.residual_stride + column);
      }
    }
  }
  __device__ __forceinline__ void store(char* scratch) const {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int at = threadIdx.x % kThreads + i * kThreads;
      *reinterpret_cast<uint4*>(scratch + at / kPieces * kFinishRowBytes<kWarps> + at % kPieces * 16) = v[i];
    }
  }
};

// Rows row0 .. row0 + 16 * kWarps - 1 and tokens token0 .. of the sums of kWarps (2 or 4) neighbouring warps
// (wgmma's order), the first warp's number a multiple of kWarps. `scratch`: kChunk * kFinishRowBytes<kWarps> of
// shared memory of theirs; `barrier`: a named barrier of theirs; `residual`: that of the first kChunk tokens.
template <class T, int kTokens, int kChunk, int kWarps>
__device__ __forceinline__ void finish_tile(const LinearArgs& a, float (&d)[kTokens / 2], int64_t row0, int token0,
                                            char* scratch, int barrier, ResidualAhead<T, kChunk, kWarps>& residual) {
  constexpr int kThreads = kWarps * 32, kRowBytes = kFinishRowBytes<kWarps>, kLogPieces = kWarps == 4 ? 3 : 2;
  const int thread = threadIdx.x % kThreads, warp = thread / 32, lane = thread % 32, r = lane / 4, t = lane % 4;
  if (row0 >= a.n) return;
  const int64_t row = row0 + warp * 16 + r;
  float bias_lo = 0.0f, bias_hi = 0.0f;
  if (a.bias != nullptr && row < a.n) {
    bias_lo = Num<T>::to_float(static_cast<const T*>(a.bias)[row]);
    bias_hi = Num<T>::to_float(static_cast<const T*>(a.bias)[row + 8]);
  }
  if (a.y_f32) {
    if (row >= a.n) return;
#pragma unroll
    for (int j = 0; j < kTokens / 8; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int token = token0 + 8 * j + 2 * t + e;
        if (token >= a.m) continue;
        float* y = static_cast<float*>(a.y) + token * a.y_stride + row;
        y[0] = d[4 * j + e] + bias_lo;
        y[8] = d[4 * j + 2 + e] + bias_hi;
      }
    }
    return;
  }
  const bool gated = a.epilogue == Epilogue::gated, adds = a.epilogue == Epilogue::residual;
  const int64_t out0 = gated ? row0 / 2 : row0, outputs = gated ? a.n / 2 : a.n;
  const int log_pieces = gated ? kLogPieces - 1 : kLogPieces;  // of 16 bytes a token
  const uint32_t shared = shared_address(scratch);
  // Where a lane's matrix row lies: token (lane / 16) * 8 + lane % 8 of 16, half (lane / 8) % 2 of the warp's 16 rows.
  const uint32_t at = shared + ((lane / 16) * 8 + lane % 8) * kRowBytes + (warp * 2 + lane / 8 % 2) * 16;
  const uint32_t gated_at = shared + (lane % 16) * kRowBytes + warp * 16;

#pragma unroll
  for (int c = 0; c < kTokens / kChunk; ++c) {
    const int first = token0 + c * kChunk;
    if (first >= a.m) break;
    if (c > 0) named_barrier(barrier, kThreads);  // the last chunk has been written out
    if (adds) {
      residual.store(scratch);
      if (c + 1 < kTokens / kChunk) residual.load(a, row0, first + kChunk);
      named_barrier(barrier, kThreads);
    }
    float* sums = d + c * (kChunk / 2);
#pragma unroll
    for (int i = 0; i < kChunk / 2; ++i) sums[i] += i % 4 < 2 ? bias_lo : bias_hi;
    if (gated) {
      if (a.activation == Activation::silu) {
#pragma unroll
        for (int i = 0; i < kChunk / 2; i += 4) {
          sums[i] = silu_fast(sums[i]) * sums[i + 2];
          sums[i + 1] = silu_fast(sums[i + 1]) * sums[i + 3];
        }
      } else {  // a short loop over memory: the other activations would fill the instruction cache
        float* own = reinterpret_cast<float*>(scratch) + thread;
#pragma unroll
        for (int i = 0; i < kChunk / 4; ++i) own[i * kThreads] = sums[i / 2 * 4 + i % 2];
#pragma unroll 1
        for (int i = 0; i < kChunk / 4; ++i) own[i * kThreads] = activation(a.activation, own[i * kThreads]);
#pragma unroll
        for (int i = 0; i < kChunk / 4; ++i) sums[i / 2 * 4 + i % 2] = own[i * kThreads] * sums[i / 2 * 4 + 2 + i % 2];
        named_barrier(barrier, kThreads);
      }
#pragma unroll
      for (int j = 0; j < kChunk / 16; ++j) {
        store_matrices2(gated_at + j * 16 * kRowBytes, Num<T>::pack(sums[8 * j], sums[8 * j + 1]),
                        Num<T>::pack(sums[8 * j + 4], sums[8 * j + 5]));
      }
    } else {
#pragma unroll
      for (int j = 0; j < kChunk / 16; ++j) {
        float* v = sums + 8 * j;
        if (adds) {
          uint32_t add[4];
          load_matrices4(at + j * 16 * kRowBytes, add);
          __syncwarp();
#pragma unroll
          for (int q = 0; q < 4; ++q) {
            const float2 both = Num<T>::to_float2(add[q]);
            v[2 * q] = fmaf(a.residual_scale, v[2 * q], both.x);
            v[2 * q + 1] = fmaf(a.residual_scale, v[2 * q + 1], both.y);
          }
        }
        store_matrices4(at + j * 16 * kRowBytes, Num<T>::pack(v[0], v[1]), Num<T>::pack(v[2], v[3]),
                        Num<T>::pack(v[4], v[5]), Num<T>::pack(v[6], v[7]));
      }
    }
    named_barrier(barrier, kThreads);
    for (int i = thread; i < kChunk << log_pieces; i += kThreads) {
      const int token = i >> log_pieces, piece = i - (token << log_pieces);
      const int64_t column = out0 + piece * 8;
      if (first + token < a.m && column < outputs) {
        *reinterpret_cast<uint4*>(static_cast<T*>(a.y) + (first + token) * a.y_stride + column) =
            *reinterpret_cast<const uint4*>(scratch + token * kRowBytes + piece * 16);
      }
    }
  }
  named_barrier(barrier, kThreads);
}
#endif

}  // namespace deploykit::cuda
