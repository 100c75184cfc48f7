// Routing: each token's best experts and their weights, the slots in order, the tiles of every height.
//
// Tokens go in chunks of 32, a warp each. Who chose an expert is a mask of 32 bits, so a slot's place inside its chunk
// is a count of bits: the order never depends on which warp came first.
#include <type_traits>

#include "cuda/kernels/moe.cuh"

namespace deploykit::cuda {
namespace {

constexpr int kRouteThreads = 1024, kChunk = 32;
constexpr int kSingleChunks = 4;  // up to 128 tokens are routed by one block
constexpr int kMostValues = kMoeMostExperts / 32;

struct RouteArgs {
  const float* logits;
  int64_t stride;
  const int32_t* row;
  MoeRoutes routes;
  int32_t tokens, experts, top_k, chunks;
  bool normalize, sigmoid, softmax_after_topk;
  int32_t tile_begin[kMoeHeights];
};

__device__ __forceinline__ uint32_t warp_most(uint32_t v) {
#if __CUDA_ARCH__ >= 800
  return __reduce_max_sync(0xffffffffu, v);
#else
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) v = max(v, __shfl_xor_sync(0xffffffffu, v, offset));
  return v;
#endif
}

// A number as an unsigned integer in the same order; what isn't a number comes last of all, but before experts that
// are taken already (0).
__device__ __forceinline__ uint32_t ordered(float v) {
  if (!(v == v)) return 1u;
  if (v == 0.0f) v = 0.0f;  // -0 equals 0
  const uint32_t bits = __float_as_uint(v);
  return (bits & 0x80000000u) ? ~bits : bits | 0x80000000u;
}

// One warp: token `token` chooses. kValues: logits a lane, expert = 32 i + lane. kept (or nullptr): its experts again.
template <int kValues>
__device__ __forceinline__ void choose(const RouteArgs& a, int32_t token, uint32_t* masks, int bit, uint16_t* kept) {
  const int lane = threadIdx.x % 32;
  const float* logits = a.logits + token * a.stride;
  float value[kValues];
  uint32_t key[kValues];
#pragma unroll
  for (int i = 0; i < kValues; ++i) {
    const int e = i * 32 + lane;
    value[i] = e < a.experts ? logits[e] : -INFINITY;
    key[i] = e < a.experts ? ordered(value[i]) : 0u;
  }
  float mine = 0.0f;  // lane `rank`: its logit
  int32_t chosen = 0;
  for (int rank = 0; rank < a.top_k; ++rank) {
    uint32_t best = key[0];
    int32_t at = lane;
    float logit = value[0];
#pragma unroll
    for (int i = 1; i < kValues; ++i) {
      if (key[i] > best) best = key[i], at = i * 32 + lane, logit = value[i];
    }
    const uint32_t top = warp_most(best);
    const int32_t winner = static_cast<int32_t>(~warp_most(best == top ? ~static_cast<uint32_t>(at) : 0u));
    logit = __shfl_sync(0xffffffffu, logit, winner % 32);
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      if (i * 32 + lane == winner) key[i] = 0u;
    }
    if (lane == rank) mine = logit, chosen = winner;
  }
  const bool ranked = lane < a.top_k;
  const float largest = __shfl_sync(0xffffffffu, mine, 0);
  float weight = 0.0f;
  if (ranked) weight = a.sigmoid ? 1.0f / (1.0f + expf(-mine)) : expf(mine - largest);
  float divisor = 1.0f;
  if (a.normalize || a.softmax_after_topk) {
    divisor = warp_sum(weight);
  } else if (!a.sigmoid) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      if (i * 32 + lane < a.experts) sum += expf(value[i] - largest);
    }
    divisor = warp_sum(sum);
  }
  if (ranked) {
    const int64_t place = static_cast<int64_t>(token) * a.top_k + lane;
    a.routes.expert[place] = chosen;
    a.routes.weight[place] = weight / divisor;
    atomicOr(masks + chosen, 1u << bit);
    if (kept != nullptr) kept[lane] = static_cast<uint16_t>(chosen);
  }
}

