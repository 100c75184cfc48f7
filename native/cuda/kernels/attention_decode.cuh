// Decode attention: one query a row. A block owns one KV head (with up to 8 of its query heads) of one row and one
// split of its tokens; its four warps take tiles of 16 tokens in turn, straight from memory into mma operands.
//
// Both products have the cache as the first operand and the heads as the narrow one: S^T [16 tokens, 8 heads] = K Q^T
// and O^T [16 dims, 8 heads] += V^T P^T. Which lane holds which dims is free as long as both sides agree (dims are
// summed in the first product and named in the second), so lanes take consecutive bytes of K's and V's rows; P^T is
// S^T's accumulators through an 8 x 8 transpose. Quantized bytes become 1024 + u in f16 by byte permutes; scales and
// zeros act on float32 scores (K) and on the probabilities (V). e4m3 numbers become f16 as they are. Splits' results are merged by the block that comes
// last, in ascending order. Where it rotates (RopeCall), a block turns its queries and the row's own token itself; that
// token goes into the KV memory and, through shared memory, straight into the operands.
#pragma once

#include "cuda/kernels/decode_merge.cuh"

namespace deploykit::cuda {

void attention_decode_16(const DecodeArgs& a, const KvArgs& kv, int32_t head_dim, int32_t n, cudaStream_t stream);
void attention_decode_int8(const DecodeArgs& a, const KvArgs& kv, int32_t head_dim, int32_t n, cudaStream_t stream);
void attention_decode_k8v4(const DecodeArgs& a, const KvArgs& kv, int32_t head_dim, int32_t n, cudaStream_t stream);
void attention_decode_int4(const DecodeArgs& a, const KvArgs& kv, int32_t head_dim, int32_t n, cudaStream_t stream);
void attention_decode_fp8(const DecodeArgs& a, const KvArgs& kv, int32_t head_dim, int32_t n, cudaStream_t stream);
void rope_decode_16(const DecodeArgs& a, const KvArgs& kv, int32_t head_dim, int32_t n, cudaStream_t stream);
void rope_decode_int8(const DecodeArgs& a, const KvArgs& kv, int32_t head_dim, int32_t n, cudaStream_t stream);
void rope_decode_k8v4(const DecodeArgs& a, const KvArgs& kv, int32_t head_dim, int32_t n, cudaStream_t stream);
void rope_decode_int4(const DecodeArgs& a, const KvArgs& kv, int32_t head_dim, int32_t n, cudaStream_t stream);
void rope_decode_fp8(const DecodeArgs& a, const KvArgs& kv, int32_t head_dim, int32_t n, cudaStream_t stream);

#ifdef __CUDACC__
namespace {

// T: what the products are computed in: the activations' type for a 16-bit cache, else f16.
// kBlocks: of a multiprocessor.
template <class T, int kKeyBits, int kValueBits, int D, bool kRotate, int kBlocks, bool kFp8>
__global__ void __launch_bounds__(kDecodeWarps * 32, kBlocks)
    decode_kernel(const __grid_constant__ DecodeArgs a, const KvArgs kv) {
  using K = Pieces<kKeyBits, D, 4>;
  using V = Pieces<kValueBits, D, 8>;
  constexpr int kSteps = K::kRounds * K::kElements / 4;   // mma over dims: 4 elements a lane each
  constexpr int kLaneValues = V::kRounds * V::kElements;  // V elements of a token a lane holds
  constexpr int kTiles = kLaneValues / 2;                 // mma over V's dims: 2 elements a lane each
  using R = Results<kValueBits, D>;
  // Whether an element is a number of a scale, not a value by itself.
  constexpr bool kKeyCodes = kKeyBits != 16 && !kFp8, kValueCodes = kValueBits != 16 && !kFp8;
  extern __shared__ __align__(16) float shared[];
  __shared__ Newest<kRotate ? D : 0> newest;
  constexpr int kKeyRow = D * kKeyBits / 8, kValueRow = D * kValueBits / 8;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, r = lane / 4, t = lane % 4;
  // Blocks without work leave at once: others of the grid wait for the one in front, so its order holds.
  const bool planned = a.plan != nullptr;
  const int head_unit = planned ? blockIdx.x : blockIdx.y, head_units = planned ? gridDim.x : gridDim.y;
  const int kv_head = head_unit / a.head_groups, group0 = head_unit % a.head_groups * 8;
  int split = blockIdx.x, splits = a.splits;
  int64_t i = blockIdx.z, place = (i * head_units + head_unit) * splits;  // of the row's first part in the workspace
  if (planned) {  // written kernels ago
    const int number = blockIdx.y;
    if (number >= a.plan[0]) return;
    const int2 unit = reinterpret_cast<const int2*>(a.plan + 4)[number];
    i = unit.x, split = unit.y & 0xffff, splits = unit.y >> 16;
    place = static_cast<int64_t>(head_unit) * gridDim.y + number - split;
  }
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
  const int each = ((length - begin + splits - 1) / splits + 63) & ~63;
  const int active = (length - begin + each - 1) / each;
  if (split >= active) return;
  const int first = begin + split * each, last = min(first + each, length);

  uint32_t key[K::kRounds][2][K::kWords];
  uint32_t value[V::kRounds][4][V::kWords];
  uint32_t key_param[2] = {0, 0}, value_param[2] = {0, 0};
  // A lane's bytes of a tile, from a head's part on.
  const char* head_part = kv.base + kv.layer_offset + kv_head * kv.head_bytes;
  const int32_t* table = kv.block_table + row * kv.max_blocks;
  const int key_lane = r * kKeyRow + t * K::kBytes;
  const int value_lane = static_cast<int>(kv.v_offset) + 2 * t * kValueRow + r * V::kBytes;
  const int key_param_lane = static_cast<int>(kv.k_params_offset) + r * 4;
  const int value_param_lane = static_cast<int>(kv.v_params_offset) + r * 4;
  const char* part = nullptr;
  int spot = 0;
  const auto load_keys = [&](int tile) {
    const int slot = kv_slot(kv, tile);
    spot = tile - slot * kv.block_len;
    part = head_part + table[slot] * kv.block_bytes;
    const char* from = part + (spot * kKeyRow + key_lane);
#pragma unroll
    for (int c = 0; c < K::kRounds; ++c) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        load_piece<K::kBytes>(key[c][h], from + 8 * h * kKeyRow + 4 * c * K::kBytes,
                              K::kWhole || t + 4 * c < K::kPieces);
      }
    }
    if (kKeyCodes) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const char* p = part + (spot * 4 + key_param_lane) + 32 * h;
        asm volatile("ld.global.u32 %0, [%1];" : "=r"(key_param[h]) : "l"(p));
      }
    }
  };
  const auto load_values = [&](int tile) {
    const char* from = part + (spot * kValueRow + value_lane);
#pragma unroll
    for (int c = 0; c < V::kRounds; ++c) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int token = j % 2 + j / 2 * 8;
        // Values behind the row's end may be NaN; numbers of a scale never are.
        load_piece<V::kBytes>(value[c][j], from + token * kValueRow + 8 * c * V::kBytes,
                              (V::kWhole || r + 8 * c < V::kPieces) &&
                                  (kValueCodes || tile + 2 * t + token < (kRotate ? length - 1 : length)));
      }
    }
    if (kValueCodes) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const char* p = part + (spot * 4 + value_param_lane) + 32 * h;
        asm volatile("ld.global.u32 %0, [%1];" : "=r"(value_param[h]) : "l"(p));
      }
    }
  };
  // The row's own token in place of what memory held for it.
  const auto put_newest = [&](int tile) {
    if constexpr (kRotate) {
      const int here = length - 1 - tile;
      const char* rows = reinterpret_cast<const char*>(newest.row);
#pragma unroll
      for (int c = 0; c < K::kRounds; ++c) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          if (r + 8 * h != here || !(K::kWhole || t + 4 * c < K::kPieces)) continue;
#pragma unroll
          for (int w = 0; w < K::kWords; ++w) {
            key[c][h][w] = *reinterpret_cast<const uint32_t*>(rows + (t + 4 * c) * K::kBytes + 4 * w);
          }
        }
      }
