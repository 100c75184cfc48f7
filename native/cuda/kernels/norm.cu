// RMS and layer norm of rows, with the sum in front of it.
#include "cuda/kernels/common.cuh"

namespace deploykit::cuda {
namespace {

__device__ __forceinline__ float block_sum(float v, float* parts) {
  v = warp_sum(v);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
  __syncthreads();
  float total = 0.0f;
#pragma unroll
  for (int w = 0; w < 8; ++w) total += parts[w];
  __syncthreads();
  return total;
}

template <class T, int kVectors>
__global__ void __launch_bounds__(256) norm_kernel(const NormCall c) {
  __shared__ float parts[8];
  if (c.frees_next) allow_next_grid();
  wait_prior_grid();
  if (!c.frees_next) allow_next_grid();
  const int64_t row = blockIdx.x, from = c.gather != nullptr ? c.gather[row] : row;
  const T* x = static_cast<const T*>(c.x) + from * c.x_stride;
  float v[kVectors][8];
  float sum = 0.0f, squares = 0.0f;
#pragma unroll
  for (int k = 0; k < kVectors; ++k) {
    const int64_t i = (threadIdx.x + k * 256) * 8;
#pragma unroll
    for (int j = 0; j < 8; ++j) v[k][j] = 0.0f;
    if (i >= c.n) continue;
    const uint4 words = load16(x + i);
    uint32_t w[4] = {words.x, words.y, words.z, words.w};
    if (c.add != nullptr) {
      const uint4 more = load16(static_cast<const T*>(c.add) + row * c.add_stride + i);
      const uint32_t b[4] = {more.x, more.y, more.z, more.w};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float2 p = Num<T>::to_float2(w[j]), q = Num<T>::to_float2(b[j]);
        w[j] = Num<T>::pack(fmaf(c.add_scale, q.x, p.x), fmaf(c.add_scale, q.y, p.y));
      }
      *reinterpret_cast<uint4*>(static_cast<T*>(c.sum) + row * c.sum_stride + i) = make_uint4(w[0], w[1], w[2], w[3]);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float2 p = Num<T>::to_float2(w[j]);
      v[k][2 * j] = p.x, v[k][2 * j + 1] = p.y;
      sum += p.x + p.y;
      squares = fmaf(p.x, p.x, squares);
      squares = fmaf(p.y, p.y, squares);
    }
  }
  const float n = static_cast<float>(c.n);
  float mean = 0.0f;
  if (c.norm.kind == NormKind::layer) {
    mean = block_sum(sum, parts) / n;
    squares = 0.0f;
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
      if ((threadIdx.x + k * 256) * 8 >= c.n) continue;
#pragma unroll
      for (int j = 0; j < 8; ++j) squares += (v[k][j] - mean) * (v[k][j] - mean);
    }
  }
  const float factor = rsqrtf(block_sum(squares, parts) / n + c.norm.eps);
#pragma unroll
  for (int k = 0; k < kVectors; ++k) {
    const int64_t i = (threadIdx.x + k * 256) * 8;
    if (i >= c.n) continue;
    const uint4 words = *reinterpret_cast<const uint4*>(static_cast<const T*>(c.weight) + i);
    const uint32_t w[4] = {words.x, words.y, words.z, words.w};
    uint32_t out[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float2 g = Num<T>::to_float2(w[j]);
      float a = (v[k][2 * j] - mean) * factor * (g.x + c.norm.weight_offset);
      float b = (v[k][2 * j + 1] - mean) * factor * (g.y + c.norm.weight_offset);
      if (c.bias != nullptr) {
        a += Num<T>::to_float(static_cast<const T*>(c.bias)[i + 2 * j]);
        b += Num<T>::to_float(static_cast<const T*>(c.bias)[i + 2 * j + 1]);
      }
      out[j] = Num<T>::pack(a, b);
    }
    *reinterpret_cast<uint4*>(static_cast<T*>(c.y) + row * c.y_stride + i) = make_uint4(out[0], out[1], out[2], out[3]);
  }
}

template <class T>
void run(const NormCall& c, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(c.rows));
  const auto kernel = c.n <= 2048    ? norm_kernel<T, 1>
                      : c.n <= 4096  ? norm_kernel<T, 2>
                      : c.n <= 8192  ? norm_kernel<T, 4>
                      : c.n <= 16384 ? norm_kernel<T, 8>
                                     : norm_kernel<T, 16>;
  launch("norm", kernel, grid, dim3(256), 0, stream, c);
}

}  // namespace

void norm(const NormCall& call, cudaStream_t stream) {
  require(call.n >= 8 && call.n % 8 == 0 && call.n <= 32768, "norm", "n is a multiple of 8 up to 32768");
  require(call.x_stride % 8 == 0 && call.y_stride % 8 == 0 && call.add_stride % 8 == 0 && call.sum_stride % 8 == 0,
          "norm", "strides are multiples of 8");
  require(call.add == nullptr || (call.sum != nullptr && call.gather == nullptr), "norm",
          "a sum has somewhere to go and no gather");
  require(call.dtype == DType::f16 || call.dtype == DType::bf16, "norm", "dtype is f16 or bf16");
  if (call.rows == 0) return;
  if (call.dtype == DType::f16) {
    run<__half>(call, stream);
  } else {
    run<__nv_bfloat16>(call, stream);
  }
}

}  // namespace deploykit::cuda
