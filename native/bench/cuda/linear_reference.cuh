// A linear layer in float64 for the checks of products: weights as float32 values, every epilogue, a norm on the way in.
#pragma once

#include "bench.cuh"

namespace bench {

template <class T>
__global__ void widen(const T* in, int64_t n, float* out) {
  for (int64_t i = blockIdx.x * 256ll + threadIdx.x; i < n; i += gridDim.x * 256ll) out[i] = Num<T>::to_float(in[i]);
}

static __device__ double reference_activation(int kind, double x) {
  if (kind == 0) return x / (1 + exp(-x));
  if (kind == 1) return 0.5 * x * (1 + erf(x / sqrt(2.0)));
  if (kind == 2) return 0.5 * x * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
  return x > 0 ? x : 0;
}
template <class T>
__global__ void reference_linear(LinearCall c, const float* w, int64_t n, int64_t k, double* sums) {
  const int64_t i = blockIdx.x * 256ll + threadIdx.x;
  if (i >= c.m * n) return;
  const int64_t m = i / n, row = i % n;
  const T* x = static_cast<const T*>(c.x) + m * c.x_stride;
  double sum = 0, squares = 0;
  for (int64_t j = 0; j < k; ++j) {
    const double v = Num<T>::to_float(x[j]);
    double g = 1;
    if (c.norm_weight != nullptr) g = Num<T>::to_float(static_cast<const T*>(c.norm_weight)[j]) + double(c.norm_offset);
    sum += v * g * w[row * k + j];
    squares += v * v;
  }
  if (c.norm_weight != nullptr) sum /= sqrt(squares / k + c.norm_eps);
  if (c.bias != nullptr) sum += Num<T>::to_float(static_cast<const T*>(c.bias)[row]);
  sums[i] = sum;
}
template <class T>
__global__ void reference_epilogue(LinearCall c, const double* sums, int64_t n, double* out) {
  const int64_t n_out = c.epilogue == Epilogue::gated ? n / 2 : n;
  const int64_t i = blockIdx.x * 256ll + threadIdx.x;
  if (i >= c.m * n_out) return;
  const int64_t m = i / n_out, o = i % n_out;
  if (c.epilogue == Epilogue::gated) {
    const int64_t row = o / 8 * 16 + o % 8;
    out[i] = reference_activation(static_cast<int>(c.activation), sums[m * n + row]) * sums[m * n + row + 8];
  } else if (c.epilogue == Epilogue::residual) {
    out[i] = Num<T>::to_float(static_cast<const T*>(c.residual)[m * c.residual_stride + o]) +
             double(c.residual_scale) * sums[m * n + o];
  } else {
    out[i] = sums[m * n + o];
  }
}

}  // namespace bench