// Chunk `chunk` of tokens, a warp a token; masks [experts] zero before; kept (or nullptr) [tokens][top_k].
__device__ __forceinline__ void choose_chunk(const RouteArgs& a, int chunk, uint32_t* masks, uint16_t* kept) {
  for (int bit = threadIdx.x / 32; bit < kChunk; bit += blockDim.x / 32) {
    const int32_t token = chunk * kChunk + bit;
    if (token >= a.tokens) break;
    if (a.row != nullptr && a.row[token] < 0) continue;
    uint16_t* own = kept == nullptr ? nullptr : kept + bit * a.top_k;
    if (a.experts <= 32) {
      choose<1>(a, token, masks, bit, own);
    } else if (a.experts <= 64) {
      choose<2>(a, token, masks, bit, own);
    } else if (a.experts <= 128) {
      choose<4>(a, token, masks, bit, own);
    } else if (a.experts <= 256) {
      choose<8>(a, token, masks, bit, own);
    } else {
      choose<kMostValues>(a, token, masks, bit, own);
    }
  }
}

// (token, rank) number `place` gets its slot: offset is where its chunk's part of expert `e` begins, mask who chose it.
__device__ __forceinline__ void put_slot(const RouteArgs& a, int64_t place, int32_t token, uint32_t mask, int32_t offset) {
  if (a.row != nullptr && a.row[token] < 0) {
    a.routes.slot[place] = -1;
    return;
  }
  const int32_t slot = offset + __popc(mask & ((1u << token % kChunk) - 1u));
  a.routes.slot[place] = slot;
  a.routes.token[slot] = token;
}

// begin [experts + 1] in shared memory is there: out with it, and the tiles, a warp each height, a lane each expert.
__device__ __forceinline__ void list_tiles(const RouteArgs& a, const int32_t* begin) {
  for (int e = threadIdx.x; e <= a.experts; e += blockDim.x) a.routes.begin[e] = begin[e];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (warp >= kMoeHeights) return;
  const int32_t height = 8 << warp;
  int4* tiles = a.routes.tiles + a.tile_begin[warp];
  int32_t at = 0;
  for (int e0 = 0; e0 < a.experts; e0 += 32) {
    const int e = min(e0 + lane, a.experts - 1);
    const int32_t first = begin[e], count = e0 + lane < a.experts ? begin[e + 1] - first : 0;
    const int32_t own = (count + height - 1) / height;
    int32_t sum = own;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const int32_t v = __shfl_up_sync(0xffffffffu, sum, offset);
      if (lane >= offset) sum += v;
    }
    if (!__any_sync(0xffffffffu, own > 4)) {
      for (int i = 0; i < own; ++i) {
        tiles[at + sum - own + i] = make_int4(e, first + i * height, min(height, count - i * height), 0);
      }
    } else {  // all lanes write one expert's tiles
      for (int other = 0; other < 32; ++other) {
        const int32_t many = __shfl_sync(0xffffffffu, own, other), end = at + __shfl_sync(0xffffffffu, sum, other);
        const int32_t slot = __shfl_sync(0xffffffffu, first, other), all = __shfl_sync(0xffffffffu, count, other);
        for (int i = lane; i < many; i += 32) {
          tiles[end - many + i] = make_int4(e0 + other, slot + i * height, min(height, all - i * height), 0);
        }
      }
    }
    at += __shfl_sync(0xffffffffu, sum, 31);
  }
  if (lane == 0) a.routes.tile_counts[warp] = at;
}

// counts[e] of thread e (threads beyond the experts: 0) into begin [experts + 1], by the whole block.
__device__ __forceinline__ void scan_experts(const RouteArgs& a, int32_t count, int32_t* begin) {
  __shared__ int32_t sums[32];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int32_t sum = count;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int32_t v = __shfl_up_sync(0xffffffffu, sum, offset);
    if (lane >= offset) sum += v;
  }
  if (lane == 31) sums[warp] = sum;
  __syncthreads();
  if (threadIdx.x < static_cast<unsigned>(a.experts)) {
    for (int w = 0; w < warp; ++w) sum += sums[w];
    begin[threadIdx.x + 1] = sum;
  }
  if (threadIdx.x == 0) begin[0] = 0;
  __syncthreads();
}

