// 16-bit weights times at most 8 tokens, on the tensor cores so that 8 tokens cost what one does.
//
// A block owns 16 rows of W over all of k; its warps take chunks of 32 inputs in turn. Weights are the 16 x 16 operand:
// the sum over k may be taken in any order, so a lane loads 8 consecutive inputs of its two rows with one 16-byte load
// each, and the tokens' operand is loaded the same way. Partial sums of the warps meet in shared memory.
#include "cuda/kernels/linear.cuh"

namespace deploykit::cuda {
namespace {

constexpr int kTokenPad = 64;  // bytes after a token's slab: two tokens' quads then read all banks
constexpr int kStagedMaxM = 4;

// kDepth: chunks in flight a warp, two loads of 16 bytes a lane each.
template <class T, bool kNorm, bool kStaged, int kWarps, int kDepth, int kBlocks>
__global__ void __launch_bounds__(kWarps * 32, kBlocks)
    gemv16_kernel(const LinearArgs a, const T* __restrict__ w, int slab_chunks) {
  extern __shared__ __align__(16) char tokens[];
  __shared__ float4 part[kWarps][32];
  __shared__ float square_part[kWarps][8];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, r = lane / 4, t = lane % 4;
  const int chunks = static_cast<int>(a.k / 32);
  const int64_t row0 = static_cast<int64_t>(blockIdx.x) * 16;
  const T* w_lo = w + (row0 + r) * a.k + t * 8;
  const T* w_hi = w_lo + 8 * a.k;

  uint4 lo[kDepth], hi[kDepth];
#pragma unroll
  for (int i = 0; i < kDepth; ++i) {
    const int c = warp + i * kWarps;
    if (c < chunks) {
      lo[i] = load_stream16(w_lo + c * 32);
      hi[i] = load_stream16(w_hi + c * 32);
    }
  }
  wait_prior_grid();
  allow_next_grid();

  float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  const int stride = slab_chunks * 64 + kTokenPad;
  const char* operand = tokens + r * stride + t * 16;
  const T* x = static_cast<const T*>(a.x) + r * a.x_stride + t * 8;
  const bool has_token = r < a.m;
  for (int slab = 0; slab < chunks; slab += slab_chunks) {
    const int slab_end = min(slab + slab_chunks, chunks);
    if (kStaged) {
      if (slab > 0) __syncthreads();
      stage_tokens<T, kNorm, kWarps * 32>(a, tokens, stride, static_cast<int64_t>(slab) * 32, (slab_end - slab) * 32,
                                          square_part[warp]);
      __syncthreads();
    }
    for (int base = slab + warp; base < slab_end; base += kDepth * kWarps) {
#pragma unroll
      for (int i = 0; i < kDepth; ++i) {
        const int c = base + i * kWarps;
        if (c >= slab_end) break;
        uint4 v = make_uint4(0, 0, 0, 0);
        if (has_token) v = kStaged ? *reinterpret_cast<const uint4*>(operand + (c - slab) * 64) : load16(x + c * 32);
        mma<T>(d, lo[i].x, hi[i].x, lo[i].y, hi[i].y, v.x, v.y);
        mma<T>(d, lo[i].z, hi[i].z, lo[i].w, hi[i].w, v.z, v.w);
        const int next = c + kDepth * kWarps;
        if (next < chunks) {
          lo[i] = load_stream16(w_lo + next * 32);
          hi[i] = load_stream16(w_hi + next * 32);
        }
      }
    }
  }
  if (reduce_warps<kWarps, kNorm>(d, part, square_part, a)) {
    finish_pair<T>(a, row0 + r, 2 * t, d[0], d[2]);
    finish_pair<T>(a, row0 + r, 2 * t + 1, d[1], d[3]);
  }
}

// Staging the tokens in shared memory pays for few of them, and where they are normalized on the way.
template <class T, int kWarps, int kDepth, int kBlocks>
void run(const LinearArgs& a, const void* w, cudaStream_t stream) {
  const bool staged = a.m <= kStagedMaxM || a.norm_weight != nullptr;
  const auto kernel = a.norm_weight != nullptr ? gemv16_kernel<T, true, true, kWarps, kDepth, kBlocks>
                      : staged                 ? gemv16_kernel<T, false, true, kWarps, kDepth, kBlocks>
                                               : gemv16_kernel<T, false, false, kWarps, kDepth, kBlocks>;
  const int unit = kWarps * kDepth * 32;
  const int slab = staged ? slab_inputs(a.k, a.m, unit) : static_cast<int>(ceil_div(a.k, unit) * unit);
  const size_t shared = staged ? static_cast<size_t>(a.m) * (slab * 2 + kTokenPad) : 0;
  allow_shared("gemv16", kernel, shared);
  launch("gemv16", kernel, dim3(static_cast<unsigned>(a.n / 16)), dim3(kWarps * 32), shared, stream, a,
         static_cast<const T*>(w), slab / 32);
}

template <class T>
void pick(int variant, const LinearArgs& a, const void* w, cudaStream_t stream) {
  if (variant == 0) return run<T, 16, 3, 2>(a, w, stream);
  run<T, 16, 2, 2>(a, w, stream);
}

}  // namespace

void gemv16_variant(int variant, const LinearCall& call, const void* w, int64_t n, int64_t k, cudaStream_t stream) {
  const LinearArgs a = linear_args("gemv16", call, n, k, kGemv16MaxM);
  require(k >= 32 && k % 32 == 0, "gemv16", "k % 32 == 0");
  if (call.dtype == DType::f16) {
    pick<__half>(variant, a, w, stream);
  } else {
    pick<__nv_bfloat16>(variant, a, w, stream);
  }
}

// Measured on an H100 (bench/cuda/NOTES.md): staged operands leave room for a third chunk in flight.
void gemv16(const LinearCall& call, const void* w, int64_t n, int64_t k, cudaStream_t stream) {
  gemv16_variant(call.m <= kStagedMaxM ? 0 : 1, call, w, n, k, stream);
}

}  // namespace deploykit::cuda
