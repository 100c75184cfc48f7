// Products of at most four tokens with 4-bit weights, one behind the other in one kernel (sm_90): a layer's O, gate-up and
// down and the next layer's QKV. A decode of so few tokens is as fast as its weights come from memory, so they never stop
// coming: a warp copies the block's weights of all products into a ring of shared memory, the next product's while this one
// ends. It never has many copies under way: whatever else the block reads would wait behind them.
//
// A block owns whole tiles of 16 rows. Two teams of eight warps have the stages of a tile's inputs in turn; one more warp adds
// their sums and ends the rows. Between two products all blocks meet, so they run at the same time: one a multiprocessor.
//
// On the tensor cores as w4_gemv.cu, but for the zero points: a number q becomes the 16-bit float unit * (offset + q) by a
// mask and an or, and the sum of a group's inputs times (offset + zero) is taken off in the end. Multiplying must be well
// ahead of the memory, since it stops where blocks meet and the copies don't.
#pragma once

#include "cuda/kernels/pipeline.cuh"
#include "cuda/kernels/w4.cuh"

namespace deploykit::cuda {
namespace {

constexpr int kTeam = 8, kWarps = 2 * kTeam;  // warps that multiply: two teams have stages in turn
constexpr int kThreads = (kWarps + 2) * 32;   // one that ends rows, one that copies
constexpr int kSteps = 2 * kTeam;             // of 128 inputs in a stage: two a warp
constexpr int kStepBytes = 1024, kTokenPad = 16;
constexpr int kMostStages = 10;
constexpr int kSharedMost = 200 * 1024;       // of the ring and the tokens
constexpr int kAhead = 2;                     // stages under way: more only make a queue before everything else

struct Link {
  LinearArgs a;
  const char *data, *params;
  int32_t tiles, steps;
};
struct Chain {
  Link links[kW4ChainMost];
  int32_t count, stages, ahead;
  int32_t slab;        // bytes of a token's inputs in shared memory
  uint32_t whole;      // a power of two: what all blocks together add to `arrivals` when they meet
  uint32_t* arrivals;
};

template <int kGroup>
struct Shape {
  static constexpr int kGroups = 128 / kGroup;  // of a step
  static constexpr int kDataBytes = kSteps * kStepBytes, kStageBytes = kDataBytes + kSteps * kGroups * 64;
};

#ifdef __CUDACC__
#if __CUDA_ARCH__ >= 900
__device__ __forceinline__ void put4(uint32_t at, float v) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(at), "f"(v) : "memory");
}
// A value the compiler keeps in a register: it would read parameters again instead.
template <class V>
__device__ __forceinline__ V kept(V v) {
  asm volatile("" : "+r"(v));
  return v;
}
__device__ __forceinline__ uint32_t load_acquire(const uint32_t* p) {
  uint32_t v;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}

// What a number q becomes in a half of a word: unit * (offset + q), exactly.
template <class T>
struct Lifted;
template <>
struct Lifted<__half> {
  static constexpr int kShift = 4;  // of the lowest number
  static constexpr uint32_t kMask = 0x00f000f0u;
  static constexpr float kUnit = 16.0f;
  static constexpr uint32_t kOffset = 64;
};
template <>
struct Lifted<__nv_bfloat16> {
  static constexpr int kShift = 3;
  static constexpr uint32_t kMask = 0x00780078u;
  static constexpr float kUnit = 8.0f;
  static constexpr uint32_t kOffset = 16;
};
template <class T>
__device__ __forceinline__ void lift_word(uint32_t word, uint32_t (&out)[4]) {
  using L = Lifted<T>;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int shift = L::kShift - 4 * i;
    const uint32_t moved = shift >= 0 ? word << shift : word >> -shift;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(out[i]) : "r"(moved), "r"(L::kMask), "r"(Num<T>::kMagic));
  }
}

