// The end of the 4-bit wgmma kernels: a tile's float32 sums, through shared memory as [token][row], into y.
#pragma once

#include "cuda/kernels/gemm16_finish.cuh"

namespace deploykit::cuda {

// A warpgroup's staging: 32 tokens of 68 floats (64 rows; four more keep lanes in different banks).
constexpr int kFinishTokens = 32, kFinishPitch = 68;
// The same for 16-bit outputs of 64 * kBlocks rows: bytes of a token.
template <int kBlocks>
constexpr int kFinishRowBytes16 = kBlocks * 128 + 16;

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

// A warpgroup's 64 * kBlocks rows from `row0` on (wgmma's accumulators), of the tokens from token0 on of which `here` exist:
// bias, gate with silu or residual, rounding, and through shared memory to y. `group`: the warpgroup's number, for its
// barrier. `staging`: kRound tokens of kFinishRowBytes16<kBlocks>.
template <class T, int kTokens, int kBlocks, int kRound = kFinishTokens>
__device__ __forceinline__ void finish_16bit(const LinearArgs& a, float (&d)[kBlocks][kTokens / 2], char* staging,
                                             int64_t row0, int64_t token0, int here, int group) {
  constexpr int kRounds = kTokens / kRound, kTiles = kRound / 8, kPitch = kFinishRowBytes16<kBlocks>;
  constexpr int kItems = kRound * kBlocks * 8 / 128;  // of 8 outputs, of a thread and round
  const bool gated = a.epilogue == Epilogue::gated, adds = a.epilogue == Epilogue::residual;
  const int thread = threadIdx.x % 128, warp = thread / 32, lane = threadIdx.x % 32, r = lane / 4;
  if (a.bias != nullptr) {
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      const int64_t row = row0 + b * 64 + warp * 16 + r;
      if (row >= a.n) continue;
      const T* at = static_cast<const T*>(a.bias) + row;
      const float bias[2] = {Num<T>::to_float(at[0]), Num<T>::to_float(at[8])};
#pragma unroll
      for (int i = 0; i < kTokens / 2; ++i) d[b][i] += bias[i / 2 % 2];
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
  uint4 residual[kItems] = {};
  const auto fetch = [&](int first) {  // the residual of a round, the tokens from `first` on
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const int item = i * 128 + thread, token = first + item / (kBlocks * 8), piece = item % (kBlocks * 8);
      if (token < here && row0 + piece * 8 < a.n) {
        residual[i] =
            load16(static_cast<const T*>(a.residual) + (token0 + token) * a.residual_stride + row0 + piece * 8);
      }
    }
  };
  if (adds) fetch(0);
#pragma unroll 1
  for (int round = 0; round < kRounds; ++round) {
    if (round * kRound >= here) break;
    if (adds) {
#pragma unroll
      for (int i = 0; i < kItems; ++i) {
        const int item = i * 128 + thread;
        *reinterpret_cast<uint4*>(staging + item / (kBlocks * 8) * kPitch + item % (kBlocks * 8) * 16) = residual[i];
      }
      fetch((round + 1) * kRound);
      named_barrier(1 + group, 128);
    }
#pragma unroll
    for (int n = 0; n < kRounds; ++n) {  // registers have no run-time index
      if (n != round) continue;
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
        const auto value = [&](int tile, int i) { return d[b][(n * kTiles + tile) * 4 + i]; };
        if (gated) {
#pragma unroll
          for (int first = 0; first < kTiles; first += 4) {
            uint32_t v[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              v[i] = Num<T>::pack(silu_fast(value(first + i, 0)) * value(first + i, 2),
                                  silu_fast(value(first + i, 1)) * value(first + i, 3));
            }
            store_matrices4(gated_at + first * 8 * kPitch + b * 64, v[0], v[1], v[2], v[3]);
          }
        } else {
#pragma unroll
          for (int tile = 0; tile < kTiles; tile += 2) {
            const uint32_t at = plain_at + tile * 8 * kPitch + b * 128;
            uint32_t v[4];
            if (adds) {
              load_matrices4(at, v);
#pragma unroll
              for (int i = 0; i < 4; ++i) {
                const float2 to = Num<T>::to_float2(v[i]);
                v[i] = Num<T>::pack(fmaf(a.residual_scale, value(tile + i / 2, i % 2 * 2), to.x),
                                    fmaf(a.residual_scale, value(tile + i / 2, i % 2 * 2 + 1), to.y));
              }
              __syncwarp();
            } else {
#pragma unroll
              for (int i = 0; i < 4; ++i) {
                v[i] = Num<T>::pack(value(tile + i / 2, i % 2 * 2), value(tile + i / 2, i % 2 * 2 + 1));
              }
            }
            store_matrices4(at, v[0], v[1], v[2], v[3]);
          }
        }
      }
    }
    named_barrier(1 + group, 128);
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      if (gated && i >= kItems / 2) break;
      const int item = i * 128 + thread, token = item / pieces, piece = item % pieces;
      if (round * kRound + token < here && row0 + piece * width < a.n) {
        const uint4 v = *reinterpret_cast<const uint4*>(staging + token * kPitch + piece * 16);
        *reinterpret_cast<uint4*>(y + (round * kRound + token) * a.y_stride + piece * 8) = v;
      }
    }
    named_barrier(1 + group, 128);
  }
}

// The same for float32 outputs and the other activations, in float32. No residual.
template <class T, int kTokens, int kBlocks>
__device__ __forceinline__ void finish_float(const LinearArgs& a, const float (&d)[kBlocks][kTokens / 2], float* sums,
                                             int64_t row0, int64_t token0, int here, int group) {
  constexpr int kRounds = kTokens / kFinishTokens;
  const bool gated = a.epilogue == Epilogue::gated;
  const int thread = threadIdx.x % 128, warp = thread / 32, lane = threadIdx.x % 32;
  const int width = gated ? 16 : 8;  // rows of a thread's piece
  const int token = thread / (64 / width), column = thread % (64 / width) * width;
#pragma unroll 1
  for (int round = 0; round < kBlocks * kRounds; ++round) {
#pragma unroll
    for (int i = 0; i < kBlocks * kRounds; ++i) {  // registers have no run-time index
      if (i == round) {
        lay_out<kFinishTokens / 8>(sums, kFinishPitch, d[i / kRounds], i % kRounds * kFinishTokens, warp, lane);
      }
    }
    named_barrier(1 + group, 128);
    const int64_t row = row0 + round / kRounds * 64 + column;
#pragma unroll
    for (int i = 0; i < 2; ++i) {  // a thread finishes one piece of a round, or two pieces 16 tokens apart
      const int within = round % kRounds * kFinishTokens + token + 16 * i;
      if ((gated && i == 1) || within >= here || row >= a.n) continue;
      float v[8];
      const float* from = sums + (token + 16 * i) * kFinishPitch + column;
      read_eight(v, from);
      if (gated) {
        float up[8];
        read_eight(up, from + 8);
        finish_gated<T>(a, row, token0 + within, v, up);
      } else {
        finish_eight<T>(a, row, token0 + within, v, false, {});
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
