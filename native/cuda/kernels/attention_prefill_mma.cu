// Prefill attention on mma.sync, for GPUs without wgmma: FlashAttention-2's loop over paged 16-bit KV memory. A block
// takes 64 queries of one head, a warp 16 of them; keys and values come 64 (heads of 256: 32) at a time into shared
// memory, the next keys while this tile's values are multiplied, the values while its scores are.
#include "cuda/kernels/attention_prefill_mma.cuh"

#include "cuda/kernels/attention.cuh"

namespace deploykit::cuda {
namespace {

constexpr int kRows = 64, kThreads = 128;
constexpr float kLog2e = 1.4426950408889634f;

struct MmaPrefillArgs {
  const void* q;
  int64_t q_stride;
  void* out;
  int64_t out_stride;
  const float* sinks;
  const int32_t* q_start;
  const int32_t* index0;
  const int32_t* row;
  int32_t group, window;
  float scale, softcap;
};

// Four 8 x 8 matrices; lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void load_matrices(uint32_t (&v)[4], const void* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
               : "r"(shared_address(p)));
}
__device__ __forceinline__ void load_matrices_turned(uint32_t (&v)[4], const void* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
               : "r"(shared_address(p)));
}

template <class T, int D>
__global__ void __launch_bounds__(kThreads) prefill_mma_kernel(const MmaPrefillArgs a, const KvArgs kv) {
  constexpr int kKeys = D == 256 ? 32 : 64, kPitch = D + 8;  // a row's 16 bytes more: no two rows of 8 share a bank
  constexpr int kPieces = D / 8;                             // of 16 bytes in a row
  extern __shared__ __align__(16) char raw[];
  T* q_tile = reinterpret_cast<T*>(raw);
  T* k_tile = q_tile + kRows * kPitch;
  T* v_tile = k_tile + kKeys * kPitch;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, r = lane / 4, t = lane % 4;
  const int head = blockIdx.y, kv_head = head / a.group, sequence = blockIdx.z;
  wait_prior_grid();
  allow_next_grid();
  const int first = a.q_start[sequence], count = a.q_start[sequence + 1] - first;
  const int m0 = (gridDim.x - 1 - blockIdx.x) * kRows;  // the longest rows of keys begin first
  if (m0 >= count) return;
  const int index0 = a.index0[sequence];
  const int64_t row = a.row[sequence];
  const int rows = min(kRows, count - m0), length = index0 + m0 + rows;  // keys that some query sees
  const int oldest = a.window > 0 ? max(index0 + m0 - a.window + 1, 0) : 0;

  const T* q = static_cast<const T*>(a.q) + static_cast<int64_t>(first + m0) * a.q_stride + head * D;
  for (int i = threadIdx.x; i < kRows * kPieces; i += kThreads) {
    const int m = i / kPieces, piece = i % kPieces;
    copy_async16(q_tile + m * kPitch + piece * 8, q + (m < rows ? m : 0) * a.q_stride + piece * 8, m < rows);
  }
  copy_commit();
  const auto fetch = [&](T* tile, int n0, int64_t offset, int row_bytes) {
    for (int i = threadIdx.x; i < kKeys * kPieces; i += kThreads) {
      const int n = i / kPieces, piece = i % kPieces, index = n0 + n;
      const bool ok = index < length;
      const char* part = kv_part(kv, row, kv_head, ok ? index : 0);
      const int place = (ok ? index : 0) % kv.block_len;
      copy_async16(tile + n * kPitch + piece * 8, part + offset + static_cast<int64_t>(place) * row_bytes + piece * 16, ok);
    }
    copy_commit();
  };

  float o[D / 8][4] = {};
  float top[2] = {-INFINITY, -INFINITY}, mass[2] = {0.0f, 0.0f};
  const int n_first = oldest / kKeys * kKeys;
  fetch(k_tile, n_first, 0, kv.k_row);
  for (int n0 = n_first; n0 < length; n0 += kKeys) {
    fetch(v_tile, n0, kv.v_offset, kv.v_row);
    copy_wait<1>();
    __syncthreads();

    float s[kKeys / 8][4] = {};
#pragma unroll
    for (int d = 0; d < D; d += 16) {
      uint32_t qf[4];
      load_matrices(qf, q_tile + (warp * 16 + lane % 16) * kPitch + d + lane / 16 * 8);
#pragma unroll
      for (int n = 0; n < kKeys; n += 16) {
        uint32_t kf[4];  // keys n .. n + 7: dims d, d + 8; keys n + 8 ..: the same
        load_matrices(kf, k_tile + (n + lane % 8 + lane / 16 * 8) * kPitch + d + lane / 8 % 2 * 8);
        mma<T>(s[n / 8], qf[0], qf[1], qf[2], qf[3], kf[0], kf[1]);
        mma<T>(s[n / 8 + 1], qf[0], qf[1], qf[2], qf[3], kf[2], kf[3]);
      }
    }
    __syncthreads();
    if (n0 + kKeys < length) {
      fetch(k_tile, n0 + kKeys, 0, kv.k_row);
    } else {
      copy_commit();  // an empty group: the waits count groups
    }

    float best[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int key = n0 + j * 8 + 2 * t + e % 2, at = index0 + m0 + warp * 16 + r + e / 2 * 8;
        float v = s[j][e] * a.scale;
        if (a.softcap > 0.0f) v = a.softcap * tanhf(v / a.softcap);
        const bool seen = key <= at && (a.window <= 0 || key > at - a.window);
        s[j][e] = seen ? v * kLog2e : -INFINITY;
        best[e / 2] = fmaxf(best[e / 2], s[j][e]);
      }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      best[h] = fmaxf(best[h], __shfl_xor_sync(0xffffffffu, best[h], 1));
      best[h] = fmaxf(best[h], __shfl_xor_sync(0xffffffffu, best[h], 2));
      const float higher = fmaxf(top[h], best[h]);
      const float down = higher == -INFINITY ? 1.0f : exp2_fast(top[h] - higher);
      top[h] = higher;
      mass[h] *= down;
#pragma unroll
      for (int j = 0; j < D / 8; ++j) o[j][2 * h] *= down, o[j][2 * h + 1] *= down;
    }
#pragma unroll
    for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float v = top[e / 2] == -INFINITY ? 0.0f : exp2_fast(s[j][e] - top[e / 2]);
        mass[e / 2] += v;
        s[j][e] = v;
      }
    }
    copy_wait<1>();
    __syncthreads();
