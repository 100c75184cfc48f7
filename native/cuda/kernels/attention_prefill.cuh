// Prefill attention on wgmma (sm_90a), causal: FlashAttention-3's schedule over paged 16-bit KV memory.
//
// A block stays on its multiprocessor and takes items in turn: 128 rows (query, head) of one KV head, the heads of a
// group packed beside one another, so a short prompt fills its rows too. One warp fetches: keys and values through
// tensor maps over the pool (a copy a piece of a block and 64 dims, straight into the swizzled layout), two stages
// each. Two warpgroups of 64 rows compute. Inside a warpgroup the scores of the next tile are being multiplied while
// this one's values are; the two take turns at the tensor cores (named barriers), so one's softmax runs under the
// other's products. Tiles of keys are taken from the last to the first: masks come first, and the maximum hardly moves
// afterwards; sums are rescaled only where a row's maximum grew by more than 2^8 (each row decides for itself, so a
// row's result doesn't depend on its neighbours). Blocks take items from one list, the longest first.
#pragma once

#include "cuda/kernels/pipeline.cuh"
#include "cuda/kernels/prefill_list.cuh"

namespace deploykit::cuda {

// What a call reads through tensor maps.
struct PrefillMaps {
  CUtensorMap q;      // [D, group, kv_heads, tokens], boxes of 64 x 2^pack_shift x 1 x 128 / 2^pack_shift
  CUtensorMap kv;     // [D, block_len, K and V, kv_heads, blocks], boxes of 64 x box
  CUtensorMap fresh;  // [D, tokens, K and V, kv_heads, 1], boxes of 64 x kKeys
};

constexpr int prefill_padded(int head_dim) { return head_dim <= 64 ? 64 : head_dim <= 128 ? 128 : 256; }
constexpr int prefill_keys(int head_dim) { return prefill_padded(head_dim) == 256 ? 64 : 128; }

// What attention_prefill() asks of a kernel.
struct PrefillWork {
  PrefillMaps maps;
  PrefillArgs args;
};
PrefillWork prefill_work(const AttentionCall& call, const KvView& kv, int32_t sequences, const int32_t* q_start,
                         const int32_t* index0, const int32_t* row, int32_t max_queries, const FreshKv& fresh);

void attention_prefill_f16(const PrefillMaps& maps, const PrefillArgs& a, cudaStream_t stream);
void attention_prefill_bf16(const PrefillMaps& maps, const PrefillArgs& a, cudaStream_t stream);

#ifdef __CUDACC__
namespace {

constexpr float kPrefillLog2e = 1.4426950408889634f;
constexpr int kProducerThreads = 128, kConsumerThreads = 256;
constexpr int kStages = 2;

// Choices that the bench compares.
struct PrefillChoice {
  static constexpr bool kAlternate = true;  // the warpgroups take turns at the tensor cores
  static constexpr float kSlack = 8.0f;     // log2 of the growth that makes a row rescale
  static constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;
};

template <int D>  // padded
struct PrefillShape {
  static constexpr int kKeys = D == 256 ? 64 : 128;
  static constexpr int kHalves = D / 64;
  static constexpr int kQueryBytes = kPrefillRows * D * 2;
  static constexpr int kTileBytes = kKeys * D * 2;
  static constexpr int kQueryStages = D == 256 ? 1 : 2;
  static constexpr int kSharedBytes = 1024 + kQueryStages * kQueryBytes + 2 * kStages * kTileBytes;  // 1024: to align
};

struct PrefillShared {
  uint64_t k_full[kStages], k_empty[kStages], v_full[kStages], v_empty[kStages], q_full[2], q_empty[2];
  PrefillItem item[2];
};

template <int N>
__device__ __forceinline__ void keep_registers(float (&d)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

#ifdef DEPLOYKIT_WGMMA  // built for sm_90a
// The fetching warp.
template <int D>
__device__ __forceinline__ void prefill_fetch(const PrefillMaps& maps, const PrefillArgs& a, PrefillShared& sync,
                                              char* queries, char* keys, char* values) {
  using S = PrefillShape<D>;
  const int lane = threadIdx.x % 32;
  PrefillList list;
  list.enter(a, 0);
  int fetched[2] = {0, 0};
  PrefillItem item = {};
  const auto fetch = [&](int tile, int value) {
    const int box = item.fresh ? S::kKeys : a.box, boxes = S::kKeys / box;
    const int mine = lane % boxes, half = lane / boxes, key = tile * S::kKeys + mine * box;
    const bool ok = half < S::kHalves && key < item.length && key + box > item.oldest;
    int token = item.q_begin + key, block = 0;
    if (ok && !item.fresh) {
      const int slot = key / a.block_len;
      token = key - slot * a.block_len;
      block = a.block_table[item.row * a.max_blocks + slot];
    }
    const int stage = fetched[value] % kStages;
    uint64_t* full = (value ? sync.v_full : sync.k_full) + stage;
    barrier_wait((value ? sync.v_empty : sync.k_empty) + stage, (fetched[value] / kStages & 1) ^ 1);
    const int copies = __popc(__ballot_sync(0xffffffffu, ok));
    if (lane == 0) barrier_expect(full, static_cast<uint32_t>(copies * box * 128));
    __syncwarp();
    if (ok) {
      tensor_copy((value ? values : keys) + stage * S::kTileBytes + half * S::kKeys * 128 + mine * box * 128,
                  item.fresh ? &maps.fresh : &maps.kv, full, half * 64, token, value, item.kv_head, block);
    }
    ++fetched[value];
  };
  uint32_t* counters = list_counters[a.turn];
  int work = static_cast<int>(blockIdx.x);
  int done = 0;
  while (list.take<S::kKeys>(a, work, item)) {
    int next = 0;
    if (lane == 0) next = static_cast<int>(gridDim.x + atomicAdd(counters, 1u));
    if (done == 0) wait_prior_grid();
    fetch(item.n_end - 1, 0);
    const int q_stage = done % S::kQueryStages;
    barrier_wait(&sync.q_empty[q_stage], (done / S::kQueryStages & 1) ^ 1);
    if (lane == 0) {
      sync.item[q_stage] = item;
      barrier_expect(&sync.q_full[q_stage], S::kQueryBytes);
#pragma unroll
      for (int half = 0; half < S::kHalves; ++half) {
        tensor_copy(queries + q_stage * S::kQueryBytes + half * kPrefillRows * 128, &maps.q, &sync.q_full[q_stage],
                    half * 64, item.head0, item.kv_head, item.q_begin + item.m0);
      }
    }
    __syncwarp();
    ++done;
    for (int tile = item.n_end - 2; tile >= item.n_begin; --tile) {
      fetch(tile, 0);
      fetch(tile + 1, 1);
    }
    fetch(item.n_begin, 1);
    work = __shfl_sync(0xffffffffu, next, 0);
  }
  if (lane == 0 && atomicAdd(counters + 1, 1u) == gridDim.x - 1) counters[0] = counters[1] = 0;
  const int q_stage = done % S::kQueryStages;
  barrier_wait(&sync.q_empty[q_stage], (done / S::kQueryStages & 1) ^ 1);
  if (lane == 0) {
    sync.item[q_stage].stop = 1;
    barrier_arrive(&sync.q_full[q_stage]);
  }
}

// A computing warpgroup.
template <class T, int D, bool kSoftcap, class Choice>
__device__ __forceinline__ void prefill_compute(const PrefillArgs& a, PrefillShared& sync, const char* queries,
                                                const char* keys, char* values) {
  using S = PrefillShape<D>;
  constexpr int kKeys = S::kKeys;
  const int wg = threadIdx.x / 128 - 1, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, r = lane / 4,
            t = lane % 4;
  const int thread = threadIdx.x % 128;
  const float unit_scale = kSoftcap ? kPrefillLog2e : a.scale * kPrefillLog2e;
  const int my_row = wg * 64 + warp * 16 + r;  // and + 8
  const uint32_t q_base = shared_address(queries) + wg * 64 * 128;
  const uint32_t k_base = shared_address(keys), v_base = shared_address(values);
  int taken = 0;  // tiles, since the start
  int items = 0;  // begun
  float o[D / 2], s[kKeys / 2];
  uint32_t p[kKeys / 4];

  // The next item's first scores.
  const auto multiply_scores = [&](int q_stage, int k_stage) {
    const uint32_t q_address = q_base + q_stage * S::kQueryBytes, k_address = k_base + k_stage * S::kTileBytes;
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
      wgmma_shared<T, kKeys>(s, matrix_descriptor(q_address + (k / 4) * kPrefillRows * 128 + (k % 4) * 32, 16, 1024),
                             matrix_descriptor(k_address + (k / 4) * kKeys * 128 + (k % 4) * 32, 16, 1024), k > 0);
    }
    wgmma_commit();
  };
  const auto begin_item = [&] {  // false: there is none; the products are of no use then, but no branch splits them
    const int q_stage = items % S::kQueryStages;
    barrier_wait(&sync.q_full[q_stage], items / S::kQueryStages & 1);
    const bool one = sync.item[q_stage].stop == 0;
    if (one) barrier_wait(&sync.k_full[taken % kStages], taken / kStages & 1);
    multiply_scores(q_stage, taken % kStages);
    return one;
  };
  // The other's turn comes when this one has issued its products: barriers 1 and 2. Barriers 3, 4: of a warpgroup.
  if (Choice::kAlternate && wg == 1) named_barrier_arrive(1, kConsumerThreads);

  bool more = begin_item();
  while (more) {
    const int q_stage = items % S::kQueryStages;
    const PrefillItem& item = sync.item[q_stage];
    const int q_begin = item.q_begin, count = item.count, m0 = item.m0, kv_head = item.kv_head, head0 = item.head0,
              n_begin = item.n_begin, n_end = item.n_end, stored = item.stored;
    const int first_query = item.index0 + m0;
    const int wg_first = first_query + (wg * 64 >> a.pack_shift), wg_last = first_query + (wg * 64 + 63 >> a.pack_shift);
    ++items;

    float base[2] = {-INFINITY, -INFINITY}, mass[2] = {0.0f, 0.0f}, down[2] = {1.0f, 1.0f};
    const auto multiply_values = [&](int stage) {
      const uint32_t v_address = v_base + stage * S::kTileBytes;
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < kKeys / 16; ++k) {
        wgmma_registers<T, D>(o, p[4 * k], p[4 * k + 1], p[4 * k + 2], p[4 * k + 3],
                              matrix_descriptor(v_address + k * 2048, kKeys * 128, 1024));
      }
      wgmma_commit();
    };
    // Rows of V behind the sequence's last may hold anything, NaN too, and 0 * NaN isn't 0. What no copy wrote is an
    // earlier tile's or zero.
    const auto clear_unknown = [&](int tile, int stage) {
      if (tile * kKeys + kKeys <= stored) return;
      char* tile_values = values + stage * S::kTileBytes;
      constexpr int kUnits = S::kHalves * 8;
      for (int i = (stored - tile * kKeys) * kUnits + thread; i < kKeys * kUnits; i += 128) {
        const int row = i / kUnits, unit = i % kUnits;
        *reinterpret_cast<uint4*>(tile_values + (unit / 8) * kKeys * 128 + row * 128 + unit % 8 * 16) =
            make_uint4(0, 0, 0, 0);
      }
      async_proxy_fence();
      named_barrier(3 + wg, 128);
    };
    // Scores to probabilities (float32, in place) against base[], which grows where it must: then down[] says by what
    // o and mass shrink. True where any row of the warp does.
    const auto soften = [&](int tile) {
      const int key0 = tile * kKeys;
      if (kSoftcap) {  // cap tanh(x / cap) = cap - 2 cap / (1 + e^(2 x / cap))
        const float inner = 2.0f * kPrefillLog2e * a.scale / a.softcap;
#pragma unroll
        for (int i = 0; i < kKeys / 2; ++i) {
          s[i] = a.softcap - __fdividef(2.0f * a.softcap, 1.0f + exp2_fast(s[i] * inner));
        }
      }
      if (key0 + kKeys > wg_first + 1 || (a.window > 0 && key0 <= wg_last - a.window)) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          // Key column 8 j + 2 t + e is seen where its offset is in (low, high].
          const int query = first_query + (my_row + 8 * h >> a.pack_shift) - key0 - 2 * t;
          const int low = a.window > 0 ? query - a.window : -0x40000000;
#pragma unroll
          for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              const int column = 8 * j + e;
              if (column > query || column <= low) s[4 * j + 2 * h + e] = -INFINITY;
            }
          }
        }
      }
      bool any = false;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float best[2] = {s[2 * h], s[2 * h + 1]};
