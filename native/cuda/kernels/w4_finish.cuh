// The end of w4_wgmma_kernel.cuh: float32 sums of a tile, laid out [token][row] in shared memory, into y.
#pragma once

#include "cuda/kernels/linear.cuh"
#include "cuda/kernels/pipeline.cuh"

namespace deploykit::cuda {

// A warpgroup's staging: 32 tokens of 68 floats (64 rows; four more keep lanes in different banks).
constexpr int kFinishTokens = 32, kFinishPitch = 68;

#ifdef __CUDACC__
template <class T>
__device__ __forceinline__ void add_eight(float (&v)[8], uint4 q, float factor) {
  const uint32_t words[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 f = Num<T>::to_float2(words[i]);
    v[2 * i] = fmaf(factor, v[2 * i], f.x);
    v[2 * i + 1] = fmaf(factor, v[2 * i + 1], f.y);
  }
}
template <class T>
__device__ __forceinline__ void store_eight(T* to, const float (&v)[8]) {
  *reinterpret_cast<uint4*>(to) = make_uint4(Num<T>::pack(v[0], v[1]), Num<T>::pack(v[2], v[3]),
                                             Num<T>::pack(v[4], v[5]), Num<T>::pack(v[6], v[7]));
}

__device__ __forceinline__ void read_eight(float (&v)[8], const float* from) {
  const float4 a = reinterpret_cast<const float4*>(from)[0], b = reinterpret_cast<const float4*>(from)[1];
  v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}

// Rows [row, row + 8) of a token; `adds`: `residual` holds those of the residual.
template <class T>
__device__ __forceinline__ void finish_eight(const LinearArgs& a, int64_t row, int64_t token, float (&v)[8], bool adds,
                                             uint4 residual) {
  if (a.bias != nullptr) add_eight<T>(v, load16(static_cast<const T*>(a.bias) + row), 1.0f);
  if (a.y_f32) {
    float* y = static_cast<float*>(a.y) + token * a.y_stride + row;
    reinterpret_cast<float4*>(y)[0] = make_float4(v[0], v[1], v[2], v[3]);
    reinterpret_cast<float4*>(y)[1] = make_float4(v[4], v[5], v[6], v[7]);
    return;
  }
  if (adds) add_eight<T>(v, residual, a.residual_scale);
  store_eight(static_cast<T*>(a.y) + token * a.y_stride + row, v);
}
// Rows [row, row + 8) are gate, the next eight up; row % 16 == 0.
template <class T>
__device__ __forceinline__ void finish_gated(const LinearArgs& a, int64_t row, int64_t token, float (&gate)[8],
                                             float (&up)[8]) {
  if (a.bias != nullptr) {
    add_eight<T>(gate, load16(static_cast<const T*>(a.bias) + row), 1.0f);
    add_eight<T>(up, load16(static_cast<const T*>(a.bias) + row + 8), 1.0f);
  }
  if (a.activation == Activation::silu) {
#pragma unroll
    for (int i = 0; i < 8; ++i) gate[i] *= __fdividef(up[i], 1.0f + __expf(-gate[i]));
  } else {
#pragma unroll 1
    for (int i = 0; i < 8; ++i) {  // one copy of the code: the others are long
      const float y = activation(a.activation, gate[0]) * up[0];
#pragma unroll
      for (int j = 0; j < 7; ++j) gate[j] = gate[j + 1], up[j] = up[j + 1];
      gate[7] = y;
    }
  }
  store_eight(static_cast<T*>(a.y) + token * a.y_stride + row / 2, gate);
}

// A lane's share of wgmma's accumulators (64 rows, tokens first .. first + 8 * kCount) to sums[token - first][pitch].
template <int kCount, int kSums>
__device__ __forceinline__ void lay_out(float* sums, int pitch, const float (&d)[kSums], int first, int warp,
                                        int lane) {
  float* at = sums + 2 * (lane % 4) * pitch + warp * 16 + lane / 4;
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    at[0] = d[(first / 8 + j) * 4], at[pitch] = d[(first / 8 + j) * 4 + 1];
    at[8] = d[(first / 8 + j) * 4 + 2], at[pitch + 8] = d[(first / 8 + j) * 4 + 3];
    at += 8 * pitch;
  }
}

__device__ __forceinline__ void store_matrices(uint32_t address, const uint32_t (&v)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(v[0]), "r"(v[1]),
               "r"(v[2]), "r"(v[3])
               : "memory");
}