// Few tokens: everything in one block.
__global__ void __launch_bounds__(kRouteThreads) route_single(const RouteArgs a) {
  __shared__ uint32_t masks[kSingleChunks][kMoeMostExperts];
  __shared__ int32_t offsets[kSingleChunks][kMoeMostExperts];
  __shared__ int32_t begin[kMoeMostExperts + 1];
  __shared__ uint16_t kept[kSingleChunks * kChunk * kMoeMostRanks];
  for (int i = threadIdx.x; i < a.chunks * kMoeMostExperts; i += blockDim.x) (&masks[0][0])[i] = 0u;
  wait_prior_grid();
  allow_next_grid();
  __syncthreads();
  for (int chunk = 0; chunk < a.chunks; ++chunk) {
    choose_chunk(a, chunk, masks[chunk], kept + chunk * kChunk * a.top_k);
  }
  __syncthreads();
  const int e = threadIdx.x;
  int32_t count = 0;
  if (e < a.experts) {
    for (int chunk = 0; chunk < a.chunks; ++chunk) count += __popc(masks[chunk][e]);
  }
  scan_experts(a, count, begin);
  if (e < a.experts) {
    int32_t at = begin[e];
    for (int chunk = 0; chunk < a.chunks; ++chunk) offsets[chunk][e] = at, at += __popc(masks[chunk][e]);
  }
  __syncthreads();
  list_tiles(a, begin);
  for (int i = threadIdx.x; i < a.tokens * a.top_k; i += blockDim.x) {
    const int32_t token = i / a.top_k, chunk = token / kChunk, chosen = kept[i] % kMoeMostExperts;  // padding: anything
    put_slot(a, i, token, masks[chunk][chosen], offsets[chunk][chosen]);
  }
}

// Many tokens: choose by chunks, add up the chunks, place by chunks.
__global__ void __launch_bounds__(kRouteThreads) route_choose(const RouteArgs a) {
  __shared__ uint32_t masks[kMoeMostExperts];
  for (int i = threadIdx.x; i < a.experts; i += blockDim.x) masks[i] = 0u;
  wait_prior_grid();
  allow_next_grid();
  __syncthreads();
  choose_chunk(a, blockIdx.x, masks, nullptr);
  __syncthreads();
  for (int i = threadIdx.x; i < a.experts; i += blockDim.x) {
    a.routes.masks[static_cast<int64_t>(blockIdx.x) * a.experts + i] = masks[i];
  }
}
// One block; its threads cut the chunks into segments, each thread one expert of one segment.
__global__ void __launch_bounds__(kRouteThreads) route_sum(const RouteArgs a) {
  __shared__ int32_t begin[kMoeMostExperts + 1];
  __shared__ int32_t sums[kRouteThreads];
  wait_prior_grid();
  allow_next_grid();
  const int width = (a.experts + 31) / 32 * 32, segments = kRouteThreads / width;
  const int segment = threadIdx.x / width, e = threadIdx.x % width;
  const bool works = segment < segments && e < a.experts;
  const int first = a.chunks * min(segment, segments) / segments;
  const int last = a.chunks * min(segment + 1, segments) / segments;
  int32_t count = 0;
  if (works) {
#pragma unroll 8
    for (int chunk = first; chunk < last; ++chunk) {
      count += __popc(__ldcg(a.routes.masks + static_cast<int64_t>(chunk) * a.experts + e));
    }
  }
  sums[threadIdx.x] = count;
  __syncthreads();
  int32_t all = 0, before = 0;
  for (int s = 0; s < segments; ++s) {
    const int32_t v = sums[s * width + e];
    before += s < segment ? v : 0;
    all += v;
  }
  scan_experts(a, threadIdx.x < static_cast<unsigned>(a.experts) ? all : 0, begin);
  if (works) {
#pragma unroll 8
    for (int chunk = first; chunk < last; ++chunk) {
      const int64_t at = static_cast<int64_t>(chunk) * a.experts + e;
      const uint32_t mask = __ldcg(a.routes.masks + at);
      a.routes.offsets[at] = begin[e] + before;
      before += __popc(mask);
    }
  }
  list_tiles(a, begin);
}
__global__ void __launch_bounds__(256) route_place(const RouteArgs a) {
  __shared__ uint32_t masks[kMoeMostExperts];
  __shared__ int32_t offsets[kMoeMostExperts];
  wait_prior_grid();
  allow_next_grid();
  const int32_t first = blockIdx.x * kChunk, tokens = min(kChunk, a.tokens - first);
  for (int e = threadIdx.x; e < a.experts; e += blockDim.x) {
    const int64_t at = static_cast<int64_t>(blockIdx.x) * a.experts + e;
    masks[e] = a.routes.masks[at];
    offsets[e] = a.routes.offsets[at];
  }
  __syncthreads();
  for (int i = threadIdx.x; i < tokens * a.top_k; i += blockDim.x) {
    const int32_t token = first + i / a.top_k;
    const int64_t place = static_cast<int64_t>(first) * a.top_k + i;
    int32_t e = 0;
    if (a.row == nullptr || a.row[token] >= 0) e = a.routes.expert[place];
    put_slot(a, place, token, masks[e], offsets[e]);
  }
}