#pragma unroll
        for (int j = 1; j < kKeys / 8; ++j) {
          best[0] = fmaxf(best[0], s[4 * j + 2 * h]);
          best[1] = fmaxf(best[1], s[4 * j + 2 * h + 1]);
        }
        best[0] = fmaxf(best[0], best[1]);
        best[0] = fmaxf(best[0], __shfl_xor_sync(0xffffffffu, best[0], 1));
        best[0] = fmaxf(best[0], __shfl_xor_sync(0xffffffffu, best[0], 2)) * unit_scale;
        const bool grows = best[0] > base[h] + Choice::kSlack;
        down[h] = grows ? exp2_fast(base[h] - best[0]) : 1.0f;
        base[h] = grows ? best[0] : base[h];
        any |= grows;
      }
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float offset = base[h] == -INFINITY ? 0.0f : -base[h];
        float sum[2] = {0.0f, 0.0f};
#pragma unroll
        for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            s[4 * j + 2 * h + e] = exp2_fast(fmaf(s[4 * j + 2 * h + e], unit_scale, offset));
            sum[e] += s[4 * j + 2 * h + e];
          }
        }
        mass[h] = fmaf(mass[h], down[h], sum[0] + sum[1]);
      }
      return __any_sync(0xffffffffu, any) != 0;
    };
    const auto pack_scores = [&] {
#pragma unroll
      for (int i = 0; i < kKeys / 4; ++i) p[i] = Num<T>::pack(s[2 * i], s[2 * i + 1]);
    };

    wgmma_wait<0>();
    keep_registers(s);
