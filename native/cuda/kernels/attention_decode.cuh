// Decode attention: one query a row. A block owns one KV head (with up to 8 of its query heads) of one row and one
// split of its tokens; its four warps take tiles of 16 tokens in turn, straight from memory into mma operands.
//
// Both products have the cache as the first operand and the heads as the narrow one: S^T [16 tokens, 8 heads] = K Q^T
// and O^T [16 dims, 8 heads] += V^T P^T. Which lane holds which dims is free as long as both sides agree (dims are
// summed in the first product and named in the second), so lanes take consecutive bytes of K's and V's rows; P^T is
// S^T's accumulators through an 8 x 8 transpose. Quantized bytes become 1024 + u in f16 by byte permutes; scales and
// zeros act on float32 scores (K) and on the probabilities (V). Splits' results are merged by the block that comes
// last, in ascending order.
#pragma once

#include "cuda/kernels/attention.cuh"

namespace deploykit::cuda {

struct DecodeArgs {
  const void* q;
  int64_t q_stride;
  void* out;
  int64_t out_stride;
  const int32_t* row;
  const int32_t* index;
  const float* sinks;
  uint32_t* counters;
  float* parts;
  int32_t heads, group, head_groups, window, splits;
  float scale, softcap;
  bool bf16;
};

void attention_decode_16(const DecodeArgs& a, const KvArgs& kv, int32_t head_dim, int32_t n, cudaStream_t stream);
void attention_decode_int8(const DecodeArgs& a, const KvArgs& kv, int32_t head_dim, int32_t n, cudaStream_t stream);
void attention_decode_k8v4(const DecodeArgs& a, const KvArgs& kv, int32_t head_dim, int32_t n, cudaStream_t stream);
void attention_decode_int4(const DecodeArgs& a, const KvArgs& kv, int32_t head_dim, int32_t n, cudaStream_t stream);

// A part of the workspace: one split of 8 heads: O [8][D], then max [8], sum [8].
inline int64_t decode_part_floats(int32_t head_dim) { return 8ll * head_dim + 16; }

#ifdef __CUDACC__
namespace {

constexpr int kDecodeWarps = 4;
constexpr float kLog2e = 1.4426950408889634f;

// How a lane takes a row of D elements of `kBits` bits: pieces of kElements consecutive ones, piece p at lane p %
// kLanes.
template <int kBits, int D, int kLanes>
struct Pieces {
  static constexpr int kMost = 128 / kBits;  // 16 bytes
  static constexpr int kEven = D % kLanes == 0 && D / kLanes % 8 == 0 ? D / kLanes : 8;
  static constexpr int kElements = kBits == 16   ? 8
                                   : kLanes == 4 ? (kBits == 8 || D % 128 != 0 ? 16 : 32)
                                                 : (kEven < kMost ? kEven : kMost);
  static constexpr int kBytes = kElements * kBits / 8;
  static constexpr int kWords = kBytes / 4;
  static constexpr int kPieces = D / kElements;
  static constexpr int kRounds = (kPieces + kLanes - 1) / kLanes;
  static constexpr bool kWhole = kPieces % kLanes == 0;
  static_assert(D % kElements == 0 && (kBytes == 4 || kBytes == 8 || kBytes == 16), "pieces cover a row");
};

template <int kBytes>
__device__ __forceinline__ void load_piece(uint32_t* words, const char* p, bool ok) {
#pragma unroll
  for (int i = 0; i < kBytes / 4; ++i) words[i] = 0;
  if (!ok) return;
  if (kBytes == 16) {
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[kBytes == 16 ? 1 : 0]), "=r"(words[kBytes == 16 ? 2 : 0]),
                   "=r"(words[kBytes == 16 ? 3 : 0])
                 : "l"(p));
  } else if (kBytes == 8) {
    asm volatile("ld.global.v2.u32 {%0, %1}, [%2];" : "=r"(words[0]), "=r"(words[kBytes >= 8 ? 1 : 0]) : "l"(p));
  } else {
    asm volatile("ld.global.u32 %0, [%1];" : "=r"(words[0]) : "l"(p));
  }
}

