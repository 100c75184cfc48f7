// 4-bit weights times at most 8 tokens, on the tensor cores: the same scheme as gemv16.cu.
//
// A block owns 16 * kTiles rows over all of k; its warps take steps of 128 inputs in turn. A lane's 16 bytes are its
// operands of four mma.m16n8k16 for the integers q - z; the scale multiplies the float32 sum of a group.
#include "cuda/kernels/w4.cuh"

namespace deploykit::cuda {
namespace {

// A token's slab has its 4-byte words in the order in which lanes take them: of a chunk of 64 inputs, lane t has its eight
// words (step s, half h) side by side, at 32 bytes x (t ^ chunk / 2 % 4), which spreads the writers over the banks.
constexpr int kTokenPad = 16;  // bytes after a token's slab: two tokens' quads then read all banks
constexpr int kStagedMaxM = 2;

template <int kGroup, int kTiles>
struct Piece {  // 128 inputs of 16 * kTiles rows
  uint4 q[kTiles][2];
  uint2 p[kTiles][128 / kGroup];
};

template <int kGroup, int kTiles>
__device__ __forceinline__ void load_piece(Piece<kGroup, kTiles>& piece, const uint4* q, const uint2* p, int64_t q_tile,
                                           int64_t p_tile, int step, int chunks) {
  const bool whole = 2 * step + 1 < chunks;
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
    piece.q[i][0] = load_stream16(q + i * q_tile + static_cast<int64_t>(step) * 64);
    if (whole) piece.q[i][1] = load_stream16(q + i * q_tile + static_cast<int64_t>(step) * 64 + 32);
#pragma unroll
    for (int g = 0; g < 128 / kGroup; ++g) {
      if (kGroup == 128 || g < 64 / kGroup || whole) {
        piece.p[i][g] = load_stream8(p + i * p_tile + (static_cast<int64_t>(step) * (128 / kGroup) + g) * 8);
      }
    }
  }
}

// stage_tokens of linear.cuh, in that order. A thread has the 16 inputs of a step; lanes take chunks 0, 2, 4, 6, 1, 3, ..
template <class T, bool kNorm, int kThreads>
__device__ __forceinline__ void stage_in_order(const LinearArgs& a, char* shared, int stride, int64_t first, int count,
                                               float* square_part) {
  const int lane = threadIdx.x % 32, chunk = lane / 4 % 4 * 2 + lane / 16;
  const T* g = static_cast<const T*>(a.norm_weight) + first;
  for (int token = 0; token < a.m; ++token) {
    const T* x = static_cast<const T*>(a.x) + token * a.x_stride + first;
    float squares = 0.0f;
    for (int base = threadIdx.x / 32 * 512; base < count; base += kThreads * 16) {
      const int i = base + chunk * 64 + lane % 4 * 16;
      if (i >= count) continue;
      const uint4 loaded[2] = {load16(x + i), load16(x + i + 8)};
      uint32_t v[8] = {loaded[0].x, loaded[0].y, loaded[0].z, loaded[0].w,
                       loaded[1].x, loaded[1].y, loaded[1].z, loaded[1].w};
      if (kNorm) {
        const uint4 weight[2] = {load16(g + i), load16(g + i + 8)};
        const uint32_t* pw = reinterpret_cast<const uint32_t*>(weight);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          const float2 f = Num<T>::to_float2(v[j]), w = Num<T>::to_float2(pw[j]);
          squares = fmaf(f.x, f.x, squares);
          squares = fmaf(f.y, f.y, squares);
          v[j] = Num<T>::pack(f.x * (w.x + a.norm_offset), f.y * (w.y + a.norm_offset));
        }
      }
      char* to = shared + token * stride + i / 64 * 128 + lane % 4 * 8;
#pragma unroll
      for (int t = 0; t < 4; ++t) {
        *reinterpret_cast<uint2*>(to + (t ^ (i / 128 & 3)) * 32) = make_uint2(v[t], v[t + 4]);
      }
    }
    if (kNorm) {
      squares = warp_sum(squares);
      if (lane == 0) square_part[token] = first == 0 ? squares : square_part[token] + squares;
    }
  }
}