#pragma unroll
    for (int i = 0; i < D / 2; ++i) o[i] = 0.0f;
    if (lane == 0) barrier_arrive(&sync.k_empty[taken % kStages]);
    if (n_end - 1 == n_begin) barrier_arrive(&sync.q_empty[q_stage]);  // all lanes: each has read the item
    soften(n_end - 1);
    pack_scores();
    for (int tile = n_end - 2; tile >= n_begin; --tile) {
      const int v_stage = taken % kStages, v_phase = taken / kStages & 1;
      ++taken;
      const int k_stage = taken % kStages;
      barrier_wait(&sync.k_full[k_stage], taken / kStages & 1);
      if (Choice::kAlternate) named_barrier(1 + wg, kConsumerThreads);
      multiply_scores(q_stage, k_stage);
      barrier_wait(&sync.v_full[v_stage], v_phase);
      if (tile == n_end - 2) clear_unknown(tile + 1, v_stage);
      multiply_values(v_stage);
      if (Choice::kAlternate) named_barrier_arrive(2 - wg, kConsumerThreads);
      wgmma_wait<1>();
      keep_registers(s);
      if (lane == 0) barrier_arrive(&sync.k_empty[k_stage]);
      if (tile == n_begin) barrier_arrive(&sync.q_empty[q_stage]);
      const bool shrink = soften(tile);
      wgmma_wait<0>();
      keep_registers(o);
      if (lane == 0) barrier_arrive(&sync.v_empty[v_stage]);
      pack_scores();
      if (shrink) {
#pragma unroll
        for (int i = 0; i < D / 2; ++i) o[i] *= down[i % 4 / 2];
      }
    }
    const int v_stage = taken % kStages;
    barrier_wait(&sync.v_full[v_stage], taken / kStages & 1);
    ++taken;
    if (n_end - 1 == n_begin) clear_unknown(n_begin, v_stage);
    multiply_values(v_stage);
    if (S::kQueryStages > 1) {  // the next item's scores are multiplied while this one's rows are written
      more = begin_item();
      wgmma_wait<1>();
    } else {
      wgmma_wait<0>();
    }
    keep_registers(o);
    if (lane == 0) barrier_arrive(&sync.v_empty[v_stage]);

    float factor[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      mass[h] += __shfl_xor_sync(0xffffffffu, mass[h], 1);
      mass[h] += __shfl_xor_sync(0xffffffffu, mass[h], 2);
      factor[h] = 1.0f;
      if (a.sinks != nullptr) {
        const int head = kv_head * a.group + head0 + (my_row + 8 * h & (1 << a.pack_shift) - 1);
        const float sink = a.sinks[head] * kPrefillLog2e, higher = fmaxf(base[h], sink);
        factor[h] = exp2_fast(base[h] - higher);
        mass[h] = mass[h] * factor[h] + exp2_fast(sink - higher);
      }
      factor[h] /= mass[h];
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int query = m0 + (my_row + 8 * h >> a.pack_shift);
      const int head = kv_head * a.group + head0 + (my_row + 8 * h & (1 << a.pack_shift) - 1);
      T* out = static_cast<T*>(a.out) + static_cast<int64_t>(q_begin + query) * a.out_stride + head * a.head_dim;
#pragma unroll
      for (int j = 0; j < D / 32; ++j) {  // the quad trades words so that a lane writes 16 bytes: unit 4 j + t
        uint32_t w[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int at = (4 * j + i) * 4 + 2 * h;
          w[i] = Num<T>::pack(o[at] * factor[h], o[at + 1] * factor[h]);
        }
        const bool odd = t % 2 != 0, high = t >= 2;
        const uint32_t x = __shfl_xor_sync(0xffffffffu, odd ? w[0] : w[1], 1),
                       y = __shfl_xor_sync(0xffffffffu, odd ? w[2] : w[3], 1);
        const uint32_t low0 = odd ? x : w[0], low1 = odd ? w[1] : x, high0 = odd ? y : w[2], high1 = odd ? w[3] : y;
        const uint32_t u = __shfl_xor_sync(0xffffffffu, high ? low0 : high0, 2),
                       v = __shfl_xor_sync(0xffffffffu, high ? low1 : high1, 2);
        const uint4 unit = high ? make_uint4(u, v, high0, high1) : make_uint4(low0, low1, u, v);
        const int dim = (4 * j + t) * 8;
        if (query < count && dim < a.head_dim) *reinterpret_cast<uint4*>(out + dim) = unit;
      }
    }
    if (S::kQueryStages == 1) more = begin_item();
  }
  wgmma_wait<0>();
}
#endif

