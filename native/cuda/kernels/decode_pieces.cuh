// What the parts of decode attention share: its arguments, how lanes take rows of the cache, where the warps leave their
// results, and the rotation of a row's own token.
#pragma once

#include "cuda/kernels/rope.cuh"

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
  const int32_t* plan;  // attention_plan()'s, or nullptr: every row in `splits` parts
  int32_t heads, group, head_groups, window, splits;  // splits: with a plan, the units it has room for
  float scale, softcap;
  bool bf16;
  RopeCall rope;  // where the kernel rotates
};

inline constexpr int32_t kDecodeMaxParts = 64;  // of one row
inline int32_t decode_head_groups(int32_t heads, int32_t kv_heads) { return (heads / kv_heads + 7) / 8; }

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

// Where the warps leave their results: a lane's element e of head 2t + x at e * kStride + 32 x + 8 t + r. Writers (all
// lanes, one e) and readers (32 pairs of dims that follow one another, one head) hit every bank once.
template <int kValueBits, int D>
struct Results {
  using V = Pieces<kValueBits, D, 8>;
  static constexpr int kStride = 64 + 32 / V::kElements;
  static constexpr int kWarp = V::kRounds * V::kElements * kStride;
  static constexpr int kFloats = kDecodeWarps * kWarp + kDecodeWarps * 16 + 8;  // and max, sum of each; the heads' max
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

// What a block keeps of its row's own token and queries where it rotates.
template <int D>
struct Newest {
  __align__(16) uint16_t q[8][D];
  __align__(16) uint32_t row[2][D / 2];  // K and V as they lie in the KV memory
  uint32_t param[2];
};
template <>
struct Newest<0> {};

// Rotated queries and, where `own`, the row's own token, from what the kernel in front wrote. A: the activations' type.
template <class A, int kKeyBits, int kValueBits, int D, bool kFp8>
__device__ __forceinline__ void rotate_newest(const DecodeArgs& a, int64_t i, int kv_head, int head0, int heads, bool own,
                                              const float2* angles, float* buffer, Newest<D>& newest) {
  const int warp = threadIdx.x / 32, units = heads + (own ? 2 : 0);  // K, V, queries
  constexpr int kMost = (8 + 2 + kDecodeWarps - 1) / kDecodeWarps;
  Row<A, D> rows[kMost];
#pragma unroll
  for (int j = 0; j < kMost; ++j) {
    const int unit = warp + j * kDecodeWarps, part = own ? unit : unit + 2;
    if (unit >= units) continue;
    rows[j].load(part >= 2 ? static_cast<const A*>(a.q) + i * a.q_stride + static_cast<int64_t>(head0 + part - 2) * D
                           : static_cast<const A*>(part == 0 ? a.rope.k : a.rope.v) + i * a.rope.kv_stride + kv_head * D);
  }
#pragma unroll
  for (int j = 0; j < kMost; ++j) {
    const int unit = warp + j * kDecodeWarps, part = own ? unit : unit + 2;
    if (unit >= units) continue;
    Row<A, D>& x = rows[j];
    if (part >= 2) {
      rope_query(x, a.rope, i, buffer, angles);
      if (kKeyBits == 4) x.mix();
      x.store(newest.q[part - 2]);
      continue;
    }
    if (part == 0) {
      rope_key(x, a.rope, buffer, angles);
      if (kKeyBits == 4) x.mix();
    }
    const int bits = part == 0 ? kKeyBits : kValueBits;
    if (bits == 16) {
      x.store(newest.row[part]);
    } else if (kFp8) {
      x.store_fp8(reinterpret_cast<char*>(newest.row[part]));
    } else {
      x.store_quantized(reinterpret_cast<char*>(newest.row[part]), reinterpret_cast<char*>(&newest.param[part]), bits);
    }
  }
}

}  // namespace
#endif

}  // namespace deploykit::cuda
