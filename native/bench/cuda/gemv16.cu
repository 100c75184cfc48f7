// 16-bit products of at most 8 tokens: checks against float64, then times beside cuBLASLt. Usage: gemv16 [check|time|all]
#include "cuda/kernels/gemm_lt.h"
#include "linear_reference.cuh"

namespace deploykit::cuda {
void gemv16_variant(int variant, const LinearCall& call, const void* w, int64_t n, int64_t k, cudaStream_t stream);
}

using namespace bench;

namespace {

cudaStream_t stream;

struct Case {
  int variant;
  int64_t n, k;
  int m;
  Epilogue epilogue = Epilogue::none;
  bool norm = false, bias = false, f32 = false;
  Activation activation = Activation::silu;
};

template <class T>
void check(const Case& o) {
  const int64_t n = o.n, k = o.k, n_out = o.epilogue == Epilogue::gated ? n / 2 : n, stride = k + 8;
  const int m = o.m;
  Buffer<T> x(m * stride), y(m * n_out), bias(n), residual(m * n), g(k), w(n * k);
  Buffer<float> y32(m * n_out), values(n * k);
  normal(x.data, x.count);
  normal(bias.data, n, 0.5f);
  normal(residual.data, m * n);
  normal(g.data, k, 0.2f, 1.0f);
  normal(w.data, n * k, 0.02f);
  widen<<<1024, 256>>>(w.data, n * k, values.data);
  LinearCall c;
  c.dtype = dtype_of<T>();
  c.m = m, c.x = x.data, c.x_stride = stride;
  c.y = o.f32 ? static_cast<void*>(y32.data) : y.data, c.y_stride = n_out, c.y_f32 = o.f32;
  c.epilogue = o.epilogue, c.activation = o.activation;
  if (o.bias) c.bias = bias.data;
  if (o.epilogue == Epilogue::residual) c.residual = residual.data, c.residual_stride = n, c.residual_scale = 0.75f;
  if (o.norm) c.norm_weight = g.data, c.norm_offset = 0.0f;
  CU(cudaDeviceSynchronize());
  gemv16_variant(o.variant, c, w.data, n, k, stream);
  CU(cudaStreamSynchronize(stream));
  Buffer<double> sums(m * n), ref(m * n_out);
  reference_linear<T><<<ceil_div(m * n, 256), 256>>>(c, values, n, k, sums);
  reference_epilogue<T><<<ceil_div(m * n_out, 256), 256>>>(c, sums, n, ref);
  CU(cudaDeviceSynchronize());
  char what[200];
  std::snprintf(what, sizeof what, "gemv16 v%d %s %lldx%lld m%d ep%d%s%s%s", o.variant,
                dtype_of<T>() == DType::f16 ? "f16" : "bf16", (long long)n, (long long)k, m, int(o.epilogue),
                o.norm ? " norm" : "", o.bias ? " bias" : "", o.f32 ? " f32" : "");
  const double unit = dtype_of<T>() == DType::f16 ? 1.0 / 2048 : 1.0 / 256;
  if (o.f32) {
    compare(what, y32, ref, o.norm ? unit : 1e-5);
  } else {
    compare(what, y, ref, unit);
  }
}

template <class T>
void checks(bool small) {
  if (small) {  // one of each kind, for the sanitizers
    check<T>({0, 48, 608, 2, Epilogue::residual, true, true});
    check<T>({1, 48, 608, 8, Epilogue::none, false, true, true});
    return;
  }
  for (int v = 0; v < 2; ++v) {
    for (int m = 1; m <= 8; ++m) {
      check<T>({v, 1024, 4096, m, m % 2 ? Epilogue::gated : Epilogue::residual, m < 3, m % 3 == 1, false,
                Activation(m % 4)});
      check<T>({v, 960, 576, m, Epilogue::none, m < 3, false, m % 4 == 2});  // chunks that don't fill the warps
      check<T>({v, 576, 1536, m, Epilogue::residual, false, true});
    }
  }
  check<T>({1, 48, 608, 8, Epilogue::none, true, true, true});
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
  Buffer<char> lt_workspace(lt_bytes);
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
  }
}

}  // namespace

int main(int argc, char** argv) {
  return program(argc, argv, "all", &stream, [](const std::string& mode) {
    if (mode != "time") {
      checks<__nv_bfloat16>(mode == "small");
      if (mode != "small") checks<__half>(false);
      std::printf("%d failures\n", failures());
    }
    if (mode == "all" || mode == "time") {
      print_bandwidth(stream);
      times();
    }
  });
}