// T: what the products are computed in: the activations' type for a 16-bit cache, else f16.
template <class T, int kKeyBits, int kValueBits, int D>
__global__ void __launch_bounds__(kDecodeWarps * 32, D == 256 ? 2 : 4)
    decode_kernel(const DecodeArgs a, const KvArgs kv) {
  using K = Pieces<kKeyBits, D, 4>;
  using V = Pieces<kValueBits, D, 8>;
  constexpr int kSteps = K::kRounds * K::kElements / 4;   // mma over dims: 4 elements a lane each
  constexpr int kLaneValues = V::kRounds * V::kElements;  // V elements of a token a lane holds
  constexpr int kTiles = kLaneValues / 2;                 // mma over V's dims: 2 elements a lane each
  extern __shared__ __align__(16) float shared[];         // [warps][8][D] O, then max and sum [warps][8] each
  __shared__ bool last_one;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, r = lane / 4, t = lane % 4;
  const int split = blockIdx.x, kv_head = blockIdx.y / a.head_groups, group0 = blockIdx.y % a.head_groups * 8;
  const int64_t i = blockIdx.z;
  const int heads_here = min(a.group - group0, 8);
  const int head0 = kv_head * a.group + group0;

  // Before the wait: the kernel in front wrote q and the newest token alone (kernels.h says so).
  const int64_t row = a.row[i];
  using Out = uint16_t;
  if (row < 0) {
    wait_prior_grid();
    allow_next_grid();
    if (split == 0) {
      Out* out = static_cast<Out*>(a.out) + i * a.out_stride + static_cast<int64_t>(head0) * D;
      for (int j = threadIdx.x; j < heads_here * D; j += kDecodeWarps * 32) out[j] = 0;
    }
    return;
  }
  const int length = a.index[i] + 1;
  const int oldest = a.window > 0 && length > a.window ? length - a.window : 0;
  const int begin = oldest & ~15;
  const int each = ((length - begin + a.splits - 1) / a.splits + 63) & ~63;
  const int active = (length - begin + each - 1) / each;
  if (split >= active) {
    wait_prior_grid();
    allow_next_grid();
    return;
  }
  const int first = begin + split * each, last = min(first + each, length);

  uint32_t key[K::kRounds][2][K::kWords];
  uint32_t value[V::kRounds][4][V::kWords];
  uint32_t key_param[2] = {0, 0}, value_param[2] = {0, 0};
  const char* part = nullptr;
  const auto load_keys = [&](int tile) {
    part = kv_part(kv, row, kv_head, tile);
    const int place = tile % kv.block_len;
#pragma unroll
    for (int c = 0; c < K::kRounds; ++c) {
      const int piece = t + 4 * c;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        load_piece<K::kBytes>(key[c][h], part + (place + r + 8 * h) * kv.k_row + piece * K::kBytes,
                              K::kWhole || piece < K::kPieces);
      }
    }
    if (kKeyBits != 16) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const char* p = part + kv.k_params_offset + (place + r + 8 * h) * 4;
        asm volatile("ld.global.u32 %0, [%1];" : "=r"(key_param[h]) : "l"(p));
      }
    }
  };
  const auto load_values = [&](const char* from, int tile) {
    const int place = tile % kv.block_len;
    const char* v_part = from + kv.v_offset;
#pragma unroll
    for (int c = 0; c < V::kRounds; ++c) {
      const int piece = r + 8 * c;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int token = 2 * t + j % 2 + j / 2 * 8;
        load_piece<V::kBytes>(value[c][j], v_part + (place + token) * kv.v_row + piece * V::kBytes,
                              (V::kWhole || piece < V::kPieces) && tile + token < length);
      }
    }
    if (kValueBits != 16) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const char* p = from + kv.v_params_offset + (place + r + 8 * h) * 4;
        asm volatile("ld.global.u32 %0, [%1];" : "=r"(value_param[h]) : "l"(p));
      }
    }
  };

  float o[kTiles][4] = {};
  float top[2] = {-INFINITY, -INFINITY}, mass[2] = {0.0f, 0.0f}, shift[2] = {0.0f, 0.0f};
  const int step_tokens = kDecodeWarps * 16;
  int tile = first + warp * 16;
  const bool early = tile + 16 < length;  // without the newest token
  if (tile < last && early) {
    load_keys(tile);
    load_values(part, tile);
  }
  wait_prior_grid();
  allow_next_grid();
  if (tile < last && !early) {
    load_keys(tile);
    load_values(part, tile);
  }

  // The queries: head r of the group, the elements that pair with this lane's of K.
  uint32_t q[kSteps][2];
  float q_sum = 0.0f;
