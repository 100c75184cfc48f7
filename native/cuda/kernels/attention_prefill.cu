// Prefill attention, causal, over 16-bit paged KV memory: the online-softmax tiling of FlashAttention on wgmma
// (sm_90a).
//
// A block owns 128 queries of one head, a warpgroup 64 of them; keys and values come in tiles of kKeys tokens through
// two stages of shared memory each, gathered from their blocks by cp.async into the swizzled layout that wgmma reads.
// Scores stay in registers, where they become the first operand of the second product. Head sizes that aren't a
// multiple of 64 are padded with zeros.
#include "cuda/kernels/attention.cuh"
#include "cuda/kernels/wgmma.cuh"

namespace deploykit::cuda {
namespace {

constexpr float kLog2e = 1.4426950408889634f;

struct PrefillArgs {
  const void* q;
  int64_t q_stride;
  void* out;
  int64_t out_stride;
  const float* sinks;
  const int32_t* q_start;
  const int32_t* index0;
  const int32_t* row;
  int32_t head_dim, group, window, tiles, block_shift;
  float scale, softcap;
};

template <int D>  // padded
struct PrefillShape {
  static constexpr int kQueries = 128;
  static constexpr int kKeys = D == 256 ? 64 : 128;
  static constexpr int kQueryBytes = kQueries * D * 2;
  static constexpr int kTileBytes = kKeys * D * 2;
  static constexpr int kSharedBytes = kQueryBytes + 4 * kTileBytes + 1024;  // and room to align
};

// Byte of (row, 16-byte unit) in a tile of `rows` rows: 64 elements (8 units) a half, swizzled.
__device__ __forceinline__ int tile_byte(int rows, int row, int unit) {
  return (unit / 8) * rows * 128 + row * 128 + ((unit % 8) ^ (row % 8)) * 16;
}

// kv_part() with a shift where block_len is a power of two.
__device__ __forceinline__ const char* token_part(const PrefillArgs& a, const KvArgs& kv, const int32_t* table,
                                                  int head, int index, int& place) {
  const int slot = a.block_shift >= 0 ? index >> a.block_shift : index / kv.block_len;
  place = index - slot * kv.block_len;
  return kv.base + static_cast<int64_t>(table[slot]) * kv.block_bytes + kv.layer_offset + head * kv.head_bytes;
}

template <class T, int D>
__global__ void __launch_bounds__(256, 1) prefill_kernel(const PrefillArgs a, const KvArgs kv) {
#ifdef DEPLOYKIT_WGMMA  // built for sm_90a
  using S = PrefillShape<D>;
  constexpr int kUnits = D / 8;  // 16-byte units of a padded row
  extern __shared__ char raw[];
  char* shared = raw + ((1024 - (shared_address(raw) & 1023)) & 1023);
  char* queries = shared;
  char* keys = queries + S::kQueryBytes;
  char* values = keys + 2 * S::kTileBytes;

  wait_prior_grid();
  allow_next_grid();
  const int head = blockIdx.x, sequence = blockIdx.y;
  const int q_begin = a.q_start[sequence], count = a.q_start[sequence + 1] - q_begin;
  const int m0 = (a.tiles - 1 - static_cast<int>(blockIdx.z)) * S::kQueries;  // the longest first
  if (m0 >= count) return;
  const int index0 = a.index0[sequence];
  const int32_t* table = kv.block_table + a.row[sequence] * kv.max_blocks;
  const int kv_head = head / a.group;
  const int length = index0 + min(m0 + S::kQueries, count);  // keys that any query of this block sees
  const int oldest = a.window > 0 ? max(0, index0 + m0 - a.window + 1) : 0;
  const int n_begin = oldest / S::kKeys, n_end = (length + S::kKeys - 1) / S::kKeys;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, wg = warp / 4, r = lane / 4, t = lane % 4;

  const int unit = threadIdx.x % kUnits, first_row = threadIdx.x / kUnits;
  constexpr int kRowsATime = 256 / kUnits;
  const bool unit_ok = unit * 8 < a.head_dim;
  const auto load_tile = [&](int stage, int tile) {
    if (tile >= n_end) return;
#pragma unroll
    for (int i = 0; i < S::kKeys / kRowsATime; ++i) {
      const int row = first_row + i * kRowsATime, index = tile * S::kKeys + row;
      const bool ok = unit_ok && index < length && index >= (oldest & ~15);
      int place = 0;
      const char* from = kv.base;
      if (ok) {
        from = token_part(a, kv, table, kv_head, index, place);
        from += place * kv.k_row + unit * 16;
      }
      const int to = stage * S::kTileBytes + tile_byte(S::kKeys, row, unit);
      copy_async16(keys + to, from, ok);
      copy_async16(values + to, ok ? from + kv.v_offset : from, ok);
    }
  };
  {
    const T* q = static_cast<const T*>(a.q) + static_cast<int64_t>(q_begin) * a.q_stride + head * a.head_dim;
#pragma unroll
    for (int i = 0; i < S::kQueries / kRowsATime; ++i) {
      const int row = first_row + i * kRowsATime;
      const bool ok = unit_ok && m0 + row < count;
      copy_async16(queries + tile_byte(S::kQueries, row, unit), ok ? q + (m0 + row) * a.q_stride + unit * 8 : q, ok);
    }
  }
  load_tile(0, n_begin);
  copy_commit();

  float o[D / 2];
#pragma unroll
  for (int i = 0; i < D / 2; ++i) o[i] = 0.0f;
  float top[2] = {-INFINITY, -INFINITY}, mass[2] = {0.0f, 0.0f};
  const int my_row = m0 + wg * 64 + warp % 4 * 16 + r;  // and + 8
  const int wg_first = index0 + m0 + wg * 64;           // index of the warpgroup's first query
  const float unit_scale = a.softcap > 0.0f ? kLog2e : a.scale * kLog2e;
  const uint32_t q_address = shared_address(queries) + wg * 64 * 128;

  for (int tile = n_begin; tile < n_end; ++tile) {
    const int stage = (tile - n_begin) % 2;
    copy_wait<0>();
    async_proxy_fence();
    __syncthreads();  // this tile is there for all, and nobody reads the other stage any more
    load_tile(stage ^ 1, tile + 1);
    copy_commit();

    float s[S::kKeys / 2];
    const uint32_t k_address = shared_address(keys) + stage * S::kTileBytes;
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
      wgmma_shared<T, S::kKeys>(s, matrix_descriptor(q_address + (k / 4) * S::kQueries * 128 + (k % 4) * 32, 16, 1024),
                                matrix_descriptor(k_address + (k / 4) * S::kKeys * 128 + (k % 4) * 32, 16, 1024),
                                k > 0);
    }
    wgmma_commit();
    wgmma_wait<0>();

    if (a.softcap > 0.0f) {
#pragma unroll
      for (int i = 0; i < S::kKeys / 2; ++i) s[i] = a.softcap * tanhf(s[i] * a.scale / a.softcap);
    }
    const int key0 = tile * S::kKeys;
    if (key0 + S::kKeys > wg_first + 1 || (a.window > 0 && key0 <= wg_first + 63 - a.window)) {
#pragma unroll
      for (int i = 0; i < S::kKeys / 2; ++i) {
        const int key = key0 + i / 4 * 8 + 2 * t + i % 2, query = index0 + my_row + (i % 4) / 2 * 8;
        if (key > query || (a.window > 0 && key <= query - a.window)) s[i] = -INFINITY;
      }
    }
    float best[2] = {top[0], top[1]};
#pragma unroll
    for (int i = 0; i < S::kKeys / 2; ++i) best[i % 4 / 2] = fmaxf(best[i % 4 / 2], s[i]);
    float base[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      best[h] = fmaxf(best[h], __shfl_xor_sync(0xffffffffu, best[h], 1));
      best[h] = fmaxf(best[h], __shfl_xor_sync(0xffffffffu, best[h], 2));
      base[h] = best[h] == -INFINITY ? 0.0f : best[h] * unit_scale;
      const float down = exp2_fast(top[h] * unit_scale - base[h]);  // 0 at the first tile
      top[h] = best[h];
      mass[h] *= down;
#pragma unroll
      for (int i = 0; i < D / 8; ++i) {
        o[i * 4 + h * 2] *= down;
        o[i * 4 + h * 2 + 1] *= down;
      }
    }
    uint32_t p[S::kKeys / 4];
#pragma unroll
    for (int i = 0; i < S::kKeys / 4; ++i) {
      const int h = i % 2;
      const float x = exp2_fast(fmaf(s[2 * i], unit_scale, -base[h])),
                  y = exp2_fast(fmaf(s[2 * i + 1], unit_scale, -base[h]));
      mass[h] += x + y;
      p[i] = Num<T>::pack(x, y);
    }
    const uint32_t v_address = shared_address(values) + stage * S::kTileBytes;
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < S::kKeys / 16; ++k) {
      wgmma_registers<T, D>(o, p[4 * k], p[4 * k + 1], p[4 * k + 2], p[4 * k + 3],
                            matrix_descriptor(v_address + k * 2048, S::kKeys * 128, 1024));
    }
    wgmma_commit();
    wgmma_wait<0>();
  }
  copy_wait<0>();

#pragma unroll
  for (int h = 0; h < 2; ++h) {
    mass[h] += __shfl_xor_sync(0xffffffffu, mass[h], 1);
    mass[h] += __shfl_xor_sync(0xffffffffu, mass[h], 2);
    float factor = 1.0f;
    if (a.sinks != nullptr) {
      const float sink = a.sinks[head] * kLog2e, here = top[h] * unit_scale, higher = fmaxf(here, sink);
      factor = exp2_fast(here - higher);
      mass[h] = mass[h] * factor + exp2_fast(sink - higher);
    }
    factor /= mass[h];
    const int m = my_row + h * 8;
    if (m >= count) continue;
    T* out = static_cast<T*>(a.out) + static_cast<int64_t>(q_begin + m) * a.out_stride + head * a.head_dim;
#pragma unroll
    for (int i = 0; i < D / 8; ++i) {
      const int dim = i * 8 + 2 * t;
      if (dim < a.head_dim) {
        *reinterpret_cast<uint32_t*>(out + dim) =
            Num<T>::pack(o[i * 4 + h * 2] * factor, o[i * 4 + h * 2 + 1] * factor);
      }
    }
  }
#else
  __trap();
#endif
}

