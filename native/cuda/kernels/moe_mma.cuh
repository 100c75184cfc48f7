// Grouped products on mma.sync, for every generation: 128 rows of one expert times a tile of 16 to 128 slots, stage by
// stage of 64 inputs through shared memory; rows of x are gathered by the copies' own addresses.
//
// Rows of W are the first operand, slots the second: packed 4-bit weights are that operand's registers already. A warp
// has 32 rows and all slots, or half of them.
#pragma once

#include "cuda/kernels/moe.cuh"
#include "cuda/kernels/w4.cuh"

namespace deploykit::cuda {
namespace {

constexpr int kMmaRows = 128, kMmaDepth = 64;

// Four 8 x 8 matrices; lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void load_matrices(uint32_t (&v)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
               : "r"(address)
               : "memory");
}

// What a stage holds of the weights, how it comes there, and the first operand of a k16 step of 16 rows.
template <class T>
struct MmaDense {
  static constexpr int kWeightBytes = kMmaRows * 128;
  template <int kThreads>
  struct Copies {
    static constexpr int kRound = kThreads / 8, kRounds = kMmaRows / kRound;
    const T* w;
    int rows_left, column;
    int64_t k;
    __device__ __forceinline__ void aim(const ExpertArgs& a, const ExpertUnit& u) {
      const int64_t row0 = static_cast<int64_t>(u.row_tile) * kMmaRows;
      const int row = threadIdx.x / 8;
      column = threadIdx.x % 8 * 8, k = a.k;
      rows_left = static_cast<int>(min(static_cast<int64_t>(kMmaRows), a.n - row0)) - row;
      w = reinterpret_cast<const T*>(a.weights + u.expert * a.weight_stride) + (row0 + row) * k + column;
    }
    __device__ __forceinline__ void copy(char* stage, int step) const {
      const int row = threadIdx.x / 8;
      char* to = stage + row * 128 + ((threadIdx.x % 8 ^ (row & 7)) << 4);
      const bool inside = step * kMmaDepth + column < k;
#pragma unroll
      for (int i = 0; i < kRounds; ++i) {
        const bool ok = inside && i * kRound < rows_left;
        copy_async16(to + i * kRound * 128, w + (ok ? i * kRound * k + step * kMmaDepth : -column), ok);
      }
    }
  };
  // `tile`: 16 rows of the block, `s`: 16 inputs of the stage.
  uint32_t base;
  __device__ __forceinline__ void open(const char* stage, int tile, int lane) {
    base = shared_address(stage) + (tile * 16 + lane % 16) * 128;
  }
  __device__ __forceinline__ void get(uint32_t (&out)[4], int s, int lane) const {
    load_matrices(out, base + (((2 * s + lane / 16) ^ (lane & 7)) << 4));
  }
};

// T(scale * (q - zero)), rounded once, as w4_dequantize does. A scale has 11 significant bits and bf16 holds 8: the rest
// is a number of its own, its product with q - zero exact.
template <class T>
__device__ __forceinline__ uint32_t scaled_pair(uint32_t v, uint32_t main, uint32_t rest);
template <>
__device__ __forceinline__ uint32_t scaled_pair<__half>(uint32_t v, uint32_t main, uint32_t) {
  return mul2<__half>(v, main);
}
template <>
__device__ __forceinline__ uint32_t scaled_pair<__nv_bfloat16>(uint32_t v, uint32_t main, uint32_t rest) {
#if __CUDA_ARCH__ >= 800
  const uint32_t small = mul2<__nv_bfloat16>(v, rest);
  const __nv_bfloat162 out =
      __hfma2(*reinterpret_cast<const __nv_bfloat162*>(&v), *reinterpret_cast<const __nv_bfloat162*>(&main),
              *reinterpret_cast<const __nv_bfloat162*>(&small));
  return *reinterpret_cast<const uint32_t*>(&out);
#else
  return v + main + rest;  // Turing has no bf16; mma traps there
#endif
}