#pragma unroll
  for (int c = 0; c < K::kRounds; ++c) {
    const int piece = t + 4 * c;
    const bool ok = r < heads_here && (K::kWhole || piece < K::kPieces);
    const uint16_t* p =
        static_cast<const uint16_t*>(a.q) + i * a.q_stride + static_cast<int64_t>(head0 + r) * D + piece * K::kElements;
    uint32_t v[K::kElements / 2];
#pragma unroll
    for (int j = 0; j < K::kElements / 8; ++j) {
      const uint4 w = ok ? load16(p + j * 8) : make_uint4(0, 0, 0, 0);
      v[4 * j] = w.x, v[4 * j + 1] = w.y, v[4 * j + 2] = w.z, v[4 * j + 3] = w.w;
    }
    if (kKeyBits != 16) {
#pragma unroll
      for (int j = 0; j < K::kElements / 2; ++j) {
        if (a.bf16) {
          const float2 f = Num<__nv_bfloat16>::to_float2(v[j]);
          v[j] = Num<__half>::pack(f.x, f.y);
        }
        const float2 f = Num<__half>::to_float2(v[j]);
        q_sum += f.x + f.y;
      }
    }
#pragma unroll
    for (int j = 0; j < K::kElements / 4; ++j) {
      uint32_t x0 = v[2 * j], x1 = v[2 * j + 1];
      if (kKeyBits == 4) {  // words of 8 nibbles unpack to the pairs (0, 4), (1, 5), (2, 6), (3, 7)
        const int base = j / 2 * 4;
        const uint32_t lo = v[base + j % 2], hi = v[base + 2 + j % 2];
        x0 = permute(lo, hi, 0x5410), x1 = permute(lo, hi, 0x7632);
      }
      q[c * (K::kElements / 4) + j][0] = x0;
      q[c * (K::kElements / 4) + j][1] = x1;
    }
  }
  float sum_q[2] = {0.0f, 0.0f};  // of heads 2t and 2t + 1
  if (kKeyBits != 16) {
    q_sum += __shfl_xor_sync(0xffffffffu, q_sum, 1);
    q_sum += __shfl_xor_sync(0xffffffffu, q_sum, 2);
    sum_q[0] = __shfl_sync(0xffffffffu, q_sum, t * 8);
    sum_q[1] = __shfl_sync(0xffffffffu, q_sum, t * 8 + 4);
  }

  for (; tile < last; tile += step_tokens) {
    float s[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
    for (int c = 0; c < K::kRounds; ++c) {
#pragma unroll
      for (int j = 0; j < K::kElements / 4; ++j) {
        uint32_t k0, k1, k2, k3;
        if (kKeyBits == 16) {
          k0 = key[c][0][2 * j % K::kWords], k1 = key[c][1][2 * j % K::kWords];
          k2 = key[c][0][(2 * j + 1) % K::kWords], k3 = key[c][1][(2 * j + 1) % K::kWords];
        } else if (kKeyBits == 8) {
          const uint32_t lo = key[c][0][j % K::kWords], hi = key[c][1][j % K::kWords];
          k0 = permute(lo, 0x64646464u, 0x4140), k2 = permute(lo, 0x64646464u, 0x4342);
          k1 = permute(hi, 0x64646464u, 0x4140), k3 = permute(hi, 0x64646464u, 0x4342);
        } else {
          const uint32_t lo = key[c][0][j / 2 % K::kWords], hi = key[c][1][j / 2 % K::kWords];
          k0 = nibbles(lo, j % 2 * 2), k2 = nibbles(lo, j % 2 * 2 + 1);
          k1 = nibbles(hi, j % 2 * 2), k3 = nibbles(hi, j % 2 * 2 + 1);
        }
        const int step = c * (K::kElements / 4) + j;
        mma<T>(s, k0, k1, k2, k3, q[step][0], q[step][1]);
      }
    }
    if (kKeyBits != 16) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float2 p = kv_param(key_param[h]);
        const float offset = p.y - 1024.0f * p.x;
        s[2 * h] = fmaf(p.x, s[2 * h], offset * sum_q[0]);
        s[2 * h + 1] = fmaf(p.x, s[2 * h + 1], offset * sum_q[1]);
      }
    }
    const int next = tile + step_tokens;
    if (next < last) load_keys(next);

    float best[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int token = tile + r + 8 * h;
      const bool seen = token < length && token >= oldest;
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float v = s[2 * h + e] * a.scale;
        if (a.softcap > 0.0f) v = a.softcap * tanhf(v / a.softcap);
        s[2 * h + e] = seen ? v * kLog2e : -INFINITY;
        best[e] = fmaxf(best[e], s[2 * h + e]);
      }
    }