int64_t rounded(int64_t bytes) { return ceil_div(bytes, 256) * 256; }

// The parts of the memory one after another.
template <class F>
void for_each_part(MoeRoutes& routes, const MoeSpec& spec, const F& part) {
  const int64_t slots = routes.capacity * spec.top_k, chunks = ceil_div(routes.capacity, kChunk);
  part(&routes.expert, slots);
  part(&routes.weight, slots);
  part(&routes.slot, slots);
  part(&routes.token, slots);
  part(&routes.begin, spec.experts + 1);
  part(&routes.masks, chunks * spec.experts);
  part(&routes.offsets, chunks * spec.experts);
  part(&routes.tile_counts, kMoeHeights);
  part(&routes.tiles, moe_tile_offset(spec, routes.capacity, kMoeHeights));
}

}  // namespace

MoeRoutes moe_routes(void* memory, int64_t tokens, const MoeSpec& spec) {
  require_moe("moe_routes", spec);
  require(tokens >= 1 && tokens * spec.top_k < INT32_MAX / 2, "moe_routes", "the slots fit 31 bits");
  MoeRoutes routes;
  routes.capacity = tokens;
  char* at = static_cast<char*>(memory);
  for_each_part(routes, spec, [&](auto** pointer, int64_t count) {
    *pointer = reinterpret_cast<std::remove_reference_t<decltype(*pointer)>>(at);
    at += rounded(count * static_cast<int64_t>(sizeof(**pointer)));
  });
  return routes;
}

int64_t moe_routes_bytes(int64_t tokens, const MoeSpec& spec) {
  require_moe("moe_routes_bytes", spec);
  MoeRoutes routes;
  routes.capacity = tokens;
  int64_t bytes = 0;
  for_each_part(routes, spec, [&](auto** pointer, int64_t count) {
    bytes += rounded(count * static_cast<int64_t>(sizeof(**pointer)));
  });
  return bytes;
}

void moe_route(const MoeSpec& spec, const float* logits, int64_t stride, int32_t tokens, const int32_t* row,
               const MoeRoutes& routes, cudaStream_t stream) {
  const char* name = "moe_route";
  require_moe(name, spec);
  require(tokens >= 1 && tokens <= routes.capacity, name, "1 <= tokens <= the routes' capacity");
  require(stride >= spec.experts, name, "stride >= experts");
  RouteArgs a = {};
  a.logits = logits, a.stride = stride, a.row = row, a.routes = routes;
  a.tokens = tokens, a.experts = spec.experts, a.top_k = spec.top_k;
  a.chunks = static_cast<int32_t>(ceil_div(tokens, kChunk));
  a.normalize = spec.normalize, a.sigmoid = spec.sigmoid, a.softmax_after_topk = spec.softmax_after_topk;
  for (int i = 0; i < kMoeHeights; ++i) {
    a.tile_begin[i] = static_cast<int32_t>(moe_tile_offset(spec, routes.capacity, i));
  }
  if (a.chunks <= kSingleChunks) {
    // A warp a token at a time, a thread an expert: a small block meets sooner.
    const int threads = tokens <= 8 && spec.experts <= 256 ? 256 : kRouteThreads;
    launch(name, route_single, dim3(1), dim3(static_cast<unsigned>(threads)), 0, stream, a);
    return;
  }
  const dim3 grid(static_cast<unsigned>(a.chunks));
  launch(name, route_choose, grid, dim3(kRouteThreads), 0, stream, a);
  launch(name, route_sum, dim3(1), dim3(kRouteThreads), 0, stream, a);
  launch(name, route_place, grid, dim3(256), 0, stream, a);
}

}  // namespace deploykit::cuda