template <class T, int kGroup, bool kNorm, bool kStaged, int kTiles, int kWarps, int kDepth, int kBlocks>
__global__ void __launch_bounds__(kWarps * 32, kBlocks)
    w4_gemv_kernel(const LinearArgs a, const uint4* __restrict__ data, const uint2* __restrict__ params,
                   int slab_steps) {
  extern __shared__ __align__(16) char tokens[];
  __shared__ float4 part[kWarps][32];
  __shared__ float square_part[kWarps][8];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, r = lane / 4, t = lane % 4;
  const int chunks = static_cast<int>(a.k / 64), steps = (chunks + 1) / 2;
  const int64_t tile0 = static_cast<int64_t>(blockIdx.x) * kTiles;
  const int64_t q_tile = static_cast<int64_t>(chunks) * 32, p_tile = a.k / kGroup * 8;
  const uint4* q = data + tile0 * q_tile + lane;
  const uint2* p = params + tile0 * p_tile + r;
  const bool has_token = r < a.m;

  Piece<kGroup, kTiles> pieces[kDepth];
#pragma unroll
  for (int i = 0; i < kDepth; ++i) {
    if (warp + i * kWarps < steps)
      load_piece<kGroup, kTiles>(pieces[i], q, p, q_tile, p_tile, warp + i * kWarps, chunks);
  }
  wait_prior_grid();
  allow_next_grid();

  float sum[kTiles][4] = {};
  const int stride = slab_steps * 256 + kTokenPad;
  const char* operand = tokens + r * stride + (t ^ warp % 4) * 32;  // a warp's steps are equal modulo 4
  const T* x = static_cast<const T*>(a.x) + r * a.x_stride + t * 16;
  for (int slab = 0; slab < steps; slab += slab_steps) {
    const int slab_end = min(slab + slab_steps, steps);
    const int64_t first = static_cast<int64_t>(slab) * 128, last = min(static_cast<int64_t>(slab_end) * 128, a.k);
    if (kStaged) {
      if (slab > 0) __syncthreads();
      stage_in_order<T, kNorm, kWarps * 32>(a, tokens, stride, first, static_cast<int>(last - first), square_part[warp]);
      __syncthreads();
    }
    for (int base = slab + warp; base < slab_end; base += kDepth * kWarps) {
#pragma unroll
      for (int i = 0; i < kDepth; ++i) {
        const int step = base + i * kWarps;
        if (step >= slab_end) break;
        const bool whole = 2 * step + 1 < chunks;
        uint4 v[2][2];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          v[h][0] = v[h][1] = make_uint4(0, 0, 0, 0);
          if (has_token && (h == 0 || whole)) {
            if (kStaged) {
              v[h][0] = *reinterpret_cast<const uint4*>(operand + (step - slab) * 256 + h * 128);
              v[h][1] = *reinterpret_cast<const uint4*>(operand + (step - slab) * 256 + h * 128 + 16);
            } else {
              v[h][0] = load16(x + step * 128 + h * 64);
              v[h][1] = load16(x + step * 128 + h * 64 + 8);
            }
          }
        }
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            if (h == 1 && !whole) continue;
            uint32_t words[4] = {pieces[i].q[tile][h].x, pieces[i].q[tile][h].y, pieces[i].q[tile][h].z,
                                 pieces[i].q[tile][h].w};
            const uint32_t* in = reinterpret_cast<const uint32_t*>(v[h]);
            // Straight from memory a lane has 16 neighbouring inputs, so it needs their weights.
            if (!kStaged) exchange_words(words, t);
            // A chunk has two groups of 32. Staged, a step of 16 inputs has one of them; else a lane has, and each
            // group's sum is an mma of its own, with the other group's lanes at zero.
            constexpr int kParts = kGroup == 32 ? 2 : 1;
            const uint2* param = &pieces[i].p[tile][kGroup == 128 ? 0 : h * kParts];
            float d[kParts][4] = {};
#pragma unroll
            for (int s = 0; s < 4; ++s) {
              const bool second = kParts == 2 && (kStaged ? s >= 2 : t >= 2);
              const uint2 own = param[second ? kParts - 1 : 0];
              const uint32_t b0 = in[kStaged ? 2 * s : s], b1 = in[kStaged ? 2 * s + 1 : s + 4];
              uint32_t w[4];
              unpack_word<T>(words[s], zero_pair<T>(own.x), zero_pair<T>(own.y), w);
#pragma unroll
              for (int part_index = 0; part_index < kParts; ++part_index) {
                if (kStaged && second != (part_index == 1)) continue;
                const bool mine = second == (part_index == 1);
                mma<T>(d[part_index], w[0], w[1], w[2], w[3], mine ? b0 : 0u, mine ? b1 : 0u);
              }
            }
#pragma unroll
            for (int part_index = 0; part_index < kParts; ++part_index) {
              const float lo = scale_of(param[part_index].x), hi = scale_of(param[part_index].y);
              sum[tile][0] = fmaf(lo, d[part_index][0], sum[tile][0]);
              sum[tile][1] = fmaf(lo, d[part_index][1], sum[tile][1]);
              sum[tile][2] = fmaf(hi, d[part_index][2], sum[tile][2]);
              sum[tile][3] = fmaf(hi, d[part_index][3], sum[tile][3]);
            }
          }
        }
        const int next = step + kDepth * kWarps;
        if (next < steps) load_piece<kGroup, kTiles>(pieces[i], q, p, q_tile, p_tile, next, chunks);
      }
    }
  }
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    if (tile > 0) __syncthreads();
    if (reduce_warps<kWarps, kNorm>(sum[tile], part, square_part, a)) {
      const int64_t row = (tile0 + tile) * 16 + r;
      finish_pair<T>(a, row, 2 * t, sum[tile][0], sum[tile][2]);
      finish_pair<T>(a, row, 2 * t + 1, sum[tile][1], sum[tile][3]);
    }
  }
}