// A warp's steps of every token into shared memory, each team's half of them: of a step, half h and lane t of a quad have
// eight words (16 inputs s, half of 8) side by side. totals[step * groups + g][token]: the sum of a group's inputs.
// squares[token]: the sum of this warp's squares where there is a norm. `met` (or nullptr): what to wait for before x is
// read. Barriers 0 to 7: a member of one team meets the same of the other.
template <class T, int kGroup>
__device__ __forceinline__ void stage_steps(const Link& link, uint64_t* met, uint32_t parity, char* tokens, int slab,
                                            float (*totals)[kW4ChainMaxM], int warp, int lane, float* squares) {
  constexpr int kBatch = 4, kEach = 2 * kSteps;
  const LinearArgs& a = link.a;
  const T* g = static_cast<const T*>(a.norm_weight);
  const int place = lane % 16, steps = link.steps, first = warp / kTeam * kSteps + warp % kTeam + lane / 16 * kTeam;
  uint4 weights[2] = {};  // of the norm: the first ones are asked for ahead of the inputs
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const int step = first + j * kEach;
    if (g != nullptr && step < steps) weights[j] = load_stream16(g + static_cast<int64_t>(step) * 128 + place * 8);
  }
  if (met != nullptr) barrier_wait(met, parity);
  named_barrier(warp % kTeam, 64);  // nobody needs the last product's inputs any more
  for (int token = 0; token < a.m; ++token) {
    const T* x = static_cast<const T*>(a.x) + token * a.x_stride + place * 8;
    float square = 0.0f;
    for (int base = first; base - first < steps; base += kBatch * kEach) {
      uint4 v[kBatch];
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        const int step = base + j * kEach;
        v[j] = make_uint4(0, 0, 0, 0);
        if (step < steps) v[j] = __ldcg(reinterpret_cast<const uint4*>(x + static_cast<int64_t>(step) * 128));
      }
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        const int step = base + j * kEach;
        if (step - lane / 16 * kTeam >= steps) break;
        uint32_t* words = reinterpret_cast<uint32_t*>(&v[j]);
        if (g != nullptr && step < steps) {
          const uint4 own = base == first && j < 2 ? weights[j < 2 ? j : 0]
                                                   : load_stream16(g + static_cast<int64_t>(step) * 128 + place * 8);
          const uint32_t* pw = reinterpret_cast<const uint32_t*>(&own);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const float2 f = Num<T>::to_float2(words[i]), w = Num<T>::to_float2(pw[i]);
            square = fmaf(f.x, f.x, square);
            square = fmaf(f.y, f.y, square);
            words[i] = Num<T>::pack(f.x * (w.x + a.norm_offset), f.y * (w.y + a.norm_offset));
          }
        }
        float total = 0.0f;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float2 f = Num<T>::to_float2(words[i]);
          total += f.x + f.y;
        }
#pragma unroll
        for (int offset = 1; offset < kGroup / 8; offset *= 2) total += __shfl_xor_sync(0xffffffffu, total, offset);
        if (step >= steps) continue;
        if (place % (kGroup / 8) == 0) totals[step * (128 / kGroup) + place / (kGroup / 8)][token] = total;
        char* to = tokens + token * slab + step * 256 + place / 8 * 128 + place % 8 * 4;
#pragma unroll
        for (int t = 0; t < 4; ++t) *reinterpret_cast<uint32_t*>(to + t * 32) = words[t];
      }
    }
    if (g != nullptr) {
      square = warp_sum(square);
      if (lane == 0) squares[token] = square;
    }
  }
  named_barrier(warp % kTeam, 64);
}

// A warp's part of a stage: two steps' weights and their groups' parameters.
template <int kGroup>
struct Part {
  uint32_t q[2][2][4], param[2][128 / kGroup][2];
};
// `at`: this lane's weights of the stage; `params`: its rows' parameters.
template <int kGroup>
__device__ __forceinline__ void load_part(Part<kGroup>& part, uint32_t at, uint32_t params) {
  constexpr int kGroups = 128 / kGroup;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int h = 0; h < 2; ++h) load_shared(at + i * kTeam * kStepBytes + h * 512, part.q[i][h]);
#pragma unroll
    for (int g = 0; g < kGroups; ++g) load_shared(params + (i * kTeam * kGroups + g) * 64, part.param[i][g]);
  }
}

// The two steps are independent, so they hide one another's latency.
template <class T, int kGroup>
__device__ __forceinline__ void multiply(const Part<kGroup>& part, int count, uint32_t operand, uint32_t totals,
                                         bool has_token, float (&sum)[4]) {
  using S = Shape<kGroup>;
  using L = Lifted<T>;
  constexpr int kParts = S::kGroups < 2 ? 2 : S::kGroups;  // sums of a step
  float d[2][kParts][4] = {};
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    uint32_t v[2][2][4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
#pragma unroll
        for (int k = 0; k < 4; ++k) v[i][j][k] = 0;
        if (has_token && i < count) load_shared(operand + i * kTeam * 256 + h * 128 + j * 16, v[i][j]);
      }
    }
