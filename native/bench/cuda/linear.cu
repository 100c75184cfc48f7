// Linear kernels: checks against float64, then times beside cuBLASLt. Usage: linear [check|time|all|small]
#include <ctime>

#include "bench.cuh"
#include "cuda/kernels/gemm_lt.h"

namespace deploykit::cuda {  // internal: the rungs of the ladder
void gemv16_variant(int variant, const LinearCall& call, const void* w, int64_t n, int64_t k, cudaStream_t stream);
void w4_gemv_variant(int variant, const LinearCall& call, const W4Weight& w, cudaStream_t stream);
void w4_mma_variant(int variant, const LinearCall& call, const W4Weight& w, cudaStream_t stream);
}  // namespace deploykit::cuda

using namespace bench;

namespace {

cudaStream_t stream;

// ------------------------------------------------------------------------------------------------------ references
// The value of a checkpoint's tensor at (row, column), straight from the format's definition.
__global__ void reference_unpack(bool gptq, const uint32_t* qweight, const uint32_t* qzeros, const __half* scales,
                                 int64_t rows, int64_t k, int group, int zero_offset, float* out, int64_t step,
                                 int64_t half, int64_t row_offset) {
  const int order[8] = {0, 2, 4, 6, 1, 3, 5, 7};
  for (int64_t i = blockIdx.x * 256ll + threadIdx.x; i < rows * k; i += gridDim.x * 256ll) {
    const int64_t row = i / k, column = i % k, g = column / group;
    int nibble = 0;
    for (int j = 0; j < 8; ++j) {
      if (order[j] == row % 8) nibble = j;
    }
    uint32_t q, z;
    if (gptq) {
      q = (qweight[(column / 8) * rows + row] >> (4 * (column % 8))) & 15;
      z = (qzeros[g * (rows / 8) + row / 8] >> (4 * (row % 8))) & 15;
    } else {
      q = (qweight[column * (rows / 8) + row / 8] >> (4 * nibble)) & 15;
      z = (qzeros[g * (rows / 8) + row / 8] >> (4 * nibble)) & 15;
    }
    const int64_t out_row = step == 1 ? row_offset + row : row / 8 * 16 + half * 8 + row % 8;
    out[out_row * k + column] =
        (static_cast<int>(q) - static_cast<int>(z) - zero_offset) * __half2float(scales[g * rows + row]);
  }
}
template <class T>
__global__ void widen(const T* in, int64_t n, float* out) {
  for (int64_t i = blockIdx.x * 256ll + threadIdx.x; i < n; i += gridDim.x * 256ll) out[i] = Num<T>::to_float(in[i]);
}

__device__ double reference_activation(int kind, double x) {
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

enum class Tier { gemv16, w4_gemv, w4_mma };

// A random 4-bit checkpoint tensor, repacked; the matrix it stands for in `values`.
struct W4Random {
  Buffer<char> data, params;
  Buffer<float> values;
  W4Weight w;
  W4Random(int64_t n, int64_t k, int group, bool gptq, bool gated)
      : data(w4_data_bytes(n, k)), params(w4_param_bytes(n, k, group)), values(n * k) {
    w = {data.data, reinterpret_cast<uint32_t*>(params.data), n, k, group};
    const int64_t rows = gated ? n / 2 : n;
    for (int half = 0; half < (gated ? 2 : 1); ++half) {
      Buffer<char> qweight(rows * k / 2), qzeros(k / group * rows / 2), scales(k / group * rows * 2);
      bits(qweight, qweight.count);
      bits(qzeros, qzeros.count);
      uniform(reinterpret_cast<__half*>(scales.data), k / group * rows, 0.005f, 0.02f);
      W4Source s;
      s.format = gptq ? WeightFormat::gptq : WeightFormat::awq;
      s.qweight = reinterpret_cast<int32_t*>(qweight.data);
      s.qzeros = reinterpret_cast<int32_t*>(qzeros.data);
      s.scales = scales.data;
      s.rows = rows;
      s.zero_offset = gptq ? 1 : 0;
      w4_repack(s, w, 0, gated ? (half == 0 ? RowMap::gate : RowMap::up) : RowMap::plain, stream);
      CU(cudaStreamSynchronize(stream));
      reference_unpack<<<1024, 256>>>(gptq, reinterpret_cast<uint32_t*>(qweight.data),
                                      reinterpret_cast<uint32_t*>(qzeros.data), reinterpret_cast<__half*>(scales.data),
                                      rows, k, group, s.zero_offset, values, gated ? 2 : 1, half, 0);
      CU(cudaDeviceSynchronize());
    }
  }
};

template <class T>
void check_linear(Tier tier, int64_t n, int64_t k, int m, int group, bool gptq, Epilogue epilogue, bool with_norm,
                  bool with_bias, bool f32, int variant, Activation act = Activation::silu) {
  const bool gated = epilogue == Epilogue::gated;
  const int64_t n_out = gated ? n / 2 : n, stride = k + 8;
  Buffer<T> x(m * stride), y(m * n_out), bias(n), residual(m * n), g(k);
  Buffer<float> y32(m * n_out);
  normal(x.data, x.count);
  normal(bias.data, n, 0.5f);
  normal(residual.data, m * n);
  normal(g.data, k, 0.2f, 1.0f);
  LinearCall c;
  c.dtype = dtype_of<T>();
  c.m = m, c.x = x.data, c.x_stride = stride;
  c.y = f32 ? static_cast<void*>(y32.data) : y.data, c.y_stride = n_out, c.y_f32 = f32;
  c.epilogue = epilogue, c.activation = act;
  if (with_bias) c.bias = bias.data;
  if (epilogue == Epilogue::residual) c.residual = residual.data, c.residual_stride = n, c.residual_scale = 0.75f;
  if (with_norm) c.norm_weight = g.data, c.norm_offset = 0.0f;
  Buffer<double> sums(m * n), ref(m * n_out);
  Buffer<float> values(tier == Tier::gemv16 ? n * k : 1);
  Buffer<char> workspace(w4_mma_workspace_bytes());
  CU(cudaMemset(workspace.data, 0, 65536));
  c.workspace = workspace.data;
  const float* w = values.data;
  if (tier == Tier::gemv16) {
    Buffer<T> w16(n * k);
    normal(w16.data, n * k, 0.02f);
    widen<<<1024, 256>>>(w16.data, n * k, values.data);
    CU(cudaDeviceSynchronize());
    gemv16_variant(variant, c, w16.data, n, k, stream);
    CU(cudaStreamSynchronize(stream));
    reference_linear<T><<<ceil_div(m * n, 256), 256>>>(c, w, n, k, sums);
    CU(cudaDeviceSynchronize());
  } else {
    W4Random r(n, k, group, gptq, gated);
    for (int repeat = 0; repeat < 2; ++repeat) {  // twice: counters must come back to zero
      y.poison();
      CU(cudaDeviceSynchronize());
      if (tier == Tier::w4_gemv) w4_gemv_variant(variant, c, r.w, stream);
      if (tier == Tier::w4_mma) w4_mma_variant(variant, c, r.w, stream);
    }
    CU(cudaStreamSynchronize(stream));
    reference_linear<T><<<ceil_div(m * n, 256), 256>>>(c, r.values, n, k, sums);
    CU(cudaDeviceSynchronize());
  }
  reference_epilogue<T><<<ceil_div(m * n_out, 256), 256>>>(c, sums, n, ref);
  const char* tiers[] = {"gemv16", "w4_gemv", "w4_mma"};
  char what[200];
  std::snprintf(what, sizeof what, "%s v%d %s %lldx%lld m%d g%d%s ep%d%s%s%s", tiers[int(tier)], variant,
                dtype_of<T>() == DType::f16 ? "f16" : "bf16", (long long)n, (long long)k, m,
                tier == Tier::gemv16 ? 0 : group, gptq ? " gptq" : "", int(epilogue), with_norm ? " norm" : "",
                with_bias ? " bias" : "", f32 ? " f32" : "");
  const double unit = dtype_of<T>() == DType::f16 ? 1.0 / 2048 : 1.0 / 256;
  if (f32) {
    compare(what, y32, ref, with_norm ? unit : 1e-5);
  } else {
    compare(what, y, ref, unit);
  }
}

template <class T>
void check_dequantize(int group, bool gptq) {
  const int64_t n = 96, k = 1024;
  W4Random r(n, k, group, gptq, false);
  Buffer<T> out(64 * k);
  Buffer<double> ref(64 * k);
  w4_dequantize(dtype_of<T>(), r.w, 32, 64, out, stream);
  CU(cudaStreamSynchronize(stream));
  const std::vector<float> v = r.values.host();
  ref.set(std::vector<double>(v.begin() + 32 * k, v.begin() + 96 * k));
  compare(std::string("w4_dequantize g") + std::to_string(group) + (gptq ? " gptq" : ""), out, ref,
          dtype_of<T>() == DType::f16 ? 1.0 / 2048 : 1.0 / 256);
}

template <class T>
void checks(bool small) {
  if (small) {  // one of each kind, for the sanitizers
    check_linear<T>(Tier::gemv16, 48, 608, 2, 128, false, Epilogue::residual, true, true, false, 0);
    check_linear<T>(Tier::gemv16, 48, 608, 8, 128, false, Epilogue::none, false, true, true, 1);
    for (int group : {32, 64, 128}) {
      check_linear<T>(Tier::w4_gemv, 48, 640, 2, group, false, Epilogue::none, true, true, false, 0);
      check_linear<T>(Tier::w4_gemv, 64, 640, 7, group, true, Epilogue::gated, false, false, false, 3);
      for (int m : {5, 16, 30, 64}) {
        check_linear<T>(Tier::w4_mma, 272, 1408, m, group, false, Epilogue::residual, false, true, false, 0);
      }
      check_dequantize<T>(group, true);
    }
    return;
  }
  for (int v = 0; v < 6; ++v) {
    check_linear<T>(Tier::gemv16, 1024, 4096, 1 + v, 128, false, Epilogue::none, false, v % 2 == 1, v == 2, v);
    check_linear<T>(Tier::gemv16, 1024, 4096, 3 + v, 128, false, v % 2 ? Epilogue::gated : Epilogue::residual, v > 2,
                    true, false, v, v == 5 ? Activation::gelu_tanh : Activation::silu);
    check_linear<T>(Tier::w4_gemv, 1024, 4096, 3 + v, 128, v % 2, v % 2 ? Epilogue::gated : Epilogue::residual, v > 2,
                    true, false, v);
  }
  check_linear<T>(Tier::gemv16, 48, 608, 8, 128, false, Epilogue::none, true, true, true, 1);
  check_linear<T>(Tier::w4_gemv, 48, 448, 5, 64, false, Epilogue::none, true, true, true, 1);
  check_linear<T>(Tier::w4_gemv, 48, 576, 8, 32, true, Epilogue::none, false, true, false, 1);
  check_linear<T>(Tier::w4_gemv, 256, 1024, 8, 32, false, Epilogue::gated, true, false, false, 1);
  for (int m : {5, 9, 16, 24, 33, 64}) {
    check_linear<T>(Tier::w4_mma, 4096, 4096, m, 128, false, Epilogue::residual, false, true, false, 0);
    check_linear<T>(Tier::w4_mma, 4096, 4096, m, 128, false, Epilogue::residual, false, true, false, 1);
    check_linear<T>(Tier::w4_mma, 272, 2112, m, 64, false, Epilogue::none, false, true, true, 1);
    check_linear<T>(Tier::w4_mma, 1040, 1056 + 32, m, 32, true, Epilogue::none, false, true, false, 1);
    check_linear<T>(Tier::w4_mma, 6144, 1024, m, 128, true, Epilogue::gated, false, false, false, 1);
    check_linear<T>(Tier::w4_mma, 272, 2112, m, 64, false, Epilogue::none, false, true, true, 0);
    check_linear<T>(Tier::w4_mma, 1040, 1056 + 32, m, 32, true, Epilogue::none, false, true, false, 0);
  }
  for (int group : {32, 64, 128}) check_dequantize<T>(group, group == 64);
}

// ----------------------------------------------------------------------------------------------------------- times
struct Size {
  const char* name;
  int64_t n, k;
};
const Size kSizes[] = {
    {"qkv", 6144, 4096}, {"o", 4096, 4096}, {"gate_up", 28672, 4096}, {"down", 4096, 14336}, {"head", 128256, 4096}};
double read_tbs = 3.16;

void times() {
  using T = __nv_bfloat16;
  GemmLt lt;
  const int64_t lt_bytes = 64 << 20;
  Buffer<char> lt_workspace(lt_bytes), workspace(w4_mma_workspace_bytes());
  workspace.zero();
  for (const Size& s : kSizes) {
    const int64_t n = s.n, k = s.k, bytes = n * k * 2;
    const int copies = static_cast<int>(std::max<int64_t>(1, (600ll << 20) / bytes));
    const int calls = copies * std::max(1, 24 / copies);
    Buffer<T> w(copies * n * k), x(64 * k), y(64 * n), g(k);
    normal(w.data, w.count, 0.02f);
    normal(x.data, x.count);
    normal(g.data, k, 0.1f, 1.0f);
    LinearCall c;
    c.x = x.data, c.x_stride = k, c.y = y.data, c.y_stride = n;
    if (std::string(s.name) == "gate_up") c.epilogue = Epilogue::gated;
    std::printf("%-8s 16-bit %.1f MB, roofline %.1f us\n", s.name, bytes * 1e-6, bytes / read_tbs * 1e-6);
    for (int m : {1, 4, 8}) {
      c.m = m;
      std::printf("  m %d:", m);
      for (int v = 0; v < 2; ++v) {
        const double us =
            time_us(stream, calls, [&](int i) { gemv16_variant(v, c, w + (i % copies) * n * k, n, k, stream); });
        std::printf("  v%d %.1f us %.2f TB/s", v, us, bytes / us * 1e-6);
      }
      GemmShape shape;
      shape.m = m, shape.n = n, shape.k = k;
      lt.plan(shape, x, k, w, y, n, nullptr, lt_workspace, lt_bytes, 8, stream);
      const double us = time_us(stream, calls, [&](int i) {
        lt.run(shape, x, k, w + (i % copies) * n * k, y, n, nullptr, lt_workspace, lt_bytes, stream);
      });
      std::printf("  cublasLt %.1f us %.2f TB/s\n", us, bytes / us * 1e-6);
    }
    c.norm_weight = g.data;
    c.m = 1;
    const double with_norm = time_us(stream, calls, [&](int i) { gemv16(c, w + (i % copies) * n * k, n, k, stream); });
    set_dependent_launch(false);
    const double plain = time_us(stream, calls, [&](int i) { gemv16(c, w + (i % copies) * n * k, n, k, stream); });
    set_dependent_launch(true);
    std::printf("  m 1 with norm %.1f us; without dependent launch %.1f us\n", with_norm, plain);
    if (std::string(s.name) == "head") continue;

    const int64_t bytes4 = w4_data_bytes(n, k) + w4_param_bytes(n, k, 128);
    const int copies4 = static_cast<int>(std::max<int64_t>(1, (400ll << 20) / bytes4));
    const int calls4 = copies4 * std::max(1, 24 / copies4);
    Buffer<char> data(copies4 * w4_data_bytes(n, k)), params(copies4 * w4_param_bytes(n, k, 128));
    bits(data, data.count);
    std::vector<uint32_t> p(params.count / 4);
    for (size_t i = 0; i < p.size(); ++i) p[i] = 0x2000u + (i * 2654435761u >> 24) + (((i * 40503u) >> 8 & 15u) << 16);
    CU(cudaMemcpy(params.data, p.data(), p.size() * 4, cudaMemcpyHostToDevice));
    const auto weight = [&](int i) {
      return W4Weight{data.data + (i % copies4) * w4_data_bytes(n, k),
                      reinterpret_cast<uint32_t*>(params.data + (i % copies4) * w4_param_bytes(n, k, 128)), n, k, 128};
    };
    c.norm_weight = nullptr;
    c.workspace = workspace.data;
    std::printf("%-8s W4 %.1f MB, roofline %.1f us\n", s.name, bytes4 * 1e-6, bytes4 / read_tbs * 1e-6);
    for (int m : {1, 4, 8}) {
      c.m = m;
      std::printf("  m %d:", m);
      for (int v = 0; v < 4; ++v) {
        const double us = time_us(stream, calls4, [&](int i) { w4_gemv_variant(v, c, weight(i), stream); });
        std::printf("  v%d %.1f us %.2f TB/s", v, us, bytes4 / us * 1e-6);
      }
      std::printf("\n");
    }
    c.m = 1, c.norm_weight = g.data;
    for (int v = 0; v < 4; ++v) {
      const double us = time_us(stream, calls4, [&](int i) { w4_gemv_variant(v, c, weight(i), stream); });
      std::printf("  norm v%d %.1f us", v, us);
    }
    std::printf("\n");
    c.norm_weight = nullptr;
    for (int m : {8, 16, 32, 64}) {
      c.m = m;
      std::printf("  mma m %d:", m);
      for (int v = 0; v < 2; ++v) {
        const double us = time_us(stream, calls4, [&](int i) { w4_mma_variant(v, c, weight(i), stream); });
        std::printf("  v%d %.1f us %.2f TB/s", v, us, bytes4 / us * 1e-6);
      }
      std::printf("\n");
    }
    const double dq = time_us(stream, 8, [&](int i) { w4_dequantize(DType::bf16, weight(i), 0, n, w.data, stream); });
    std::printf("  dequantize %.1f us %.2f TB/s\n", dq, (bytes4 + bytes) / dq * 1e-6);
    for (int m : {16, 64}) {
      GemmShape shape;
      shape.m = m, shape.n = n, shape.k = k;
      lt.plan(shape, x, k, w, y, n, nullptr, lt_workspace, lt_bytes, 8, stream);
      const double us = time_us(stream, calls, [&](int i) {
        lt.run(shape, x, k, w + (i % copies) * n * k, y, n, nullptr, lt_workspace, lt_bytes, stream);
      });
      std::printf("  cublasLt bf16 m %d: %.1f us\n", m, us);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "all";
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  print_device();
  CU(cudaStreamCreate(&stream));
  try {
    if (mode != "time") {
      checks<__nv_bfloat16>(mode == "small");
      if (mode != "small") checks<__half>(false);
      std::printf("%d failures\n", failures());
    }
    if (mode == "all" || mode == "time") {
      print_bandwidth(stream);
      times();
    }
  } catch (const std::exception& error) {
    std::printf("exception: %s\n", error.what());
    return 2;
  }
  return failures() != 0;
}
