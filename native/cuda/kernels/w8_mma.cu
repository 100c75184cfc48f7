// 8-bit weights times any number of tokens on mma.sync, for devices without wgmma.
//
// A warp owns 32 rows of W and takes their words straight from memory into registers, two chunks of 64 inputs ahead;
// the block's tokens, at most 64, stream through shared memory. A word is unpacked once for all of them.
#include "cuda/kernels/w8.cuh"

namespace deploykit::cuda {
namespace {

constexpr int kWarps = 8, kThreads = kWarps * 32, kRows = kWarps * 32;
constexpr int kStages = 4;
constexpr int kTokenBytes = 64 * 2 + 16;  // a token's inputs of a stage; the pad spreads eight tokens over the banks

// kTiles: of 8 tokens.
template <class T, int kTiles>
__global__ void __launch_bounds__(kThreads)
    w8_mma_kernel(const LinearArgs a, const char* __restrict__ data, const float* __restrict__ scales) {
  constexpr int kTokens = kTiles * 8, kStageBytes = kTokens * kTokenBytes;
  __shared__ __align__(16) char stages[kStages * kStageBytes];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int chunks = static_cast<int>(a.k / 64);
  const int64_t tiles = a.n / 16, tile0 = static_cast<int64_t>(blockIdx.y) * (kRows / 16) + warp * 2;
  const int64_t token0 = static_cast<int64_t>(blockIdx.x) * kTokens;
  const char* from[2];  // tiles beyond the last repeat it
#pragma unroll
  for (int i = 0; i < 2; ++i) from[i] = data + min(tile0 + i, tiles - 1) * a.k * 16 + lane * 16;

  uint4 q[2][2][2];  // [slot][tile][half of a chunk]
  const auto fetch = [&](int slot, int chunk) {
#pragma unroll
    for (int i = 0; i < 4; ++i) q[slot][i / 2][i % 2] = load_stream16(from[i / 2] + chunk * 1024 + i % 2 * 512);
  };
  const auto copy_tokens = [&](int chunk) {
    if (chunk < chunks) {
      char* stage = stages + chunk % kStages * kStageBytes;
#pragma unroll
      for (int i = 0; i < (kTokens * 8 + kThreads - 1) / kThreads; ++i) {
        const int item = threadIdx.x + i * kThreads, token = item / 8, unit = item % 8;
        if (token >= kTokens) break;
        const bool ok = token0 + token < a.m;
        const T* x = static_cast<const T*>(a.x) + (ok ? (token0 + token) * a.x_stride + chunk * 64 + unit * 8 : 0);
        copy_async16(stage + token * kTokenBytes + unit * 16, x, ok);
      }
    }
    copy_commit();
  };

  fetch(0, 0);
  if (chunks > 1) fetch(1, 1);
  wait_prior_grid();
  allow_next_grid();
#pragma unroll
  for (int i = 0; i < kStages - 1; ++i) copy_tokens(i);

  float sums[2][kTiles * 4] = {};
  const uint32_t operand = shared_address(stages) + lane % 8 * kTokenBytes + lane / 8 * 16;
  const auto step = [&](int slot, int chunk) {
    copy_wait<kStages - 2>();
    __syncthreads();  // the stage is there, and the one before is read
    copy_tokens(chunk + kStages - 1);
    const uint32_t at = operand + chunk % kStages * kStageBytes;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t w[2][2][4];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        w8_operand<T>(q[slot][i][half].x, q[slot][i][half].y, w[i][0]);
        w8_operand<T>(q[slot][i][half].z, q[slot][i][half].w, w[i][1]);
      }
      if (half == 1 && chunk + 2 < chunks) fetch(slot, chunk + 2);
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        uint32_t b[4];
        w8_load_matrices(at + tile * 8 * kTokenBytes + half * 64, b);
#pragma unroll
        for (int s = 0; s < 2; ++s) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            float(&d)[4] = *reinterpret_cast<float(*)[4]>(&sums[i][tile * 4]);
            mma<T>(d, w[i][s][0], w[i][s][1], w[i][s][2], w[i][s][3], b[2 * s], b[2 * s + 1]);
          }
        }
      }
    }
  };
  for (int chunk = 0; chunk < chunks; chunk += 2) {
    step(0, chunk);
    if (chunk + 1 < chunks) step(1, chunk + 1);
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (tile0 + i >= tiles) break;
    const int64_t row = (tile0 + i) * 16 + lane / 4;
    W8Rows rows;
    rows.load<T>(a, scales, row);
    w8_finish<T, kTiles>(a, rows, row, token0 + lane % 4 * 2, sums[i]);
  }
}

template <class T, int kTiles>
void run(const LinearArgs& a, const W8Weight& w, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(ceil_div(a.m, kTiles * 8)), static_cast<unsigned>(ceil_div(a.n, kRows)));
  require(ceil_div(a.n, kRows) <= 65535, "w8_mma", "n <= 16,776,960");
  launch("w8_mma", w8_mma_kernel<T, kTiles>, grid, dim3(kThreads), 0, stream, a, static_cast<const char*>(w.data),
         static_cast<const float*>(w.scales));
}

template <class T>
void pick(const LinearArgs& a, const W8Weight& w, cudaStream_t stream) {
  if (a.m <= 16) return run<T, 2>(a, w, stream);
  if (a.m <= 32) return run<T, 4>(a, w, stream);
  run<T, 8>(a, w, stream);
}

}  // namespace

void w8_mma(DType dtype, const LinearArgs& a, const W8Weight& w, cudaStream_t stream) {
  if (dtype == DType::f16) return pick<__half>(a, w, stream);
  pick<__nv_bfloat16>(a, w, stream);
}

}  // namespace deploykit::cuda