#pragma unroll
      for (int c = 0; c < V::kRounds; ++c) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          if (2 * t + j % 2 + j / 2 * 8 != here || !(V::kWhole || r + 8 * c < V::kPieces)) continue;
#pragma unroll
          for (int w = 0; w < V::kWords; ++w) {
            value[c][j][w] = *reinterpret_cast<const uint32_t*>(rows + 2 * D + (r + 8 * c) * V::kBytes + 4 * w);
          }
        }
      }
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        if (r + 8 * h != here) continue;
        if (kKeyCodes) key_param[h] = newest.param[0];
        if (kValueCodes) value_param[h] = newest.param[1];
      }
    }
  };

  float o[kTiles][4] = {};
  float top[2] = {-INFINITY, -INFINITY}, mass[2] = {0.0f, 0.0f}, shift[2] = {0.0f, 0.0f};
  const int step_tokens = kDecodeWarps * 16;
  int tile = first + warp * 16;
  const bool early = kRotate || tile + 16 < length;  // nothing of it is being written by the kernel in front
  if (tile < last && early) {
    load_keys(tile);
    load_values(tile);
  }
  if constexpr (kRotate) {
    float2* angles = reinterpret_cast<float2*>(shared);
    const bool own = last == length;
    rope_angles<D>(a.rope, i, angles);
    __syncthreads();
    wait_prior_grid();
    allow_next_grid();
    float* buffer = shared + D + warp * D;
    if (kKeyBits == 16 ? std::is_same<T, __nv_bfloat16>::value : a.bf16) {
      rotate_newest<__nv_bfloat16, kKeyBits, kValueBits, D, kFp8>(a, i, kv_head, head0, heads_here, own, angles, buffer,
                                                                  newest);
    } else {
      rotate_newest<__half, kKeyBits, kValueBits, D, kFp8>(a, i, kv_head, head0, heads_here, own, angles, buffer, newest);
    }
    __syncthreads();
    if (own && group0 == 0) {  // the token into the KV memory
      const int slot = kv_slot(kv, length - 1), at = length - 1 - slot * kv.block_len;
      char* to = kv.base + (head_part - kv.base) + table[slot] * kv.block_bytes;
      for (int w = threadIdx.x; w < kKeyRow / 4; w += kDecodeWarps * 32) {
        *reinterpret_cast<uint32_t*>(to + at * kKeyRow + 4 * w) = newest.row[0][w];
      }
      for (int w = threadIdx.x; w < kValueRow / 4; w += kDecodeWarps * 32) {
        *reinterpret_cast<uint32_t*>(to + kv.v_offset + at * kValueRow + 4 * w) = newest.row[1][w];
      }
      if (kKeyCodes && threadIdx.x < 2) {
        *reinterpret_cast<uint32_t*>(to + (threadIdx.x == 0 ? kv.k_params_offset : kv.v_params_offset) + at * 4) =
            newest.param[threadIdx.x];
      }
    }
  } else {
    wait_prior_grid();
    allow_next_grid();
    if (tile < last && !early) {
      load_keys(tile);
      load_values(tile);
    }
  }

  // The queries: head r of the group, the elements that pair with this lane's of K.
  uint32_t q[kSteps][2];
  float q_sum = 0.0f, q_bias = 0.0f;  // of the elements; of the elements times what the bytes' numbers begin at