#pragma unroll
    for (int s = 0; s < 4; ++s) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint32_t* in = v[i][s / 2] + s % 2 * 2;
        uint32_t w[4];
        lift_word<T>(part.q[i][h][s], w);
        mma<T>(d[i][(h * 4 + s) * kParts / 8], w[0], w[1], w[2], w[3], in[0], in[1]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (i >= count) break;
#pragma unroll
    for (int g = 0; g < S::kGroups; ++g) {
      const uint32_t (&own)[2] = part.param[i][g];
      uint32_t bits[2];
      load_shared(totals + (i * kTeam * S::kGroups + g) * (kW4ChainMaxM * 4), bits);
      const float2 total = make_float2(__uint_as_float(bits[0]), __uint_as_float(bits[1]));
      const float lo = scale_of(own[0]), hi = scale_of(own[1]);
      const float lo_unit = lo * (1.0f / L::kUnit), hi_unit = hi * (1.0f / L::kUnit);
      const float lo_off = -lo * static_cast<float>((own[0] >> 16) + L::kOffset);
      const float hi_off = -hi * static_cast<float>((own[1] >> 16) + L::kOffset);
      const float* first = d[i][g * kParts / S::kGroups];
      const float* second = d[i][(g + 1) * kParts / S::kGroups - 1];
      const bool two = kParts > S::kGroups;
      sum[0] = fmaf(lo_unit, two ? first[0] + second[0] : first[0], fmaf(lo_off, total.x, sum[0]));
      sum[1] = fmaf(lo_unit, two ? first[1] + second[1] : first[1], fmaf(lo_off, total.y, sum[1]));
      sum[2] = fmaf(hi_unit, two ? first[2] + second[2] : first[2], fmaf(hi_off, total.x, sum[2]));
      sum[3] = fmaf(hi_unit, two ? first[3] + second[3] : first[3], fmaf(hi_off, total.y, sum[3]));
    }
  }
}
#endif

