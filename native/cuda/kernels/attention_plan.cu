// A decode step's attention cut by the rows' real lengths, once a step for all layers: how many parts each row gets,
// and the parts in an order that starts the longest first.
#include "cuda/kernels/attention_decode.cuh"

namespace deploykit::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kClasses = 8;

struct PlanArgs {
  const int32_t* row;
  const int32_t* index;
  int32_t n, wanted, least;  // wanted: parts over all rows; least: tokens of one
  int32_t* plan;
};

__global__ void __launch_bounds__(kThreads) plan_kernel(const PlanArgs a) {
  __shared__ unsigned long long total;
  __shared__ int longest_row, longest, places[kClasses];
  wait_prior_grid();
  allow_next_grid();
  if (threadIdx.x == 0) total = 0, longest = 1, longest_row = 0;
  if (threadIdx.x < kClasses) places[threadIdx.x] = 0;
  __syncthreads();
  const auto length_of = [&](int i) { return a.row[i] < 0 ? 0 : a.index[i] + 1; };
  unsigned long long mine = 0;
  for (int i = threadIdx.x; i < a.n; i += kThreads) {
    mine += static_cast<unsigned long long>(length_of(i));
    atomicMax(&longest_row, length_of(i));
  }
  atomicAdd(&total, mine);
  __syncthreads();
  const int share = static_cast<int>((total + a.wanted - 1) / a.wanted);
  // Merging 64 short parts of one long row costs more than 16 longer ones take.
  const int part = max((share + 63) & ~63, max(a.least, min(longest_row / 16 & ~63, 256)));
  // To the nearest whole number of parts: a row a little longer than a part stays whole.
  const auto parts_of = [&](int length) { return min(max((length + part / 2) / part, 1), kDecodeMaxParts); };
  for (int i = threadIdx.x; i < a.n; i += kThreads) {
    const int length = length_of(i);
    atomicMax(&longest, length / parts_of(length));
  }
  __syncthreads();
  const auto class_of = [&](int length, int parts) {
    return kClasses - 1 - min(length / parts * kClasses / (longest + 1), kClasses - 1);
  };
  for (int i = threadIdx.x; i < a.n; i += kThreads) {
    const int length = length_of(i), parts = parts_of(length);
    atomicAdd(&places[class_of(length, parts)], parts);
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    int before = 0;
    for (int c = 0; c < kClasses; ++c) {
      const int here = places[c];
      places[c] = before;
      before += here;
    }
    a.plan[0] = before;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < a.n; i += kThreads) {
    const int length = length_of(i), parts = parts_of(length);
    const int first = atomicAdd(&places[class_of(length, parts)], parts);
    for (int p = 0; p < parts; ++p) {
      reinterpret_cast<int2*>(a.plan + 4)[first + p] = make_int2(i, p | parts << 16);
    }
  }
}

}  // namespace

int32_t attention_plan_units(int32_t n, int32_t heads, int32_t kv_heads) {
  const int64_t blocks = int64_t{kv_heads} * decode_head_groups(heads, kv_heads);
  return n + static_cast<int32_t>(std::max<int64_t>(n, ceil_div(4 * multiprocessors(), blocks)));
}

int64_t attention_plan_bytes(int32_t n, int32_t heads, int32_t kv_heads) {
  return 16 + int64_t{attention_plan_units(n, heads, kv_heads)} * 8;
}

void attention_plan(int32_t n, int32_t heads, int32_t kv_heads, const int32_t* row, const int32_t* index,
                    int32_t* plan, cudaStream_t stream) {
  require(n >= 1 && n <= 65535, "attention_plan", "1 <= n <= 65535");
  PlanArgs a = {};
  a.row = row, a.index = index, a.n = n, a.plan = plan;
  a.wanted = attention_plan_units(n, heads, kv_heads) - n;
  // Merging costs more than it saves where a whole row is short and blocks are many.
  const int64_t blocks = int64_t{n} * kv_heads * decode_head_groups(heads, kv_heads);
  a.least = 2 * blocks >= multiprocessors() ? 256 : 64;
  launch("attention_plan", plan_kernel, dim3(1), dim3(kThreads), 0, stream, a);
}

}  // namespace deploykit::cuda