#pragma unroll
  for (int c = 0; c < K::kRounds; ++c) {
    const int piece = t + 4 * c;
    const bool ok = r < heads_here && (K::kWhole || piece < K::kPieces);
    uint32_t v[K::kElements / 2];
#pragma unroll
    for (int j = 0; j < K::kElements / 8; ++j) {
      uint4 w = make_uint4(0, 0, 0, 0);
      if constexpr (kRotate) {
        if (ok) w = *reinterpret_cast<const uint4*>(newest.q[r] + piece * K::kElements + j * 8);
      } else {
        const uint16_t* p = static_cast<const uint16_t*>(a.q) + i * a.q_stride +
                            static_cast<int64_t>(head0 + r) * D + piece * K::kElements + j * 8;
        if (ok) w = load16(p);
      }
      v[4 * j] = w.x, v[4 * j + 1] = w.y, v[4 * j + 2] = w.z, v[4 * j + 3] = w.w;
    }
    if (kKeyBits != 16 && a.bf16) {
#pragma unroll
      for (int j = 0; j < K::kElements / 2; ++j) {
        const float2 f = Num<__nv_bfloat16>::to_float2(v[j]);
        v[j] = Num<__half>::pack(f.x, f.y);
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
      if (kKeyCodes) {
        const float2 f0 = Num<__half>::to_float2(x0), f1 = Num<__half>::to_float2(x1);
        q_sum += f0.x + f0.y + f1.x + f1.y;
        q_bias += 1024.0f * (f0.x + f0.y) + (kKeyBits == 4 ? 64.0f : 1024.0f) * (f1.x + f1.y);
      }
      q[c * (K::kElements / 4) + j][0] = x0;
      q[c * (K::kElements / 4) + j][1] = x1;
    }
  }
  float sum_q[2] = {0.0f, 0.0f}, bias_q[2] = {0.0f, 0.0f};  // of heads 2t and 2t + 1
  if (kKeyCodes) {
#pragma unroll
    for (int offset = 1; offset < 4; offset *= 2) {
      q_sum += __shfl_xor_sync(0xffffffffu, q_sum, offset);
      q_bias += __shfl_xor_sync(0xffffffffu, q_bias, offset);
    }
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      sum_q[e] = __shfl_sync(0xffffffffu, q_sum, t * 8 + e * 4);
      bias_q[e] = __shfl_sync(0xffffffffu, q_bias, t * 8 + e * 4);
    }
  }
  const float unit_scale = a.softcap > 0.0f ? kLog2e : a.scale * kLog2e;

  for (; tile < last; tile += step_tokens) {
    if (kRotate && tile + 16 >= length) put_newest(tile);
    constexpr int kChains = kKeyBits == 16 ? 1 : 2;
    float chains[kChains][4] = {};
#pragma unroll
    for (int c = 0; c < K::kRounds; ++c) {
#pragma unroll
      for (int j = 0; j < K::kElements / 4; ++j) {
        uint32_t k0, k1, k2, k3;
        if (kKeyBits == 16) {
          k0 = key[c][0][2 * j % K::kWords], k1 = key[c][1][2 * j % K::kWords];
          k2 = key[c][0][(2 * j + 1) % K::kWords], k3 = key[c][1][(2 * j + 1) % K::kWords];
        } else if (kFp8) {
          const uint32_t lo = key[c][0][j % K::kWords], hi = key[c][1][j % K::kWords];
          k0 = from_fp8(lo & 0xffffu), k2 = from_fp8(lo >> 16);
          k1 = from_fp8(hi & 0xffffu), k3 = from_fp8(hi >> 16);
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
        mma<T>(chains[step % kChains], k0, k1, k2, k3, q[step][0], q[step][1]);
      }
    }
    float s[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) s[j] = kChains == 1 ? chains[0][j] : chains[0][j] + chains[kChains - 1][j];
    if (kKeyCodes) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float2 p = kv_param(key_param[h]);
#pragma unroll
        for (int e = 0; e < 2; ++e) s[2 * h + e] = fmaf(p.x, s[2 * h + e] - bias_q[e], p.y * sum_q[e]);
      }
    }
    const int next = tile + step_tokens;
    if (next < last) load_keys(next);

    if (a.softcap > 0.0f) {
#pragma unroll
      for (int j = 0; j < 4; ++j) s[j] = a.softcap * tanhf(s[j] * a.scale / a.softcap);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) s[j] *= unit_scale;
    if (tile + 16 > length || tile < oldest) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int token = tile + r + 8 * h;
        if (token >= length || token < oldest) s[2 * h] = s[2 * h + 1] = -INFINITY;
      }
    }
    float best[2] = {fmaxf(s[0], s[2]), fmaxf(s[1], s[3])};
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
      if (kValueCodes) {
        param = kv_param(value_param[h]);
        if (tile + 16 > length && tile + r + 8 * h >= length) param = make_float2(0.0f, 0.0f);  // it may be NaN
      }
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const float v = top[e] == -INFINITY ? 0.0f : exp2_fast(s[2 * h + e] - top[e]);
        mass[e] += v;
        if (!kValueCodes) {
          p[2 * h + e] = v;
        } else {  // v * (scale * (u - centre) + zero + centre * scale); the factor 256 keeps small scales normal in f16
          constexpr float centre = kValueBits == 8 ? 128.0f : 8.0f;
          p[2 * h + e] = v * param.x * 256.0f;
          shift[e] = fmaf(v, fmaf(centre, param.x, param.y), shift[e]);
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
        } else if (kFp8) {
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            const uint32_t x = permute(a0, b0, j == 0 ? 0x5140 : 0x7362), y = permute(a1, b1, j == 0 ? 0x5140 : 0x7362);
            mma<T>(o[(j0 + j) % kTiles], from_fp8(x & 0xffffu), from_fp8(x >> 16), from_fp8(y & 0xffffu),
                   from_fp8(y >> 16), p0, p1);
          }
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
            constexpr uint32_t even = 0x64086408u, odd = 0x54805480u;  // 1024 + 8, 64 + 8
