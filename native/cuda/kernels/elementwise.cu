// Embedding rows, activations and sums: one pass over memory, 8 elements a thread and time.
#include "cuda/kernels/common.cuh"

namespace deploykit::cuda {
namespace {

template <class T>
__device__ __forceinline__ void unpack8(const uint4& v, float (&f)[8]) {
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 p = Num<T>::to_float2(words[i]);
    f[2 * i] = p.x, f[2 * i + 1] = p.y;
  }
}
template <class T>
__device__ __forceinline__ uint4 pack8(const float (&f)[8]) {
  return make_uint4(Num<T>::pack(f[0], f[1]), Num<T>::pack(f[2], f[3]), Num<T>::pack(f[4], f[5]),
                    Num<T>::pack(f[6], f[7]));
}

template <class T>
__global__ void __launch_bounds__(256) embed_kernel(const T* table, int64_t vocab, int64_t hidden, float multiplier,
                                                    const int32_t* tokens, T* out, int64_t out_stride) {
  wait_prior_grid();
  allow_next_grid();
  const int64_t t = blockIdx.x, token = tokens[t];
  const bool ok = token >= 0 && token < vocab;
  for (int64_t i = threadIdx.x * 8; i < hidden; i += 256 * 8) {
    uint4 v = make_uint4(0, 0, 0, 0);
    if (ok) {
      v = *reinterpret_cast<const uint4*>(table + token * hidden + i);
      if (multiplier != 1.0f) {
        float f[8];
        unpack8<T>(v, f);
#pragma unroll
        for (float& x : f) x *= multiplier;
        v = pack8<T>(f);
      }
    }
    *reinterpret_cast<uint4*>(out + t * out_stride + i) = v;
  }
}

enum class Kind { gate, activate, add };

constexpr int kUnits = 2;  // of 8 outputs a thread, loaded before the first is computed

// Blocks of (units, rows): no division finds an element's place.
template <class T, Kind kKind>
__global__ void __launch_bounds__(256) map_kernel(const T* x, int64_t x_stride, T* y, int64_t y_stride, int64_t m,
                                                  int32_t units, Activation kind, float scale) {
  constexpr int kIn = kKind == Kind::gate ? 16 : 8;  // elements of x a unit
  wait_prior_grid();
  allow_next_grid();
  for (int64_t row = blockIdx.y; row < m; row += gridDim.y) {
    const T* from = x + row * x_stride;
    T* to = y + row * y_stride;
    const int first = blockIdx.x * (256 * kUnits) + threadIdx.x;
    uint4 in[kUnits], more[kUnits];
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
      const int64_t unit = first + u * 256;
      if (unit >= units) break;
      if (kKind != Kind::activate) in[u] = load16(from + unit * kIn);
      if (kKind == Kind::gate) more[u] = load16(from + unit * 16 + 8);  // 8 of gate, 8 of up
      if (kKind != Kind::gate) more[u] = load16(to + unit * 8);
    }
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
      const int64_t unit = first + u * 256;
      if (unit >= units) break;
      float a[8], b[8];
      unpack8<T>(more[u], b);
      if (kKind != Kind::activate) unpack8<T>(in[u], a);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        if (kKind == Kind::gate) b[j] = activation(kind, a[j]) * b[j];
        if (kKind == Kind::activate) b[j] = activation(kind, b[j]);
        if (kKind == Kind::add) b[j] = fmaf(scale, a[j], b[j]);
      }
      *reinterpret_cast<uint4*>(to + unit * 8) = pack8<T>(b);
    }
  }
}

template <Kind kKind>
void map(const char* name, DType dtype, const void* x, int64_t x_stride, void* y, int64_t y_stride, int64_t m,
         int64_t n, Activation kind, float scale, cudaStream_t stream) {
  require(n % 8 == 0 && x_stride % 8 == 0 && y_stride % 8 == 0, name, "sizes and strides are multiples of 8");
  require(dtype == DType::f16 || dtype == DType::bf16, name, "dtype is f16 or bf16");
  if (m == 0) return;
  require(n / 8 < 1ll << 31, name, "n < 2^34");
  const dim3 grid(static_cast<unsigned>(ceil_div(n / 8, 256 * kUnits)), static_cast<unsigned>(m < 65535 ? m : 65535));
  const int32_t units = static_cast<int32_t>(n / 8);
  if (dtype == DType::f16) {
    launch(name, map_kernel<__half, kKind>, grid, dim3(256), 0, stream, static_cast<const __half*>(x), x_stride,
           static_cast<__half*>(y), y_stride, m, units, kind, scale);
  } else {
    launch(name, map_kernel<__nv_bfloat16, kKind>, grid, dim3(256), 0, stream, static_cast<const __nv_bfloat16*>(x),
           x_stride, static_cast<__nv_bfloat16*>(y), y_stride, m, units, kind, scale);
  }
}

__global__ void __launch_bounds__(256) softcap_kernel(float* x, int64_t count, float multiplier, float cap) {
  wait_prior_grid();
  allow_next_grid();
  for (int64_t i = blockIdx.x * 256ll + threadIdx.x; i < count; i += gridDim.x * 256ll) {
    float v = x[i] * multiplier;
    if (cap > 0.0f) v = cap * tanhf(v / cap);
    x[i] = v;
  }
}

}  // namespace

void embed(DType dtype, const void* table, int64_t vocab, int64_t hidden, float multiplier, const int32_t* tokens,
           int64_t count, void* out, int64_t out_stride, cudaStream_t stream) {
  require(hidden % 8 == 0 && out_stride % 8 == 0, "embed", "hidden and out_stride are multiples of 8");
  if (count == 0) return;
  const dim3 grid(static_cast<unsigned>(count));
  if (dtype == DType::f16) {
    launch("embed", embed_kernel<__half>, grid, dim3(256), 0, stream, static_cast<const __half*>(table), vocab, hidden,
           multiplier, tokens, static_cast<__half*>(out), out_stride);
  } else {
    launch("embed", embed_kernel<__nv_bfloat16>, grid, dim3(256), 0, stream, static_cast<const __nv_bfloat16*>(table),
           vocab, hidden, multiplier, tokens, static_cast<__nv_bfloat16*>(out), out_stride);
  }
}

void gate_activate(DType dtype, Activation activation, const void* x, int64_t x_stride, int64_t m, int64_t inner,
                   void* y, int64_t y_stride, cudaStream_t stream) {
  map<Kind::gate>("gate_activate", dtype, x, x_stride, y, y_stride, m, inner, activation, 0.0f, stream);
}
void activate(DType dtype, Activation activation, void* x, int64_t x_stride, int64_t m, int64_t n,
              cudaStream_t stream) {
  map<Kind::activate>("activate", dtype, x, x_stride, x, x_stride, m, n, activation, 0.0f, stream);
}
void add_scaled(DType dtype, void* h, int64_t h_stride, const void* x, int64_t x_stride, float scale, int64_t m,
                int64_t n, cudaStream_t stream) {
  map<Kind::add>("add_scaled", dtype, x, x_stride, h, h_stride, m, n, Activation::silu, scale, stream);
}

void scale_softcap(float* x, int64_t count, float multiplier, float cap, cudaStream_t stream) {
  if (count == 0) return;
  const int64_t blocks = ceil_div(count, 256), most = 16ll * multiprocessors();
  launch("scale_softcap", softcap_kernel, dim3(static_cast<unsigned>(blocks < most ? blocks : most)), dim3(256), 0,
         stream, x, count, multiplier, cap);
}

}  // namespace deploykit::cuda