#pragma unroll
    for (int e = 0; e < 2; ++e) {
#pragma unroll
      for (int offset = 4; offset < 32; offset *= 2)
        best[e] = fmaxf(best[e], __shfl_xor_sync(0xffffffffu, best[e], offset));
    }
    if (__any_sync(0xffffffffu, best[0] > top[0] || best[1] > top[1])) {
      float down[2];
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const float higher = fmaxf(top[e], best[e]);
        down[e] = higher == -INFINITY ? 1.0f : exp2_fast(top[e] - higher);
        top[e] = higher;
        mass[e] *= down[e];
        shift[e] *= down[e];
      }
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
        o[j][0] *= down[0], o[j][1] *= down[1], o[j][2] *= down[0], o[j][3] *= down[1];
      }
    }
    float p[4];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float2 param = make_float2(0.0f, 0.0f);
      if (kValueBits != 16) param = kv_param(value_param[h]);
      const bool seen = tile + r + 8 * h < length;
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const float v = top[e] == -INFINITY ? 0.0f : exp2_fast(s[2 * h + e] - top[e]);
        mass[e] += v;
        if (kValueBits == 16) {
          p[2 * h + e] = v;
        } else {  // v * (scale * (u - centre) + zero + centre * scale); the factor 256 keeps small scales normal in f16
          constexpr float centre = kValueBits == 8 ? 128.0f : 8.0f;
          p[2 * h + e] = seen ? v * param.x * 256.0f : 0.0f;
          shift[e] += seen ? v * fmaf(centre, param.x, param.y) : 0.0f;
        }
      }
    }
    const uint32_t p0 = transpose8(Num<T>::pack(p[0], p[1])), p1 = transpose8(Num<T>::pack(p[2], p[3]));