template <class T, int D, bool kSoftcap, class Choice>
__global__ void __launch_bounds__(kProducerThreads + kConsumerThreads, 1)
    prefill_kernel(const __grid_constant__ PrefillMaps maps, const PrefillArgs a) {
#ifdef DEPLOYKIT_WGMMA
  using S = PrefillShape<D>;
  extern __shared__ char raw[];
  __shared__ PrefillShared sync;
  char* queries = raw + ((1024 - (shared_address(raw) & 1023)) & 1023);
  char* keys = queries + S::kQueryStages * S::kQueryBytes;
  char* values = keys + kStages * S::kTileBytes;
  for (int i = threadIdx.x; i < kStages * S::kTileBytes / 16; i += kProducerThreads + kConsumerThreads) {
    reinterpret_cast<uint4*>(values)[i] = make_uint4(0, 0, 0, 0);
  }
  async_proxy_fence();
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      barrier_init(&sync.k_full[i], 1), barrier_init(&sync.v_full[i], 1);
      barrier_init(&sync.k_empty[i], kConsumerThreads / 32), barrier_init(&sync.v_empty[i], kConsumerThreads / 32);
    }
    for (int i = 0; i < 2; ++i) barrier_init(&sync.q_full[i], 1), barrier_init(&sync.q_empty[i], kConsumerThreads);
    barrier_init_fence();
    tensor_map_prefetch(&maps.q), tensor_map_prefetch(&maps.kv);
  }
  __syncthreads();
  if (threadIdx.x < kProducerThreads) {
    registers_give<Choice::kProducerRegisters>();
    if (threadIdx.x < 32) prefill_fetch<D>(maps, a, sync, queries, keys, values);
  } else {
    registers_take<Choice::kConsumerRegisters>();
    wait_prior_grid();
    allow_next_grid();
    prefill_compute<T, D, kSoftcap, Choice>(a, sync, queries, keys, values);
  }