#pragma unroll
            for (int j = 0; j < 2; ++j) {
              mma<T>(o[(j0 + half * 2 + j) % kTiles], sub2<__half>(nibbles(x, 2 * j), even),
                     sub2<__half>(nibbles(x, 2 * j + 1), odd), sub2<__half>(nibbles(y, 2 * j), even),
                     sub2<__half>(nibbles(y, 2 * j + 1), odd), p0, p1);
            }
          }
        }
      }
    }
    if (next < last) load_values(next);
  }

  // The warps' results: element e of a lane is dim piece * kElements + e % kElements.
  float* tops = shared + kDecodeWarps * R::kWarp;
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
  float* mine = shared + warp * R::kWarp + 8 * t + r;
  constexpr float unit = kValueCodes ? 1.0f / 256.0f : 1.0f;
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
#pragma unroll
    for (int x = 0; x < 2; ++x) {
      mine[(2 * j + x) * R::kStride] = fmaf(o[j][2 * x], unit, shift[0]);
      mine[(2 * j + x) * R::kStride + 32] = fmaf(o[j][2 * x + 1], unit, shift[1]);
    }
  }
  __syncthreads();
  merge_results<kValueBits, D>(a, {i, head0, heads_here, split, active, place, i * head_units + head_unit}, shared);
}