template <class T, int D>
void run(const PrefillArgs& a, const KvArgs& kv, int32_t heads, int32_t sequences, cudaStream_t stream) {
  using S = PrefillShape<D>;
  const auto kernel = prefill_kernel<T, D>;
  allow_shared("attention_prefill", kernel, S::kSharedBytes);
  launch("attention_prefill", kernel,
         dim3(static_cast<unsigned>(heads), static_cast<unsigned>(sequences), static_cast<unsigned>(a.tiles)),
         dim3(256), S::kSharedBytes, stream, a, kv);
}

template <class T>
void pick(const PrefillArgs& a, const KvArgs& kv, int32_t heads, int32_t sequences, cudaStream_t stream) {
  if (a.head_dim == 64) return run<T, 64>(a, kv, heads, sequences, stream);
  if (a.head_dim <= 128) return run<T, 128>(a, kv, heads, sequences, stream);
  return run<T, 256>(a, kv, heads, sequences, stream);
}

}  // namespace

void attention_prefill(const AttentionCall& call, const KvView& kv, int32_t sequences, const int32_t* q_start,
                       const int32_t* index0, const int32_t* row, int32_t max_queries, cudaStream_t stream) {
  const char* name = "attention_prefill";
  const bool bf16 = call.dtype == DType::bf16;
  require(call.dtype == DType::f16 || bf16, name, "dtype is f16 or bf16");
  require(kv.type == (bf16 ? KvType::bf16 : KvType::f16), name, "the cache is 16-bit, of the activations' type");
  require(kv.kv_heads >= 1 && call.heads % kv.kv_heads == 0, name, "kv_heads divides heads");
  require(sequences >= 1 && sequences <= 65535 && max_queries >= 1, name, "1 <= sequences <= 65535 with queries");
  require(call.q_stride % 8 == 0 && call.out_stride % 8 == 0, name, "strides are multiples of 8");
  with_head_dim(name, kv.head_dim, [](auto) {});
  if (compute_capability() != 90)
    throw Error("unsupported", "cuda kernel attention_prefill needs a GPU of compute capability 9.0");
  PrefillArgs a = {};
  a.q = call.q, a.q_stride = call.q_stride, a.out = call.out, a.out_stride = call.out_stride, a.sinks = call.sinks;
  a.q_start = q_start, a.index0 = index0, a.row = row;
  a.head_dim = kv.head_dim, a.group = call.heads / kv.kv_heads, a.window = call.window;
  a.tiles = static_cast<int32_t>(ceil_div(max_queries, 128));
  require(a.tiles <= 65535, name, "max_queries <= 8388480");
  a.block_shift = -1;
  for (int s = 4; s < 20; ++s) {
    if (kv.block_len == 1 << s) a.block_shift = s;
  }
  a.scale = call.scale, a.softcap = call.softcap;
  const KvArgs args = kv_args(name, kv);
  if (bf16) {
    pick<__nv_bfloat16>(a, args, call.heads, sequences, stream);
  } else {
    pick<__half>(a, args, call.heads, sequences, stream);
  }
}

}  // namespace deploykit::cuda
