// 4-bit weights (groups of 128) times at most 64 tokens on wgmma (sm_90a). The blocks of a cluster share a row tile: each
// takes a part of the inputs and sends its sums to the blocks that end them, into their shared memory; nobody waits for
// anything but the sums it ends. One block a tile where there are tiles enough.
#pragma once

#include "cuda/kernels/gemm16_sync.cuh"
#include "cuda/kernels/w4_maps.cuh"
#include "cuda/kernels/w4_plan.cuh"
#include "cuda/kernels/w4_tile.cuh"

namespace deploykit::cuda {
namespace {

// kUnit: weights stay integers and sums are kept in units of the stage's scale, else the scale is part of the weights: no
// wait for the last products then, but more instructions for bf16.
template <int kTokens_, bool kUnit_>
struct W4Split {
  static constexpr bool kUnit = kUnit_;
  static constexpr int kTokens = kTokens_, kPerSm = 2, kWarps = 8, kRows = 16 * kWarps;
  static constexpr int kConsumers = 32 * kWarps, kThreads = kConsumers + 128;
  static constexpr int kTokenBytes = kTokens * 256, kDataBytes = kRows * 64, kParamBytes = 1024;
  static constexpr int kStageBytes = kTokenBytes + kDataBytes + kParamBytes;
  // A piece of the sums: 16 rows (a warp's) of eight tokens. A block ends an equal share of them, or one more.
  static constexpr int kEights = kTokens / 8, kPieces = kWarps * kEights, kPieceBytes = 512;
  static constexpr int kPartsBytes = (kPieces + kW4MaxSplit - 1) * kPieceBytes;
  static constexpr int kFit = (115712 - 1024 - 256 - kPartsBytes) / kStageBytes;
  static constexpr int kStages = kFit < 10 ? kFit : 10;
  static constexpr size_t kSharedBytes = 1024 + static_cast<size_t>(kStages) * kStageBytes + kPartsBytes;
};

#ifdef DEPLOYKIT_WGMMA
__device__ __forceinline__ void store_shared16(uint32_t address, float a, float b, float c, float d) {
  asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(address), "f"(a), "f"(b), "f"(c), "f"(d) : "memory");
}
__device__ __forceinline__ uint32_t transpose_eight(uint32_t x) {
  uint32_t y;
  // volatile: it may not be moved into a branch that not all lanes take
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}

// A warp's 16 rows from `row` on, of eight tokens: lane (r, t) has rows r and r + 8 of tokens 2t and 2t + 1; memory is
// read and written by lanes of token r, rows 2t and 2t + 1.
template <class T>
__device__ __forceinline__ void load_residual(const LinearArgs& a, int64_t row, int64_t token, uint32_t (&v)[2]) {
  const int lane = threadIdx.x % 32, r = lane / 4, t = lane % 4;
  v[0] = v[1] = 0;
  if (a.epilogue != Epilogue::residual || row >= a.n || token + r >= a.m) return;
  const T* at = static_cast<const T*>(a.residual) + (token + r) * a.residual_stride + row + 2 * t;
  v[0] = *reinterpret_cast<const volatile uint32_t*>(at), v[1] = *reinterpret_cast<const volatile uint32_t*>(at + 8);
}
// kSilu: no gate but with silu.
template <class T, bool kSilu>
__device__ __forceinline__ void finish_eight_tokens(const LinearArgs& a, int64_t row, int64_t token, float (&d)[4],
                                                    const uint32_t (&residual)[2]) {
  const int lane = threadIdx.x % 32, r = lane / 4, t = lane % 4;
  if (row >= a.n) return;
  if (a.bias != nullptr) {
    const T* at = static_cast<const T*>(a.bias) + row + r;
    const float lo = Num<T>::to_float(at[0]), hi = Num<T>::to_float(at[8]);
    d[0] += lo, d[1] += lo, d[2] += hi, d[3] += hi;
  }
  if (a.y_f32) {
    float* y = static_cast<float*>(a.y) + (token + 2 * t) * a.y_stride + row + r;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (token + 2 * t + i % 2 < a.m) y[i % 2 * a.y_stride + i / 2 * 8] = d[i];
    }
    return;
  }
  const bool exists = token + r < a.m;
  T* const y = static_cast<T*>(a.y) + (token + r) * a.y_stride + 2 * t;
  if (a.epilogue == Epilogue::gated) {
    const bool silu = kSilu || a.activation == Activation::silu;
    const float gate[2] = {silu ? silu_fast(d[0]) : activation(a.activation, d[0]),
                           silu ? silu_fast(d[1]) : activation(a.activation, d[1])};
    const uint32_t v = transpose_eight(Num<T>::pack(gate[0] * d[2], gate[1] * d[3]));
    if (exists) *reinterpret_cast<uint32_t*>(y + row / 2) = v;
    return;
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (a.epilogue == Epilogue::residual) {
      const float2 to = Num<T>::to_float2(transpose_eight(residual[half]));
      d[2 * half] = fmaf(a.residual_scale, d[2 * half], to.x);
      d[2 * half + 1] = fmaf(a.residual_scale, d[2 * half + 1], to.y);
    }
    const uint32_t v = transpose_eight(Num<T>::pack(d[2 * half], d[2 * half + 1]));
    if (exists) *reinterpret_cast<uint32_t*>(y + row + half * 8) = v;
  }
}
#endif

