// 8-bit weights times at most 8 tokens, on the tensor cores so that 8 tokens cost what one does.
//
// The scheme of gemv16 with blocks that stay: the tokens are staged in shared memory once, and a block does one tile of
// 16 rows after another, its warps taking chunks of 32 inputs in turn. A warp's loads run ahead into the next tile
// while the warps' sums of this one meet in shared memory.
#include "cuda/kernels/w8.cuh"

namespace deploykit::cuda {
namespace {

constexpr int kTokenPad = 16;  // bytes after a token: eight tokens' units of 16 bytes are in all banks

// kDepth: chunks of 512 bytes in flight a warp.
template <class T, int kWarps, int kDepth, int kBlocks>
__global__ void __launch_bounds__(kWarps * 32, kBlocks)
    w8_gemv_kernel(const LinearArgs a, const char* __restrict__ data, const float* __restrict__ scales) {
  extern __shared__ __align__(16) char tokens[];
  __shared__ float4 part[2][kWarps][32];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int chunks = static_cast<int>(a.k / 32), tiles = static_cast<int>(a.n / 16);
  const int64_t tile_bytes = a.k * 16;
  const char* here = data + static_cast<int64_t>(blockIdx.x) * tile_bytes + lane * 16;

  uint4 q[kDepth];
#pragma unroll
  for (int i = 0; i < kDepth; ++i) {
    const int c = warp + i * kWarps;
    if (c < chunks) q[i] = load_stream16(here + c * 512);
  }
  wait_prior_grid();
  allow_next_grid();
  const int stride = static_cast<int>(a.k) * 2 + kTokenPad;
  stage_tokens<T, false, kWarps * 32>(a, tokens, stride, 0, static_cast<int>(a.k), nullptr);
  __syncthreads();

  const uint32_t operand = shared_address(tokens) + min(lane % 8, a.m - 1) * stride + lane / 8 * 16;
  int turn = 0;
  for (int tile = static_cast<int>(blockIdx.x); tile < tiles; tile += static_cast<int>(gridDim.x)) {
    const bool more = tile + static_cast<int>(gridDim.x) < tiles;
    const char* there = here + gridDim.x * tile_bytes;
    float d[2][4] = {};
    for (int base = warp; base < chunks; base += kDepth * kWarps) {
#pragma unroll
      for (int i = 0; i < kDepth; ++i) {
        const int c = base + i * kWarps;
        if (c >= chunks) break;
        uint32_t b[4], w[2][4];
        w8_load_matrices(operand + c * 64, b);
        w8_operand<T>(q[i].x, q[i].y, w[0]);
        w8_operand<T>(q[i].z, q[i].w, w[1]);
        const int next = c + kDepth * kWarps, first = warp + i * kWarps;
        if (next < chunks) {
          q[i] = load_stream16(here + next * 512);
        } else if (more) {
          q[i] = load_stream16(there + first * 512);
        }
        mma<T>(d[0], w[0][0], w[0][1], w[0][2], w[0][3], b[0], b[1]);
        mma<T>(d[1], w[1][0], w[1][1], w[1][2], w[1][3], b[2], b[3]);
      }
    }
    const int buffer = turn % 2, last = turn % kWarps;
    part[buffer][warp][lane] = make_float4(d[0][0] + d[1][0], d[0][1] + d[1][1], d[0][2] + d[1][2], d[0][3] + d[1][3]);
    __syncthreads();
    if (warp == last) {
      const int64_t row = static_cast<int64_t>(tile) * 16 + lane / 4;
      W8Rows rows;
      rows.load<T>(a, scales, row);
      float sum[4] = {};
#pragma unroll
      for (int i = 0; i < kWarps; ++i) {
        const float4 v = part[buffer][i][lane];
        sum[0] += v.x, sum[1] += v.y, sum[2] += v.z, sum[3] += v.w;
      }
      w8_finish<T, 1>(a, rows, row, lane % 4 * 2, sum);
    }
    ++turn;
    here = there;
  }
}

size_t token_bytes(int32_t m, int64_t k) { return static_cast<size_t>(m) * static_cast<size_t>(k * 2 + kTokenPad); }

template <class T>
void run(const LinearArgs& a, const W8Weight& w, cudaStream_t stream) {
  constexpr int kWarps = 16, kDepth = 4, kBlocks = 2;
  const auto kernel = w8_gemv_kernel<T, kWarps, kDepth, kBlocks>;
  const size_t shared = token_bytes(a.m, a.k);
  allow_shared("w8_gemv", kernel, shared);
  const int64_t tiles = a.n / 16, most = static_cast<int64_t>(multiprocessors()) * kBlocks;
  launch("w8_gemv", kernel, dim3(static_cast<unsigned>(tiles < most ? tiles : most)), dim3(kWarps * 32), shared, stream,
         a, static_cast<const char*>(w.data), static_cast<const float*>(w.scales));
}

}  // namespace

bool w8_gemv_fits(int32_t m, int64_t k) {
  // With the sums, within 64 KiB on Turing and 99 KiB on the others.
  return m <= 8 && token_bytes(m, k) <= static_cast<size_t>(generation() < 80 ? 47 : 82) * 1024;
}

void w8_gemv(DType dtype, const LinearArgs& a, const W8Weight& w, cudaStream_t stream) {
  require(w8_gemv_fits(a.m, a.k), "w8_gemv", "at most 8 tokens that fit shared memory");
  if (dtype == DType::f16) return run<__half>(a, w, stream);
  run<__nv_bfloat16>(a, w, stream);
}

}  // namespace deploykit::cuda