template <class T, int kKeyBits, int kValueBits, bool kRotate = false, bool kFp8 = false>
void run_decode(const DecodeArgs& a, const KvArgs& kv, int32_t head_dim, int32_t n, cudaStream_t stream) {
  with_head_dim("attention_decode", head_dim, [&](auto d) {
    constexpr int D = decltype(d)::value;
    const unsigned head_units = static_cast<unsigned>(kv.kv_heads * a.head_groups);
    const unsigned units = static_cast<unsigned>(a.splits), rows = static_cast<unsigned>(n);
    const dim3 grid = a.plan != nullptr ? dim3(head_units, units) : dim3(units, head_units, rows);
    const auto go = [&](auto blocks) {
      const auto kernel = decode_kernel<T, kKeyBits, kValueBits, D, kRotate, decltype(blocks)::value, kFp8>;
      const size_t bytes = Results<kValueBits, D>::kFloats * sizeof(float);
      allow_shared("attention_decode", kernel, bytes);
      launch("attention_decode", kernel, grid, dim3(kDecodeWarps * 32), bytes, stream, a, kv);
    };
    // Four blocks a multiprocessor spill registers with a 16-bit cache: taken where all blocks then run at once.
    const int64_t blocks = int64_t{rows} * head_units;
    constexpr int kMost = D == 256 ? 2 : 4, kLess = kKeyBits == 16 && D == 128 ? 3 : kMost;
    const bool at_once = blocks > kLess * multiprocessors() && blocks <= kMost * multiprocessors();
    if (!at_once) return go(std::integral_constant<int, kLess>{});
    go(std::integral_constant<int, kMost>{});
  });
}

}  // namespace
#endif

}  // namespace deploykit::cuda