// grid: plan.row_tiles clusters of plan.split blocks.
template <class T, class S>
__global__ void __launch_bounds__(S::kThreads, S::kPerSm)
    w4_split_kernel(const LinearArgs a, const W4Plan plan, const __grid_constant__ CUtensorMap data_map,
                    const __grid_constant__ CUtensorMap param_map, const __grid_constant__ CUtensorMap token_map) {
#ifdef DEPLOYKIT_WGMMA
  constexpr int kStages = S::kStages;
  extern __shared__ char raw[];
  char* const stages = raw + ((1024 - (shared_address(raw) & 1023)) & 1023);
  char* const parts = stages + kStages * S::kStageBytes;
  __shared__ uint64_t full[kStages], empty[kStages], come;  // `come`: the sums that this block ends
  const int warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
  const int split = plan.split, rank = static_cast<int>(blockIdx.x) % split, t = static_cast<int>(blockIdx.x) / split;
  const int begin = plan.steps * rank / split, end = plan.steps * (rank + 1) / split;
  const int first_piece = S::kPieces * rank / split, pieces = S::kPieces * (rank + 1) / split - first_piece;
  if (threadIdx.x == 0) {
    stage_barriers_init(full, empty, S::kConsumers / 32);
    barrier_init(&come, 1);
    barrier_init_fence();
    barrier_expect(&come, static_cast<uint32_t>(pieces * split * S::kPieceBytes));
  }
  __syncthreads();
  if (split > 1) asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");

  if (warp >= S::kConsumers / 32) {
    registers_give<24>();
    if (warp == S::kConsumers / 32 && lane == 0) {
      const auto copy_weights = [&](int stage, int step) {
        char* at = stages + stage * S::kStageBytes + S::kTokenBytes;
        barrier_expect(full + stage, S::kTokenBytes + S::kDataBytes + S::kRows * 4);
        tensor_copy(at, &data_map, full + stage, step * 256, t * (S::kRows / 16));
        tensor_copy(at + S::kDataBytes, &param_map, full + stage, step * 16, t * (S::kRows / 16));
      };
      tensor_map_prefetch(&token_map);
      int ahead = 0;
#pragma unroll 1
      for (; ahead < min(kStages, plan.early) && begin + ahead < end; ++ahead) copy_weights(ahead, begin + ahead);
      wait_prior_grid();
      allow_next_grid();
      int stage = 0;
      uint32_t phase = 1;  // of `empty`: a fresh one counts as ended
#pragma unroll 1
      for (int step = begin; step < end; ++step) {
        if (ahead > 0) {
          --ahead;
        } else {
          barrier_wait(empty + stage, phase);
          copy_weights(stage, step);
        }
        char* at = stages + stage * S::kStageBytes;
        tensor_copy(at, &token_map, full + stage, step * 128, 0);
        tensor_copy(at + S::kTokenBytes / 2, &token_map, full + stage, step * 128 + 64, 0);
        if (++stage == kStages) stage = 0, phase ^= 1;
      }
    }
    __syncwarp();
    if (split > 1) asm volatile("barrier.cluster.wait.aligned;" ::: "memory");
    return;
  }
  registers_take<104>();
  wait_prior_grid();
  const int r = lane / 4;
  float acc[S::kTokens / 2];
#pragma unroll
  for (int i = 0; i < S::kTokens / 2; ++i) acc[i] = 0.0f;
  float unit_lo = 1.0f, unit_hi = 1.0f;  // what the sums of rows r and r + 8 are multiples of
  const uint32_t empty_address = shared_address(empty);
  int stage = 0;
  uint32_t phase = 0;
#pragma unroll 1
  for (int step = begin; step < end; ++step) {
    barrier_wait(full + stage, phase);
    const char* here = stages + stage * S::kStageBytes;
    const char* data = here + S::kTokenBytes + warp * 1024 + lane * 16;
    uint4 q[2] = {*reinterpret_cast<const uint4*>(data), *reinterpret_cast<const uint4*>(data + 512)};
    const uint2 param = *reinterpret_cast<const uint2*>(here + S::kTokenBytes + S::kDataBytes + warp * 64 + r * 8);
    uint32_t weights[2][4][4];
    W4Scales<T> scales;
    const float lo = scale_of(param.x), hi = scale_of(param.y);
    // Scales of zero are no units: integers of zero then.
    const bool zero_lo = lo == 0.0f, zero_hi = hi == 0.0f;
    if (S::kUnit && (zero_lo || zero_hi)) {
      const uint32_t keep = (zero_lo ? 0u : 0x0f0f0f0fu) | (zero_hi ? 0u : 0xf0f0f0f0u);
#pragma unroll
      for (int i = 0; i < 2; ++i) q[i].x &= keep, q[i].y &= keep, q[i].z &= keep, q[i].w &= keep;
    }
    scales.set(S::kUnit ? make_uint2(zero_lo ? 0u : param.x, zero_hi ? 0u : param.y) : param);
    const float ratio_lo = zero_lo ? 1.0f : __fdividef(unit_lo, lo), ratio_hi = zero_hi ? 1.0f : __fdividef(unit_hi, hi);
    if (S::kUnit) unit_lo = zero_lo ? unit_lo : lo, unit_hi = zero_hi ? unit_hi : hi;
    const uint64_t tokens = matrix_descriptor(shared_address(here), 16, 1024);
#pragma unroll
    for (int chunk = 0; chunk < 2; ++chunk) {
      asm volatile("" : "+r"(q[chunk].x), "+r"(q[chunk].y), "+r"(q[chunk].z), "+r"(q[chunk].w));
      const uint32_t words[4] = {q[chunk].x, q[chunk].y, q[chunk].z, q[chunk].w};
#pragma unroll
      for (int s = 0; s < 4; ++s) {
        if constexpr (S::kUnit) {
          scales.unpack_integers(words[s], weights[chunk][s]);
        } else {
          scales.unpack(words[s], weights[chunk][s]);
        }
      }
      if (S::kUnit && chunk == 0) {
        wgmma_wait<0>();
#pragma unroll
        for (int i = 0; i < S::kTokens / 2; ++i) acc[i] *= i % 4 < 2 ? ratio_lo : ratio_hi;
      }
      wgmma_fence();
#pragma unroll
      for (int s = 0; s < 4; ++s) {
        wgmma_rows<T, S::kTokens>(acc, weights[chunk][s], tokens + (chunk * S::kTokens * 128 + s * 32) / 16, true);
      }
      wgmma_commit();
      wgmma_wait<1>();
      if (chunk == 0) arrive_if(step > begin && lane == 0, empty_address + ((stage == 0 ? kStages : stage) - 1) * 8);
    }
    if (++stage == kStages) stage = 0, phase ^= 1;
  }
  wgmma_wait<0>();
#pragma unroll
  for (int i = 0; i < S::kTokens / 2; ++i) asm volatile("" : "+f"(acc[i])::"memory");
  if (split > 1) asm volatile("barrier.cluster.wait.aligned;" ::: "memory");  // all blocks' barriers are there
  const int64_t row0 = static_cast<int64_t>(t) * S::kRows;
  const bool direct = split == 1 && (a.epilogue != Epilogue::gated || a.activation == Activation::silu);
  if (direct) {
#pragma unroll
    for (int j = 0; j < S::kEights; ++j) {
      uint32_t residual[2];
      load_residual<T>(a, row0 + warp * 16, j * 8, residual);
      float d[4] = {acc[j * 4] * unit_lo, acc[j * 4 + 1] * unit_lo, acc[j * 4 + 2] * unit_hi, acc[j * 4 + 3] * unit_hi};
      finish_eight_tokens<T, true>(a, row0 + warp * 16, j * 8, d, residual);
    }
    return;
  }
  const uint32_t parts_at = shared_address(parts) + lane * 16, come_at = shared_address(&come);
#pragma unroll
  for (int j = 0; j < S::kEights; ++j) {
    const int piece = warp * S::kEights + j, owner = ((piece + 1) * split - 1) / S::kPieces;
    const int first = S::kPieces * owner / split, count = S::kPieces * (owner + 1) / split - first;
    const uint32_t at = parts_at + (rank * count + piece - first) * S::kPieceBytes;
    const float* d = acc + j * 4;
    if (split == 1) {
      store_shared16(at, d[0] * unit_lo, d[1] * unit_lo, d[2] * unit_hi, d[3] * unit_hi);
    } else {
      send16(address_at(at, static_cast<uint32_t>(owner)), address_at(come_at, static_cast<uint32_t>(owner)), d[0] * unit_lo,
             d[1] * unit_lo, d[2] * unit_hi, d[3] * unit_hi);
    }
  }
  if (split == 1) named_barrier(1, S::kConsumers);
  bool waited = split == 1;
#pragma unroll 1
  for (int i = warp; i < pieces; i += S::kWarps) {
    const int64_t row = row0 + (first_piece + i) / S::kEights * 16;
    const int token = (first_piece + i) % S::kEights * 8;
    uint32_t residual[2];
    load_residual<T>(a, row, token, residual);
    if (!waited) barrier_wait(&come, 0);
    waited = true;
    float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    float4 v[kW4MaxSplit];
#pragma unroll
    for (int from = 0; from < kW4MaxSplit; ++from) {
      if (from < split) v[from] = load_shared16(parts_at + (from * pieces + i) * S::kPieceBytes);
    }
#pragma unroll
    for (int from = 0; from < kW4MaxSplit; ++from) {  // in the order of the ranks
      if (from < split) d[0] += v[from].x, d[1] += v[from].y, d[2] += v[from].z, d[3] += v[from].w;
    }
    finish_eight_tokens<T, false>(a, row, token, d, residual);
  }
  if (!waited) barrier_wait(&come, 0);  // no block may end before the sums for it are here
#else
  __trap();
#endif
}

}  // namespace
}  // namespace deploykit::cuda