#else
  __trap();
#endif
}

template <class T, int D, bool kSoftcap, class Choice = PrefillChoice>
void run_prefill(const PrefillMaps& maps, PrefillArgs a, cudaStream_t stream) {
  constexpr int kBytes = PrefillShape<D>::kSharedBytes;
  const auto kernel = prefill_kernel<T, D, kSoftcap, Choice>;
  allow_shared("attention_prefill", kernel, kBytes);
  const int64_t most = static_cast<int64_t>(a.sequences) * a.tiles * a.kv_heads * a.pack_tiles;
  const unsigned blocks = static_cast<unsigned>(most < multiprocessors() ? most : multiprocessors());
  a.turn = next_turn();
  launch("attention_prefill", kernel, dim3(blocks), dim3(kProducerThreads + kConsumerThreads), kBytes, stream, maps, a);
}

template <class T>
void pick_prefill(const PrefillMaps& maps, const PrefillArgs& a, cudaStream_t stream) {
  const bool soft = a.softcap > 0.0f;
  switch (prefill_padded(a.head_dim)) {
    case 64:
      return soft ? run_prefill<T, 64, true>(maps, a, stream) : run_prefill<T, 64, false>(maps, a, stream);
    case 128:
      return soft ? run_prefill<T, 128, true>(maps, a, stream) : run_prefill<T, 128, false>(maps, a, stream);
    default:
      return soft ? run_prefill<T, 256, true>(maps, a, stream) : run_prefill<T, 256, false>(maps, a, stream);
  }
}

}  // namespace
#endif

}  // namespace deploykit::cuda