#pragma unroll
    for (int c = 0; c < V::kRounds; ++c) {
#pragma unroll
      for (int w = 0; w < V::kWords; ++w) {
        const uint32_t a0 = value[c][0][w], b0 = value[c][1][w], a1 = value[c][2][w], b1 = value[c][3][w];
        constexpr int kWordTiles = 16 / kValueBits;  // mma of a word
        const int j0 = (c * V::kWords + w) * kWordTiles;
        if (kValueBits == 16) {
          mma<T>(o[j0], permute(a0, b0, 0x5410), permute(a0, b0, 0x7632), permute(a1, b1, 0x5410),
                 permute(a1, b1, 0x7632), p0, p1);
        } else if (kValueBits == 8) {
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            const uint32_t x = permute(a0, b0, j == 0 ? 0x5140 : 0x7362), y = permute(a1, b1, j == 0 ? 0x5140 : 0x7362);
            constexpr uint32_t centre = 0x64806480u;  // 1024 + 128
            mma<T>(o[(j0 + j) % kTiles], sub2<__half>(permute(x, 0x64646464u, 0x4140), centre),
                   sub2<__half>(permute(x, 0x64646464u, 0x4342), centre),
                   sub2<__half>(permute(y, 0x64646464u, 0x4140), centre),
                   sub2<__half>(permute(y, 0x64646464u, 0x4342), centre), p0, p1);
          }
        } else {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const uint32_t x = permute(a0, b0, half == 0 ? 0x5410 : 0x7632),
                           y = permute(a1, b1, half == 0 ? 0x5410 : 0x7632);
            constexpr uint32_t centre = 0x64086408u;  // 1024 + 8
#pragma unroll
            for (int j = 0; j < 2; ++j) {
              mma<T>(o[(j0 + half * 2 + j) % kTiles], sub2<__half>(nibbles(x, 2 * j), centre),
                     sub2<__half>(nibbles(x, 2 * j + 1), centre), sub2<__half>(nibbles(y, 2 * j), centre),
                     sub2<__half>(nibbles(y, 2 * j + 1), centre), p0, p1);
            }
          }
        }
      }
    }
    if (next < last) load_values(part, next);
  }

  // The warps' results: element e of a lane is dim piece * kElements + e % kElements.
  float* tops = shared + kDecodeWarps * 8 * D;
  float* masses = tops + kDecodeWarps * 8;