template <class T, int kGroup>
struct MmaW4 {
  static constexpr int kParts = kGroup == 32 ? 2 : 1;  // groups in a stage
  static constexpr int kDataBytes = kMmaRows / 16 * 512, kParamBytes = kMmaRows / 16 * 64 * kParts;
  static constexpr int kWeightBytes = kDataBytes + kParamBytes;
  template <int kThreads>
  struct Copies {
    static constexpr int kRound = kThreads / 32, kRounds = kMmaRows / 16 / kRound;  // 16-row tiles
    static constexpr int kPieces = kParts * 4;
    const char *data, *params;
    int64_t tile_bytes, param_bytes;
    int tiles_left, param_tiles_left;
    __device__ __forceinline__ void aim(const ExpertArgs& a, const ExpertUnit& u) {
      const int64_t tile0 = static_cast<int64_t>(u.row_tile) * (kMmaRows / 16);
      const int tiles = static_cast<int>(min(static_cast<int64_t>(kMmaRows / 16), a.n / 16 - tile0));
      const int tile = threadIdx.x / 32, param_tile = threadIdx.x / kPieces;
      tile_bytes = a.k / 64 * 512, param_bytes = a.k / kGroup * 64;
      tiles_left = tiles - tile, param_tiles_left = tiles - param_tile;
      data = a.weights + u.expert * a.weight_stride + (tile0 + min(tile, tiles - 1)) * tile_bytes +
             threadIdx.x % 32 * 16;
      params = a.params + u.expert * a.param_stride + (tile0 + min(param_tile, tiles - 1)) * param_bytes +
               threadIdx.x % kPieces * 16;
    }
    __device__ __forceinline__ void copy(char* stage, int step) const {
      char* to = stage + threadIdx.x * 16;
#pragma unroll
      for (int i = 0; i < kRounds; ++i) {
        const bool ok = i * kRound < tiles_left;
        copy_async16(to + i * kThreads * 16, data + (ok ? i * kRound * tile_bytes + step * 512ll : 0), ok);
      }
      if (threadIdx.x < kMmaRows / 16 * kPieces) {
        const bool ok = param_tiles_left > 0;
        copy_async16(to + kDataBytes, params + (ok ? (kGroup == 128 ? step / 2 : step) * (kParts * 64ll) : 0), ok);
      }
    }
  };
  uint4 q;
  uint32_t zero_lo[kParts], zero_hi[kParts], main_lo[kParts], main_hi[kParts], rest_lo[kParts], rest_hi[kParts];
  __device__ __forceinline__ void open(const char* stage, int tile, int lane) {
    q = *reinterpret_cast<const uint4*>(stage + tile * 512 + lane * 16);
    const uint2* param = reinterpret_cast<const uint2*>(stage + kDataBytes) + tile * 8 * kParts + lane / 4;
#pragma unroll
    for (int i = 0; i < kParts; ++i) {
      const uint2 own = param[i * 8];
      zero_lo[i] = zero_pair<T>(own.x), zero_hi[i] = zero_pair<T>(own.y);
      split(own.x, main_lo[i], rest_lo[i]);
      split(own.y, main_hi[i], rest_hi[i]);
    }
  }
  __device__ __forceinline__ void get(uint32_t (&out)[4], int s, int) const {
    const int i = kParts == 2 ? s / 2 : 0;
    unpack_word<T>(s == 0 ? q.x : s == 1 ? q.y : s == 2 ? q.z : q.w, zero_lo[i], zero_hi[i], out);
    out[0] = scaled_pair<T>(out[0], main_lo[i], rest_lo[i]);
    out[1] = scaled_pair<T>(out[1], main_hi[i], rest_hi[i]);
    out[2] = scaled_pair<T>(out[2], main_lo[i], rest_lo[i]);
    out[3] = scaled_pair<T>(out[3], main_hi[i], rest_hi[i]);
  }

 private:
  static __device__ __forceinline__ void split(uint32_t param, uint32_t& main, uint32_t& rest) {
    if (sizeof(T) == 2 && Num<T>::kMagic == Num<__half>::kMagic) {
      main = __byte_perm(param, 0, 0x1010), rest = 0u;
      return;
    }
    const float scale = scale_of(param);
    main = Num<T>::pack(scale, scale);
    const float left = scale - __uint_as_float(main & 0xffff0000u);
    rest = Num<T>::pack(left, left);
  }
};

template <class W, int kTokenTiles, int kHalves>
struct MmaShape {
  static constexpr int kThreads = 128 * kHalves, kTokens = kTokenTiles * kHalves * 8;
  static constexpr int kStageBytes = W::kWeightBytes + kTokens * 128;
};