// Staging the tokens in shared memory pays for few of them, and where they are normalized on the way.
template <class T, int kGroup, int kTiles, int kWarps, int kDepth, int kBlocks>
void run(const LinearArgs& a, const W4Weight& w, cudaStream_t stream) {
  const bool staged = a.m <= kStagedMaxM || a.norm_weight != nullptr;
  const auto kernel = a.norm_weight != nullptr ? w4_gemv_kernel<T, kGroup, true, true, kTiles, kWarps, kDepth, kBlocks>
                      : staged                 ? w4_gemv_kernel<T, kGroup, false, true, kTiles, kWarps, kDepth, kBlocks>
                               : w4_gemv_kernel<T, kGroup, false, false, kTiles, kWarps, kDepth, kBlocks>;
  const int unit = kWarps * kDepth * 128;
  const int slab = staged ? slab_inputs(a.k, a.m, unit) : static_cast<int>(ceil_div(a.k, unit) * unit);
  const size_t shared = staged ? static_cast<size_t>(a.m) * (slab * 2 + kTokenPad) : 0;
  allow_shared("w4_gemv", kernel, shared);
  launch("w4_gemv", kernel, dim3(static_cast<unsigned>(a.n / 16 / kTiles)), dim3(kWarps * 32), shared, stream, a,
         static_cast<const uint4*>(w.data), reinterpret_cast<const uint2*>(w.params), slab / 128);
}

template <class T>
void pick(int variant, const LinearArgs& a, const W4Weight& w, cudaStream_t stream) {
  if (w.group == 32) return run<T, 32, 1, 8, 2, 2>(a, w, stream);
  if (w.group == 64) return run<T, 64, 1, 8, 2, 3>(a, w, stream);
  switch (variant) {
    case 0:
      return run<T, 128, 1, 8, 4, 2>(a, w, stream);
    case 1:
      return run<T, 128, 1, 8, 2, 3>(a, w, stream);
    case 2:
      return run<T, 128, 1, 8, 4, 3>(a, w, stream);
    case 4:
      return run<T, 128, 1, 8, 3, 2>(a, w, stream);
    case 5:
      return run<T, 128, 1, 8, 2, 4>(a, w, stream);
    default:
      return run<T, 128, 1, 16, 1, 2>(a, w, stream);
  }
}

}  // namespace

void w4_gemv_variant(int variant, const LinearCall& call, const W4Weight& w, cudaStream_t stream) {
  require_w4("w4_gemv", w);
  const LinearArgs a = linear_args("w4_gemv", call, w.n, w.k, kW4GemvMaxM);
  if (call.dtype == DType::f16) {
    pick<__half>(variant, a, w, stream);
  } else {
    pick<__nv_bfloat16>(variant, a, w, stream);
  }
}

// Measured on an H100 (bench/cuda/NOTES.md): by 16-row tiles a multiprocessor, inputs and tokens.
void w4_gemv(const LinearCall& call, const W4Weight& w, cudaStream_t stream) {
  const int64_t tiles = w.n / 16, sms = multiprocessors();
  int variant = call.m == 2 ? 5 : 2;
  if (tiles <= 2 * sms) {
    variant = call.m > 2 ? 3 : w.k > 8192 ? 0 : 4;
  } else if (tiles <= 3 * sms) {
    variant = 1;
  }
  w4_gemv_variant(variant, call, w, stream);
}

}  // namespace deploykit::cuda