#pragma unroll
  for (int e = 0; e < 2; ++e) {
#pragma unroll
    for (int offset = 4; offset < 32; offset *= 2) {
      mass[e] += __shfl_xor_sync(0xffffffffu, mass[e], offset);
      shift[e] += __shfl_xor_sync(0xffffffffu, shift[e], offset);
    }
    if (r == 0) {
      tops[warp * 8 + 2 * t + e] = top[e];
      masses[warp * 8 + 2 * t + e] = mass[e];
    }
  }
  float* mine = shared + warp * 8 * D;
  constexpr float unit = kValueBits == 16 ? 1.0f : 1.0f / 256.0f;
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
#pragma unroll
    for (int x = 0; x < 2; ++x) {
      const int element = 2 * j + x, piece = r + 8 * (element / V::kElements);
      const int dim = piece * V::kElements + element % V::kElements;
      if (V::kWhole || piece < V::kPieces) {
        mine[(2 * t) * D + dim] = fmaf(o[j][2 * x], unit, shift[0]);
        mine[(2 * t + 1) * D + dim] = fmaf(o[j][2 * x + 1], unit, shift[1]);
      }
    }
  }
  __syncthreads();
  const int64_t place = (i * gridDim.y + blockIdx.y) * a.splits;
  constexpr int64_t kPart = 8ll * D + 16;
  const auto store = [&](int head, int dim, float v, float top_now, float mass_now) {
    const int h = head0 + head;
    if (a.sinks != nullptr) {
      const float sink = a.sinks[h] * kLog2e, higher = fmaxf(top_now, sink);
      v *= exp2_fast(top_now - higher);
      mass_now = mass_now * exp2_fast(top_now - higher) + exp2_fast(sink - higher);
    }
    v /= mass_now;
    const int64_t at = i * a.out_stride + static_cast<int64_t>(h) * D + dim;
    if (a.bf16) {
      static_cast<__nv_bfloat16*>(a.out)[at] = __float2bfloat16_rn(v);
    } else {
      static_cast<__half*>(a.out)[at] = __float2half_rn(v);
    }
  };
  for (int j = threadIdx.x; j < heads_here * D; j += kDecodeWarps * 32) {
    const int head = j / D;
    float highest = -INFINITY;
#pragma unroll
    for (int w = 0; w < kDecodeWarps; ++w) highest = fmaxf(highest, tops[w * 8 + head]);
    float v = 0.0f, m = 0.0f;
#pragma unroll
    for (int w = 0; w < kDecodeWarps; ++w) {
      const float factor = tops[w * 8 + head] == -INFINITY ? 0.0f : exp2_fast(tops[w * 8 + head] - highest);
      v = fmaf(factor, shared[w * 8 * D + j], v);
      m = fmaf(factor, masses[w * 8 + head], m);
    }
    if (active == 1) {
      store(head, j % D, v, highest, m);
    } else {
      float* to = a.parts + (place + split) * kPart;
      __stcg(to + j, v);
      if (j % D == 0) {
        __stcg(to + 8 * D + head, highest);
        __stcg(to + 8 * D + 8 + head, m);
      }
    }
  }
  if (active == 1) return;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    uint32_t* counter = a.counters + i * gridDim.y + blockIdx.y;
    last_one = atomicAdd(counter, 1u) == static_cast<uint32_t>(active - 1);
    if (last_one) *counter = 0;
  }
  __syncthreads();
  if (!last_one) return;
  __threadfence();
  // Factors of the splits and the total mass of each head in shared memory, then one pass over the parts.
  const float* from = a.parts + place * kPart;
  float* factors = shared;  // [active][8]
  float* totals = shared + 64 * 8;
  float* highs = totals + 8;
  for (int j = threadIdx.x; j < active * 8; j += kDecodeWarps * 32) {
    const int w = j / 8, head = j % 8;
    if (head < heads_here) {
      factors[j] = __ldcg(from + w * kPart + 8 * D + head);
      shared[64 * 8 + 16 + j] = __ldcg(from + w * kPart + 8 * D + 8 + head);
    }
  }
  __syncthreads();
  if (threadIdx.x < heads_here) {
    const int head = threadIdx.x;
    float highest = -INFINITY, m = 0.0f;
    for (int w = 0; w < active; ++w) highest = fmaxf(highest, factors[w * 8 + head]);
    for (int w = 0; w < active; ++w) {
      const float factor = exp2_fast(factors[w * 8 + head] - highest);
      factors[w * 8 + head] = factor;
      m = fmaf(factor, shared[64 * 8 + 16 + w * 8 + head], m);
    }
    totals[head] = m;
    highs[head] = highest;
  }
  __syncthreads();
  for (int j = threadIdx.x * 4; j < heads_here * D; j += kDecodeWarps * 32 * 4) {
    const int head = j / D;
    float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 8
    for (int w = 0; w < active; ++w) {
      const float factor = factors[w * 8 + head];
      const float4 p = __ldcg(reinterpret_cast<const float4*>(from + w * kPart + j));
      v.x = fmaf(factor, p.x, v.x), v.y = fmaf(factor, p.y, v.y);
      v.z = fmaf(factor, p.z, v.z), v.w = fmaf(factor, p.w, v.w);
    }
    store(head, j % D, v.x, highs[head], totals[head]);
    store(head, j % D + 1, v.y, highs[head], totals[head]);
    store(head, j % D + 2, v.z, highs[head], totals[head]);
    store(head, j % D + 3, v.w, highs[head], totals[head]);
  }
}

template <class T, int kKeyBits, int kValueBits>
void run_decode(const DecodeArgs& a, const KvArgs& kv, int32_t head_dim, int32_t n, cudaStream_t stream) {
  with_head_dim("attention_decode", head_dim, [&](auto d) {
    constexpr int D = decltype(d)::value;
    const auto kernel = decode_kernel<T, kKeyBits, kValueBits, D>;
    const size_t bytes = (kDecodeWarps * 8 * D + 2 * kDecodeWarps * 8) * sizeof(float);
    allow_shared("attention_decode", kernel, bytes);
    launch("attention_decode", kernel,
           dim3(static_cast<unsigned>(a.splits), static_cast<unsigned>(kv.kv_heads * a.head_groups),
                static_cast<unsigned>(n)),
           dim3(kDecodeWarps * 32), bytes, stream, a, kv);
  });
}

}  // namespace
#endif

}  // namespace deploykit::cuda