template <class T, class W, int kTokenTiles, int kHalves, int kStages, int kBlocks>
__global__ void __launch_bounds__(128 * kHalves, kBlocks) moe_mma_kernel(const ExpertArgs a) {
  using S = MmaShape<W, kTokenTiles, kHalves>;
  extern __shared__ __align__(128) char shared[];
  const int warp = threadIdx.x / 32 % 4, half = threadIdx.x / 128, lane = threadIdx.x % 32;
  if (!a.reads_routes_early) wait_prior_grid();
  const ExpertUnit u = expert_unit(a);
  if (u.count == 0) {
    if (a.reads_routes_early) wait_prior_grid();
    return;
  }
  typename W::template Copies<S::kThreads> weights;
  weights.aim(a, u);
  constexpr int kRound = S::kThreads / 8, kRounds = (S::kTokens + kRound - 1) / kRound;
  const T* x[kRounds];
  const int token = threadIdx.x / 8, column = threadIdx.x % 8 * 8;
#pragma unroll
  for (int i = 0; i < kRounds; ++i) {
    const int at = token + i * kRound;
    x[i] = expert_input<T>(a, u.first + min(at, u.count - 1)) + column;
  }
  const auto copy_tokens = [&](char* stage, int step) {
    char* to = stage + W::kWeightBytes + token * 128 + ((threadIdx.x % 8 ^ (token & 7)) << 4);
    const bool inside = step * kMmaDepth + column < a.k;
#pragma unroll
    for (int i = 0; i < kRounds; ++i) {
      if (token + i * kRound >= S::kTokens) break;
      const bool ok = inside && token + i * kRound < u.count;
      copy_async16(to + i * kRound * 128, x[i] + (ok ? step * kMmaDepth : -column), ok);
    }
  };
  const int steps = static_cast<int>((a.k + kMmaDepth - 1) / kMmaDepth);
  if (a.reads_routes_early) {
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s) {
      if (s < steps) weights.copy(shared + s * S::kStageBytes, s);
    }
    wait_prior_grid();
  }
  allow_next_grid();
#pragma unroll
  for (int s = 0; s < kStages - 1; ++s) {
    if (s < steps) {
      if (!a.reads_routes_early) weights.copy(shared + s * S::kStageBytes, s);
      copy_tokens(shared + s * S::kStageBytes, s);
    }
    copy_commit();
  }

  float sum[2][kTokenTiles][4] = {};
  int read = 0, write = kStages - 1;
  for (int step = 0; step < steps; ++step) {
    copy_wait<kStages - 2>();
    __syncthreads();
    if (step + kStages - 1 < steps) {
      weights.copy(shared + write * S::kStageBytes, step + kStages - 1);
      copy_tokens(shared + write * S::kStageBytes, step + kStages - 1);
    }
    copy_commit();
    const char* stage = shared + read * S::kStageBytes;
    W w[2];
    w[0].open(stage, warp * 2, lane);
    w[1].open(stage, warp * 2 + 1, lane);
    const uint32_t tokens =
        shared_address(stage + W::kWeightBytes) + (half * kTokenTiles * 8 + lane % 8 + lane / 16 * 8) * 128;
#pragma unroll
    for (int s = 0; s < kMmaDepth / 16; ++s) {
      uint32_t rows[2][4];
      w[0].get(rows[0], s, lane);
      w[1].get(rows[1], s, lane);
#pragma unroll
      for (int n = 0; n < kTokenTiles; n += 2) {
        uint32_t b[4];
        load_matrices(b, tokens + n * 1024 + (((2 * s + lane / 8 % 2) ^ (lane & 7)) << 4));
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          mma<T>(sum[i][n], rows[i][0], rows[i][1], rows[i][2], rows[i][3], b[0], b[1]);
          mma<T>(sum[i][n + 1], rows[i][0], rows[i][1], rows[i][2], rows[i][3], b[2], b[3]);
        }
      }
    }
    read = read + 1 == kStages ? 0 : read + 1;
    write = write + 1 == kStages ? 0 : write + 1;
  }
  copy_wait<0>();

  // A lane's sums are of rows r and r + 8 and two slots; turned, of two neighbouring rows and one slot.
  const int r = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int64_t row = static_cast<int64_t>(u.row_tile) * kMmaRows + warp * 32 + i * 16;
    if (row >= a.n) break;
    float bias_lo = 0.0f, bias_hi = 0.0f;
    if (a.bias != nullptr) {
      const T* bias = static_cast<const T*>(a.bias) + u.expert * a.n + row + r;
      bias_lo = Num<T>::to_float(bias[0]), bias_hi = Num<T>::to_float(bias[8]);
    }
    const bool gated = a.end == ExpertEnd::gated;
    T* y = static_cast<T*>(a.y) + (gated ? row / 2 : row) + 2 * t;
