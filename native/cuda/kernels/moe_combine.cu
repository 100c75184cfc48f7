// The sum of a token's results at the end of a mixture of experts.
#include "cuda/kernels/moe.cuh"

namespace deploykit::cuda {
namespace {

struct CombineArgs {
  const void* out;
  int64_t out_stride;
  const void* residual;
  int64_t residual_stride;
  void* y;
  int64_t y_stride;
  int64_t n;
  float scale;
  const float* weight;
  const int32_t* slot;
  int32_t top_k;
};

// A block a token (and part of n): 8 columns a thread.
template <class T>
__global__ void __launch_bounds__(256) combine_kernel(const CombineArgs a) {
  __shared__ float weights[kMoeMostRanks];
  __shared__ int32_t slots[kMoeMostRanks];
  const int64_t token = blockIdx.x, column = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * 8;
  if (threadIdx.x < static_cast<unsigned>(a.top_k)) {  // moe_route has ended: two products lie between
    weights[threadIdx.x] = a.weight[token * a.top_k + threadIdx.x];
    slots[threadIdx.x] = a.slot[token * a.top_k + threadIdx.x];
  }
  wait_prior_grid();
  allow_next_grid();
  __syncthreads();
  if (column >= a.n) return;
  float sum[8] = {};
  const T* out = static_cast<const T*>(a.out) + column;
#pragma unroll 4
  for (int rank = 0; rank < a.top_k; ++rank) {
    const int64_t slot = slots[rank];
    if (slot < 0) continue;
    const uint4 v = load16(out + slot * a.out_stride);
    const uint32_t* words = reinterpret_cast<const uint32_t*>(&v);
    const float weight = weights[rank];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float2 f = Num<T>::to_float2(words[j]);
      sum[2 * j] = fmaf(weight, f.x, sum[2 * j]);
      sum[2 * j + 1] = fmaf(weight, f.y, sum[2 * j + 1]);
    }
  }
  uint4 result;
  uint32_t* words = reinterpret_cast<uint32_t*>(&result);
  uint4 before = make_uint4(0, 0, 0, 0);
  if (a.residual != nullptr) before = load16(static_cast<const T*>(a.residual) + token * a.residual_stride + column);
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const float2 f = Num<T>::to_float2(reinterpret_cast<const uint32_t*>(&before)[j]);
    words[j] = Num<T>::pack(fmaf(a.scale, sum[2 * j], f.x), fmaf(a.scale, sum[2 * j + 1], f.y));
  }
  *reinterpret_cast<uint4*>(static_cast<T*>(a.y) + token * a.y_stride + column) = result;
}

}  // namespace

void moe_combine(const MoeSpec& spec, const MoeCombineCall& call, const MoeRoutes& routes, cudaStream_t stream) {
  const char* name = "moe_combine";
  require_moe(name, spec);
  require(call.dtype == DType::f16 || call.dtype == DType::bf16, name, "dtype is f16 or bf16");
  require(call.tokens >= 1 && call.tokens <= routes.capacity, name, "1 <= tokens <= the routes' capacity");
  require(call.n >= 8 && call.n % 8 == 0, name, "n % 8 == 0");
  require(call.out_stride % 8 == 0 && call.y_stride % 8 == 0 && call.residual_stride % 8 == 0, name,
          "strides are multiples of 8");
  const CombineArgs a = {call.out, call.out_stride, call.residual, call.residual_stride, call.y,     call.y_stride,
                         call.n,   call.scale,      routes.weight, routes.slot,          spec.top_k};
  const int64_t threads = call.n / 8 < 256 ? ceil_div(call.n / 8, 32) * 32 : 256;
  const dim3 grid(static_cast<unsigned>(call.tokens), static_cast<unsigned>(ceil_div(call.n, threads * 8)));
  const auto kernel = call.dtype == DType::f16 ? combine_kernel<__half> : combine_kernel<__nv_bfloat16>;
  launch(name, kernel, grid, dim3(static_cast<unsigned>(threads)), 0, stream, a);
}

}  // namespace deploykit::cuda