#pragma unroll
    for (int n = 0; n < kKeys; n += 16) {
      const uint32_t p0 = Num<T>::pack(s[n / 8][0], s[n / 8][1]), p1 = Num<T>::pack(s[n / 8][2], s[n / 8][3]);
      const uint32_t p2 = Num<T>::pack(s[n / 8 + 1][0], s[n / 8 + 1][1]);
      const uint32_t p3 = Num<T>::pack(s[n / 8 + 1][2], s[n / 8 + 1][3]);
#pragma unroll
      for (int d = 0; d < D; d += 16) {
        uint32_t vf[4];  // keys n .., n + 8 .. of dims d ..; the same of dims d + 8 ..
        load_matrices_turned(vf, v_tile + (n + lane % 16) * kPitch + d + lane / 16 * 8);
        mma<T>(o[d / 8], p0, p1, p2, p3, vf[0], vf[1]);
        mma<T>(o[d / 8 + 1], p0, p1, p2, p3, vf[2], vf[3]);
      }
    }
    __syncthreads();
  }

#pragma unroll
  for (int h = 0; h < 2; ++h) {
    mass[h] += __shfl_xor_sync(0xffffffffu, mass[h], 1);
    mass[h] += __shfl_xor_sync(0xffffffffu, mass[h], 2);
    float scale = 1.0f;
    if (a.sinks != nullptr) {
      const float sink = a.sinks[head] * kLog2e, higher = fmaxf(top[h], sink);
      scale = exp2_fast(top[h] - higher);
      mass[h] = mass[h] * scale + exp2_fast(sink - higher);
    }
    scale /= mass[h];
    const int m = warp * 16 + r + h * 8;
    if (m >= rows) continue;
    T* out = static_cast<T*>(a.out) + static_cast<int64_t>(first + m0 + m) * a.out_stride + head * D + 2 * t;
#pragma unroll
    for (int j = 0; j < D / 8; ++j) {
      *reinterpret_cast<uint32_t*>(out + j * 8) = Num<T>::pack(o[j][2 * h] * scale, o[j][2 * h + 1] * scale);
    }
  }
}

template <class T>
void run(const MmaPrefillArgs& a, const KvArgs& kv, const dim3& grid, int32_t head_dim, cudaStream_t stream) {
  with_head_dim("attention_prefill", head_dim, [&](auto d) {
    constexpr int D = decltype(d)::value;
    constexpr size_t bytes = (kRows + 2 * (D == 256 ? 32 : 64)) * (D + 8) * sizeof(T);
    const auto kernel = prefill_mma_kernel<T, D>;
    allow_shared("attention_prefill", kernel, bytes);
    launch("attention_prefill", kernel, grid, dim3(kThreads), bytes, stream, a, kv);
  });
}

}  // namespace

void attention_prefill_mma(const AttentionCall& call, const KvView& kv, int32_t sequences, const int32_t* q_start,
                           const int32_t* index0, const int32_t* row, int32_t max_queries, cudaStream_t stream) {
  const char* name = "attention_prefill";
  const bool bf16 = call.dtype == DType::bf16;
  require(call.dtype == DType::f16 || bf16, name, "dtype is f16 or bf16");
  require(kv.type == (bf16 ? KvType::bf16 : KvType::f16), name, "the cache is 16-bit, of the activations' type");
  require(kv.kv_heads >= 1 && call.heads % kv.kv_heads == 0 && call.heads <= 65535, name, "kv_heads divides heads");
  require(sequences >= 1 && sequences <= 65535 && max_queries >= 1, name, "1 <= sequences <= 65535 with queries");
  require(call.q_stride % 8 == 0 && call.out_stride % 8 == 0, name, "strides are multiples of 8");
  const MmaPrefillArgs a = {call.q,  call.q_stride, call.out, call.out_stride,
                            call.sinks, q_start,    index0,   row,
                            call.heads / kv.kv_heads, call.window, call.scale, call.softcap};
  const dim3 grid(static_cast<unsigned>(ceil_div(max_queries, kRows)), static_cast<unsigned>(call.heads),
                  static_cast<unsigned>(sequences));
  const KvArgs args = kv_args(name, kv);
  if (bf16) {
    run<__nv_bfloat16>(a, args, grid, kv.head_dim, stream);
  } else {
    run<__half>(a, args, grid, kv.head_dim, stream);
  }
}

}  // namespace deploykit::cuda