// A warpgroup's 64 * kBlocks rows from `row0` on (wgmma's accumulators), of the tokens from token0 on of which `here` exist:
// bias, gate with silu, rounding, and through shared memory to y. `group`: the warpgroup's number, for its barrier.
template <class T, int kTokens, int kBlocks>
__device__ __forceinline__ void finish_16bit(const LinearArgs& a, const float (&d)[kBlocks][kTokens / 2], float* staging,
                                             int64_t row0, int64_t token0, int here, int group) {
  constexpr int kRound = kFinishTokens, kRounds = kTokens / kRound, kPitch = kFinishPitch * 4;
  const bool gated = a.epilogue == Epilogue::gated;
  const int thread = threadIdx.x % 128, warp = thread / 32, lane = threadIdx.x % 32, r = lane / 4;
  float bias[kBlocks][2] = {};
  if (a.bias != nullptr) {
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      const int64_t row = row0 + b * 64 + warp * 16 + r;
      if (row < a.n) {
        bias[b][0] = Num<T>::to_float(static_cast<const T*>(a.bias)[row]);
        bias[b][1] = Num<T>::to_float(static_cast<const T*>(a.bias)[row + 8]);
      }
    }
  }
  // Matrix i of a store: gated, tokens 8i; else tokens 8 (i / 2), rows r or r + 8 by i % 2.
  const uint32_t base = shared_address(staging);
  const int matrix = lane / 8;
  const uint32_t plain_at = base + (matrix / 2 * 8 + lane % 8) * kPitch + warp * 32 + matrix % 2 * 16;
  const uint32_t gated_at = base + (matrix * 8 + lane % 8) * kPitch + warp * 16;
  const int pieces = gated ? kBlocks * 4 : kBlocks * 8;  // of 8 outputs, of a token
  const int64_t width = gated ? 16 : 8;
  T* y = static_cast<T*>(a.y) + token0 * a.y_stride + (gated ? row0 / 2 : row0);
#pragma unroll 1
  for (int round = 0; round < kRounds; ++round) {
    if (round * kRound >= here) break;
#pragma unroll
    for (int n = 0; n < kRounds; ++n) {  // registers have no run-time index
      if (n != round) continue;
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
        const auto value = [&](int tile, int i) { return d[b][(n * 4 + tile) * 4 + i] + bias[b][i / 2]; };
        if (gated) {
          uint32_t v[4];
#pragma unroll
          for (int tile = 0; tile < 4; ++tile) {
            const float g0 = value(tile, 0), g1 = value(tile, 1);
            v[tile] = Num<T>::pack(g0 * __fdividef(value(tile, 2), 1.0f + __expf(-g0)),
                                   g1 * __fdividef(value(tile, 3), 1.0f + __expf(-g1)));
          }
          store_matrices(gated_at + b * 64, v);
        } else {
#pragma unroll
          for (int tile = 0; tile < 4; tile += 2) {
            const uint32_t v[4] = {
                Num<T>::pack(value(tile, 0), value(tile, 1)), Num<T>::pack(value(tile, 2), value(tile, 3)),
                Num<T>::pack(value(tile + 1, 0), value(tile + 1, 1)), Num<T>::pack(value(tile + 1, 2), value(tile + 1, 3))};
            store_matrices(plain_at + tile * 8 * kPitch + b * 128, v);
          }
        }
      }
    }
    named_barrier(1 + group, 128);
#pragma unroll
    for (int i = 0; i < kRound * kBlocks * 8 / 128; ++i) {
      if (gated && i >= kRound * kBlocks * 4 / 128) break;
      const int item = i * 128 + thread, token = item / pieces, piece = item % pieces;
      if (round * kRound + token < here && row0 + piece * width < a.n) {
        const uint4 v = *reinterpret_cast<const uint4*>(reinterpret_cast<const char*>(staging) + token * kPitch + piece * 16);
        *reinterpret_cast<uint4*>(y + (round * kRound + token) * a.y_stride + piece * 8) = v;
      }
    }
    named_barrier(1 + group, 128);
  }
}

// Eight floats at `offset` of the same shared array of each of the cluster's blocks, added in the order of their ranks.
__device__ __forceinline__ void gather(float (&v)[8], const float* sums, int offset, int blocks) {
  const uint32_t here = shared_address(sums + offset);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float4 part[8];
#pragma unroll
    for (int rank = 0; rank < 8; ++rank) {
      if (rank < blocks) {
        asm volatile(
            "{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %4, %5;\n"
            "ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [there];\n}\n"
            : "=f"(part[rank].x), "=f"(part[rank].y), "=f"(part[rank].z), "=f"(part[rank].w)
            : "r"(here + half * 16), "r"(rank)
            : "memory");
      }
    }
    float4 sum = part[0];
#pragma unroll
    for (int rank = 1; rank < 8; ++rank) {
      if (rank < blocks) sum.x += part[rank].x, sum.y += part[rank].y, sum.z += part[rank].z, sum.w += part[rank].w;
    }
    v[half * 4] = sum.x, v[half * 4 + 1] = sum.y, v[half * 4 + 2] = sum.z, v[half * 4 + 3] = sum.w;
  }
}
#endif

}  // namespace deploykit::cuda