template <class T, int kGroup>
__global__ void __launch_bounds__(kThreads, 1) w4_chain_kernel(const __grid_constant__ Chain chain) {
#if __CUDA_ARCH__ >= 900
  using S = Shape<kGroup>;
  constexpr int kSums = 4;  // tiles whose sums wait for their end
  extern __shared__ __align__(128) char ring[];
  __shared__ uint64_t full[kMostStages], empty[kMostStages], summed[kSums], ended[kSums], met;
  __shared__ float sums[kSums][kWarps][kW4ChainMaxM * 16];
  __shared__ float squares[kWarps][kW4ChainMaxM];
  const int warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0), lane = threadIdx.x % 32, r = lane / 4, t = lane % 4;
  const int stages = chain.stages, m = chain.links[0].a.m;
  char* const tokens = ring + stages * S::kStageBytes;
  float (*const totals)[kW4ChainMaxM] = reinterpret_cast<float (*)[kW4ChainMaxM]>(tokens + m * chain.slab);
  if (threadIdx.x == 0) {
    for (int i = 0; i < stages; ++i) {
      barrier_init(full + i, 1);
      barrier_init(empty + i, kTeam * 32);
    }
    for (int i = 0; i < kSums; ++i) {
      barrier_init(summed + i, kWarps * (m > 2 ? 16 : 8));  // lanes that have sums
      barrier_init(ended + i, 8 * m);
    }
    barrier_init(&met, 1);
    barrier_init_fence();
  }
  __syncthreads();
  const auto first_tile = [&](int l, uint32_t block) {
    return static_cast<int>(static_cast<uint32_t>(chain.links[l].tiles) * block / gridDim.x);
  };

  if (warp == kWarps + 1) {  // copies
    if (lane != 0) return;
    int stage = 0, asked = 0, behind = 0;  // behind: the stage asked for `ahead` stages ago
    uint32_t parity = 1, behind_parity = 0;
    for (int l = 0; l < chain.count; ++l) {
      const Link& link = chain.links[l];
      const int last = first_tile(l, blockIdx.x + 1), steps = link.steps;
      for (int tile = first_tile(l, blockIdx.x); tile < last; ++tile) {
        for (int step = 0; step < steps; step += kSteps) {
          if (asked++ >= chain.ahead) {
            barrier_wait(full + behind, behind_parity);
            if (++behind == stages) behind = 0, behind_parity ^= 1;
          }
          barrier_wait(empty + stage, parity);
          const uint32_t count = static_cast<uint32_t>(min(kSteps, steps - step));
          const int64_t from = static_cast<int64_t>(tile) * steps + step;
          char* to = ring + stage * S::kStageBytes;
          barrier_expect(full + stage, count * (kStepBytes + S::kGroups * 64));
          bulk_copy(to, link.data + from * kStepBytes, count * kStepBytes, full + stage);
          bulk_copy(to + S::kDataBytes, link.params + from * (S::kGroups * 64), count * (S::kGroups * 64), full + stage);
          if (++stage == stages) stage = 0, parity ^= 1;
        }
      }
    }
    return;
  }
  wait_prior_grid();
  allow_next_grid();

  if (warp == kWarps) {  // ends rows
    // This block hasn't arrived, so the others' arrivals are below the round's end.
    const uint32_t begin = load_acquire(chain.arrivals) & ~(chain.whole - 1);
    int slot = 0;
    uint32_t parity = 0;
    const int row = lane % 8, token = lane / 8;
    for (int l = 0; l < chain.count; ++l) {
      const LinearArgs a = chain.links[l].a;
      const int last = first_tile(l, blockIdx.x + 1);
      float inverse = 0.0f;  // 1 / rms
      for (int tile = first_tile(l, blockIdx.x); tile < last; ++tile) {
        barrier_wait(summed + slot, parity);
        float lo = 0.0f, hi = 0.0f;
        if (token < m) {
#pragma unroll
          for (int w = 0; w < kWarps; ++w) {
            lo += sums[slot][w][token * 16 + row];
            hi += sums[slot][w][token * 16 + row + 8];
          }
          barrier_arrive(ended + slot);
        }
        if (++slot == kSums) slot = 0, parity ^= 1;
        if (a.norm_weight != nullptr && token < m) {
          if (inverse == 0.0f) {
            float square = 0.0f;
#pragma unroll
            for (int w = 0; w < kWarps; ++w) square += squares[w][token];
            inverse = rsqrtf(square / static_cast<float>(a.k) + a.norm_eps);
          }
          lo *= inverse, hi *= inverse;
        }
        finish_pair<T>(a, static_cast<int64_t>(tile) * 16 + row, token, lo, hi);
      }
      if (l + 1 == chain.count) return;
      __syncwarp();
      if (lane == 0) {
        asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(chain.arrivals),
                     "r"(blockIdx.x == 0 ? chain.whole - (gridDim.x - 1) : 1u)
                     : "memory");
        const uint32_t target = begin + chain.whole * (l + 1);
        while (static_cast<int32_t>(load_acquire(chain.arrivals) - target) < 0) {
        }
        barrier_arrive(&met);
      }
    }
    return;
  }

  const int team = warp / kTeam, member = warp % kTeam, last_stage = kept(stages), tokens_here = kept(m);
  const uint32_t full_at = kept(shared_address(full)), empty_at = kept(shared_address(empty));
  const uint32_t ended_at = kept(shared_address(ended)), summed_at = kept(shared_address(summed));
  const uint32_t data_at = kept(shared_address(ring) + member * kStepBytes + lane * 16);
  const uint32_t params_at = kept(shared_address(ring) + S::kDataBytes + member * S::kGroups * 64 + r * 8);
  const uint32_t operand_at = kept(shared_address(tokens) + r * chain.slab + t * 32 + member * 256);
  const uint32_t totals_at = kept(shared_address(totals) + member * S::kGroups * (kW4ChainMaxM * 4) + t % 2 * 8);
  const uint32_t sums_at = kept(shared_address(sums[0][warp]) + (2 * t * 16 + r) * 4);
  const bool has_token = r < tokens_here, first_sum = 2 * t < tokens_here, second_sum = 2 * t + 1 < tokens_here;
  int stage = 0, slot = 0;
  uint32_t parity = 0, slot_parity = 1;
  const auto pass = [&](int count) {  // at most all stages
    stage += count;
    const bool round = stage >= last_stage;
    stage -= round ? last_stage : 0;
    parity ^= round ? 1 : 0;
  };
  for (int l = 0; l < chain.count; ++l) {
    const Link& link = chain.links[l];
    const int steps = kept(link.steps), rounds = kept((steps + kSteps - 1) / kSteps);
    const int tiles = kept(first_tile(l, blockIdx.x + 1) - first_tile(l, blockIdx.x));
    stage_steps<T, kGroup>(link, l > 0 ? &met : nullptr, (l - 1) & 1, tokens, chain.slab, totals, warp, lane, squares[warp]);
    for (int tile = 0; tile < tiles; ++tile) {
      float sum[4] = {};
      int at = 0;  // the round that `stage` is of
      for (int round = (team + tile * rounds) % 2; round < rounds; round += 2) {
        pass(round - at), at = round;
        const int left = steps - round * kSteps - member;
        Part<kGroup> part;
        barrier_wait_at(full_at + stage * 8, parity);
        load_part<kGroup>(part, data_at + stage * S::kStageBytes, params_at + stage * S::kStageBytes);
        if (left > 0) {
          multiply<T, kGroup>(part, left > kTeam ? 2 : 1, operand_at + round * (kSteps * 256),
                              totals_at + round * (kSteps * S::kGroups * kW4ChainMaxM * 4), has_token, sum);
        }
        arrive_if(true, empty_at + stage * 8);
      }
      pass(rounds - at);
      barrier_wait_at(ended_at + slot * 8, slot_parity);
      const uint32_t to = sums_at + slot * static_cast<uint32_t>(sizeof(sums[0]));
      if (first_sum) put4(to, sum[0]), put4(to + 32, sum[2]);
      if (second_sum) put4(to + 64, sum[1]), put4(to + 96, sum[3]);
      arrive_if(first_sum, summed_at + slot * 8);
      if (++slot == kSums) slot = 0, slot_parity ^= 1;
    }
  }
#endif
}
#endif

}  // namespace
}  // namespace deploykit::cuda