#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n) {
      float lo[2] = {sum[i][n][0] + bias_lo, sum[i][n][1] + bias_lo};
      float hi[2] = {sum[i][n][2] + bias_hi, sum[i][n][3] + bias_hi};
      const int slot = (half * kTokenTiles + n) * 8 + r;
      if (a.end != ExpertEnd::plain) lo[0] = activation(a.activation, lo[0]), lo[1] = activation(a.activation, lo[1]);
      if (gated) {
        const uint32_t v = transpose8(Num<T>::pack(lo[0] * hi[0], lo[1] * hi[1]));
        if (slot < u.count) *reinterpret_cast<uint32_t*>(y + (u.first + slot) * a.y_stride) = v;
        continue;
      }
      if (a.end == ExpertEnd::activated) hi[0] = activation(a.activation, hi[0]), hi[1] = activation(a.activation, hi[1]);
      const uint32_t v_lo = transpose8(Num<T>::pack(lo[0], lo[1])), v_hi = transpose8(Num<T>::pack(hi[0], hi[1]));
      if (slot < u.count) {
        T* to = y + (u.first + slot) * a.y_stride;
        *reinterpret_cast<uint32_t*>(to) = v_lo;
        *reinterpret_cast<uint32_t*>(to + 8) = v_hi;
      }
    }
  }
}

template <class T, class W, int kTokenTiles, int kHalves, int kStages, int kBlocks>
void run_moe_mma(ExpertArgs& a, cudaStream_t stream) {
  using S = MmaShape<W, kTokenTiles, kHalves>;
  constexpr int kShared = kStages * S::kStageBytes;
  static_assert(kShared <= 99 * 1024, "a block fits every generation from Ampere on");
  const auto kernel = moe_mma_kernel<T, W, kTokenTiles, kHalves, kStages, kBlocks>;
  allow_shared("moe", kernel, kShared);
  a.row_tiles = static_cast<int32_t>(ceil_div(a.n, kMmaRows));
  const int64_t blocks = static_cast<int64_t>(a.row_tiles) * a.tiles_bound;
  require(blocks <= INT32_MAX, "moe", "the tiles fit a launch");
  launch("moe", kernel, dim3(static_cast<unsigned>(blocks)), dim3(S::kThreads), kShared, stream, a);
}

// Turing has no copies that run by themselves, and 64 KiB of shared memory.
template <class T, class W, bool kPacked>
void pick_moe_mma(int32_t height, ExpertArgs& a, cudaStream_t stream) {
  if (generation() < 80) {
    if (height == 16) return run_moe_mma<T, W, 2, 1, 2, 2>(a, stream);
    if (height == 32) return run_moe_mma<T, W, 4, 1, 2, 2>(a, stream);
    if (height == 64) return run_moe_mma<T, W, 4, 2, 2, 1>(a, stream);
    return run_moe_mma<T, W, 8, 2, 2, 1>(a, stream);
  }
  if (height == 16) return run_moe_mma<T, W, 2, 1, kPacked ? 8 : 4, kPacked ? 4 : 3>(a, stream);
  if (height == 32) return run_moe_mma<T, W, 4, 1, kPacked ? 6 : 4, kPacked ? 4 : 2>(a, stream);
  if (height == 64) return run_moe_mma<T, W, 4, 2, kPacked ? 5 : 4, 2>(a, stream);
  run_moe_mma<T, W, 8, 2, kPacked ? 4 : 3, 2>(a, stream);
}

}  // namespace

template <class T>
void moe_mma_typed(int32_t group, int32_t height, ExpertArgs a, cudaStream_t stream) {
  if (group == 0) return pick_moe_mma<T, MmaDense<T>, false>(height, a, stream);
  if (group == 32) return pick_moe_mma<T, MmaW4<T, 32>, true>(height, a, stream);
  if (group == 64) return pick_moe_mma<T, MmaW4<T, 64>, true>(height, a, stream);
  pick_moe_mma<T, MmaW4<T, 128>, true>(height, a, stream);
}

}  // namespace deploykit::cuda
