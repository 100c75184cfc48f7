// 16-bit products (gemm16): checks against float64, then times beside cuBLASLt. Usage: gemm16 [check|time|layer|all]

#include "cuda/kernels/gemm16.cuh"
#include "cuda/kernels/gemm_lt.h"
#include "linear_reference.cuh"
#include "watchdog.cuh"

namespace deploykit::cuda {  // internal: the rungs of the ladder
void gemm16_variant(const Gemm16Variant& variant, const LinearCall& call, const void* w, int64_t n, int64_t k,
                    cudaStream_t stream);
}  // namespace deploykit::cuda

using namespace bench;

namespace {

cudaStream_t stream;

// A warp an output.
template <class T>
__global__ void reference_sums(LinearCall c, const T* w, int64_t n, int64_t k, double* sums) {
  const int64_t i = (blockIdx.x * 256ll + threadIdx.x) / 32;
  if (i >= c.m * n) return;
  const int64_t m = i / n, row = i % n;
  const T* x = static_cast<const T*>(c.x) + m * c.x_stride;
  double sum = 0;
  for (int64_t j = threadIdx.x % 32; j < k; j += 32) {
    sum += static_cast<double>(Num<T>::to_float(x[j])) * Num<T>::to_float(w[row * k + j]);
  }
  for (int offset = 16; offset > 0; offset >>= 1) sum += __shfl_xor_sync(~0u, sum, offset);
  if (c.bias != nullptr) sum += Num<T>::to_float(static_cast<const T*>(c.bias)[row]);
  if (threadIdx.x % 32 == 0) sums[i] = sum;
}
template <class T>
__global__ void reference_end(LinearCall c, const T* residual, const double* sums, int64_t n, double* out) {
  const int64_t n_out = c.epilogue == Epilogue::gated ? n / 2 : n;
  const int64_t i = blockIdx.x * 256ll + threadIdx.x;
  if (i >= c.m * n_out) return;
  const int64_t m = i / n_out, o = i % n_out;
  if (c.epilogue == Epilogue::gated) {
    const int64_t row = o / 8 * 16 + o % 8;
    out[i] = reference_activation(static_cast<int>(c.activation), sums[m * n + row]) * sums[m * n + row + 8];
  } else if (c.epilogue == Epilogue::residual) {
    out[i] = Num<T>::to_float(residual[i]) + double(c.residual_scale) * sums[m * n + o];
  } else {
    out[i] = sums[m * n + o];
  }
}

struct Case {
  int64_t n, k;
  int m;
  Epilogue epilogue;
  bool bias, f32;
  Gemm16Variant variant;
  Activation activation = Activation::silu;
};

template <class T>
void check(const Case& t) {
  if (!mine()) return;
  sign_of_life();
  const bool gated = t.epilogue == Epilogue::gated;
  const int64_t n_out = gated ? t.n / 2 : t.n, x_stride = t.k + 8, y_stride = n_out + 8;
  Buffer<T> x((t.m + 1) * x_stride), w(t.n * t.k), y((t.m + 1) * y_stride), bias(t.n), residual(t.m * n_out);
  Buffer<T> packed(t.m * n_out);
  Buffer<float> y32((t.m + 1) * y_stride), packed32(t.m * n_out);
  normal(x.data, t.m * x_stride);  // the row beyond stays NaN: it must not be read
  normal(w.data, w.count, 0.02f);
  normal(bias.data, t.n, 0.5f);
  normal(residual.data, residual.count);
  LinearCall c;
  c.dtype = dtype_of<T>();
  c.m = t.m, c.x = x.data, c.x_stride = x_stride;
  c.y = t.f32 ? static_cast<void*>(y32.data) : y.data, c.y_stride = y_stride, c.y_f32 = t.f32;
  c.epilogue = t.epilogue, c.activation = t.activation;
  if (t.bias) c.bias = bias.data;
  if (t.epilogue == Epilogue::residual) {  // in place
    c.residual = y.data, c.residual_stride = y_stride, c.residual_scale = 0.75f;
    CU(cudaMemcpy2D(y.data, y_stride * 2, residual.data, n_out * 2, n_out * 2, t.m, cudaMemcpyDeviceToDevice));
  }
  CU(cudaDeviceSynchronize());
  gemm16_variant(t.variant, c, w.data, t.n, t.k, stream);
  CU(cudaStreamSynchronize(stream));
  Buffer<double> sums(t.m * t.n), ref(t.m * n_out);
  reference_sums<T><<<ceil_div(t.m * t.n, 8), 256>>>(c, w.data, t.n, t.k, sums);
  reference_end<T><<<ceil_div(t.m * n_out, 256), 256>>>(c, residual.data, sums, t.n, ref);
  const int size = t.f32 ? 4 : 2;
  CU(cudaMemcpy2D(t.f32 ? static_cast<void*>(packed32.data) : packed.data, n_out * size, c.y, y_stride * size,
                  n_out * size, t.m, cudaMemcpyDeviceToDevice));
  char what[200];
  std::snprintf(what, sizeof what, "gemm16 c%d pace%d %s %lldx%lld m%d ep%d act%d%s%s", t.variant.config,
                t.variant.pace, dtype_of<T>() == DType::f16 ? "f16" : "bf16", (long long)t.n,
                (long long)t.k, t.m, int(t.epilogue), int(t.activation), t.bias ? " bias" : "", t.f32 ? " f32" : "");
  const double unit = dtype_of<T>() == DType::f16 ? 1.0 / 2048 : 1.0 / 256;
  if (t.f32) {
    compare(what, packed32, ref, 1e-5);
  } else {
    compare(what, packed, ref, unit);
  }
  // Nothing beside the outputs: the pad of a row and the row beyond are as they were.
  std::vector<char> all(static_cast<size_t>((t.m + 1) * y_stride * size));
  CU(cudaMemcpy(all.data(), c.y, all.size(), cudaMemcpyDeviceToHost));
  int64_t touched = 0;
  for (int64_t i = 0; i < (t.m + 1) * y_stride * size; ++i) {
    const bool inside = i / (y_stride * size) < t.m && i % (y_stride * size) < n_out * size;
    touched += !inside && all[static_cast<size_t>(i)] != static_cast<char>(0xff);
  }
  if (touched != 0) {
    std::printf("FAIL %s: %lld bytes beside the outputs\n", what, (long long)touched);
    ++failures();
  }
}

constexpr int kConfigs = 13;
const int kConfigTokens[kConfigs] = {16, 16, 16, 32, 32, 32, 64, 64, 64, 64, 128, 128, 256};

template <class T>
void checks() {
  const Epilogue ends[] = {Epilogue::none, Epilogue::residual, Epilogue::gated};
  for (int config = 0; config < kConfigs; ++config) {
    const int tokens = kConfigTokens[config];
    int turn = 0;
    for (int64_t n : {1296, 2064}) {
      for (int m : {1, tokens / 2 + 1, tokens - 1, tokens, tokens + 1, 3 * tokens - 5}) {
        check<T>({n, turn % 2 ? 2048 : 1088, m, ends[turn % 3], turn % 2 == 0, false, {config, turn % 4}});
        ++turn;
      }
    }
    check<T>({272, 576, tokens + 3, Epilogue::gated, true, false, {config}, Activation::gelu_tanh});
    check<T>({208, 2112, tokens, Epilogue::none, true, true, {config}});
  }
  const int sizes[] = {1, 9, 16, 17, 32, 33, 64, 65, 127, 128, 129, 255, 256, 257, 511, 640, 1030};
  int turn = 0;
  for (int m : sizes) {
    check<T>({192, 576, m, ends[turn % 3], turn % 2 == 1, false, {}});
    check<T>({320, 192, m, ends[(turn + 2) % 3], turn % 2 == 0, false, {}});  // k too short to split
    check<T>({4096, 4096, m, ends[(turn + 1) % 3], turn % 2 == 0, false, {}, Activation(turn % 4)});
    check<T>({576, 1536, m, Epilogue::none, turn % 2 == 0, true, {}});
    ++turn;
  }
  // Many tiles of few stages each: a block's last sums come while those of the tile before are still on their way.
  for (int m : {9, 16, 32, 64}) {
    check<T>({49152, 576, m, Epilogue::none, false, true, {}});
    check<T>({28672, 1088, m, Epilogue::gated, true, false, {}});
  }
}

// ----------------------------------------------------------------------------------------------------------- times
struct Size {
  const char* name;
  int64_t n, k;
  Epilogue epilogue;
  bool f32;
};
const Size kSizes[] = {{"qkv", 6144, 4096, Epilogue::none, false},
                       {"o", 4096, 4096, Epilogue::residual, false},
                       {"gate_up", 28672, 4096, Epilogue::gated, false},
                       {"down", 4096, 14336, Epilogue::residual, false},
                       {"head", 128256, 4096, Epilogue::none, true}};

// Configs: 0 to 8: 16, 32, 64 tokens, k split in 2, 3, 4; 9: 64 tokens, k whole; 10: 128 tokens, k split in 2; 11, 12:
// 128 and 256 tokens, pairs of row tiles.
std::vector<Gemm16Variant> variants_of(int m) {  // config, pace
  if (m > 256) return {{-1}, {11}, {12}};
  if (m > 64) return {{-1}, {11, 0}, {12}};
  const int base = m <= 16 ? 0 : m <= 32 ? 3 : 6;
  return {{-1}, {base, 4}, {base, 6}, {base + 1, 3}, {base + 1, 5}, {base + 2, 3}, {base + 2, 4}};
}

void times() {
  using T = __nv_bfloat16;
  GemmLt lt;
  const int64_t lt_bytes = 64 << 20;
  Buffer<char> lt_workspace(lt_bytes);
  for (const Size& s : kSizes) {
    const int64_t n = s.n, k = s.k, bytes = n * k * 2, most = s.f32 ? 256 : 8192;
    const int copies = static_cast<int>(std::max<int64_t>(2, (400ll << 20) / bytes));
    Buffer<T> w(copies * n * k), x(most * k), y(most * n * (s.f32 ? 2 : 1)), inner(most * n / 2);
    normal(w.data, w.count, 0.02f);
    normal(x.data, x.count);
    normal(y.data, y.count);
    LinearCall c;
    c.x = x.data, c.x_stride = k, c.y = y.data, c.y_f32 = s.f32;
    c.y_stride = s.epilogue == Epilogue::gated ? n / 2 : n;
    c.epilogue = s.epilogue;
    if (s.epilogue == Epilogue::residual) c.residual = y.data, c.residual_stride = n, c.residual_scale = 1.0f;
    std::printf("%-8s %.1f MB, bytes' time at 3.12 TB/s %.1f us\n", s.name, bytes * 1e-6, bytes / 3.12 * 1e-6);
    for (int m : {9, 16, 32, 64, 128, 256, 512, 2048, 8192}) {
      if (m > most) continue;
      sign_of_life();
      c.m = m;
      const int calls = m > 512 ? std::max(2, 4096 / m) : copies * std::max(1, 16 / copies);
      const double work = 2e-6 * m * n * k;
      std::printf("  %-8s m %4d:", s.name, m);
      for (const Gemm16Variant& v : variants_of(m)) {
        const double us =
            time_us(stream, calls, [&](int i) { gemm16_variant(v, c, w + (i % copies) * n * k, n, k, stream); });
        std::printf(" c%d/%d %.1f", v.config, v.pace, us);
        if (m >= 256) std::printf(" (%.0f T)", work / us);
        sign_of_life();
      }
      GemmShape shape;
      shape.m = m, shape.n = n, shape.k = k, shape.y_f32 = s.f32, shape.accumulate = s.epilogue == Epilogue::residual;
      lt.plan(shape, x, k, w, y, n, nullptr, lt_workspace, lt_bytes, 8, stream);
      const double us = time_us(stream, calls, [&](int i) {
        lt.run(shape, x, k, w + (i % copies) * n * k, y, n, nullptr, lt_workspace, lt_bytes, stream);
      });
      std::printf(" | cublasLt %.1f", us);
      if (m >= 256) std::printf(" (%.0f T)", work / us);
      if (s.epilogue == Epilogue::gated) {
        const double both = time_us(stream, calls, [&](int i) {
          lt.run(shape, x, k, w + (i % copies) * n * k, y, n, nullptr, lt_workspace, lt_bytes, stream);
          gate_activate(DType::bf16, Activation::silu, y, n, m, n / 2, inner, n / 2, stream);
        });
        std::printf(" with gate %.1f", both);
      }
      std::printf("\n");
    }
  }
}

// The products and norms of a layer in turn, over four layers' weights.
void layers() {
  using T = __nv_bfloat16;
  constexpr int kLayers = 4;
  constexpr int64_t hidden = 4096, qkv = 6144, inner = 14336, most = 512;
  GemmLt lt;
  const int64_t lt_bytes = 64 << 20;
  Buffer<char> lt_workspace(lt_bytes);
  const int64_t part[5] = {0, qkv * hidden, qkv * hidden + hidden * hidden,
                           qkv * hidden + hidden * hidden + 2 * inner * hidden,
                           qkv * hidden + hidden * hidden + 3 * inner * hidden};
  Buffer<T> w(kLayers * part[4]), x(most * hidden), normed(most * hidden), g(hidden), heads(most * qkv);
  Buffer<T> up(most * 2 * inner), act(most * inner);
  normal(w.data, w.count, 0.02f);
  normal(x.data, x.count);
  normal(g.data, g.count, 0.1f, 1.0f);
  const auto norm_x = [&](int m, bool frees_next) {
    NormCall c;
    c.norm.kind = NormKind::rms;
    c.norm.eps = 1e-5f;
    c.weight = g.data, c.rows = m, c.n = hidden, c.x = x.data, c.x_stride = hidden, c.y = normed.data;
    c.y_stride = hidden;
    c.frees_next = frees_next;
    norm(c, stream);
  };
  const auto product = [&](Gemm16Variant v, int m, const T* in, int64_t in_stride, const T* weight, int64_t n,
                           int64_t k, T* out, Epilogue end) {
    LinearCall c;
    c.m = m, c.x = in, c.x_stride = in_stride, c.y = out, c.y_stride = end == Epilogue::gated ? n / 2 : n;
    c.epilogue = end;
    if (end == Epilogue::residual) c.residual = out, c.residual_stride = n;
    gemm16_variant(v, c, weight, n, k, stream);
  };
  const auto library = [&](int m, const T* in, int64_t in_stride, const T* weight, int64_t n, int64_t k, T* out,
                           bool add, bool plan) {
    GemmShape s;
    s.m = m, s.n = n, s.k = k, s.accumulate = add;
    if (plan) lt.plan(s, in, in_stride, weight, out, n, nullptr, lt_workspace, lt_bytes, 8, stream);
    if (!plan) lt.run(s, in, in_stride, weight, out, n, nullptr, lt_workspace, lt_bytes, stream);
  };
  for (int m : {16, 32, 64, 128, 256, 512}) {
    sign_of_life();
    const auto ours = [&](Gemm16Variant v, int norms, bool dependent) {
      set_dependent_launch(dependent);
      normal(x.data, x.count);
      const double us = time_us(stream, 2 * kLayers, [&](int i) {
        const T* at = w + (i % kLayers) * part[4];
        if (norms > 0) norm_x(m, norms == 2);
        product(v, m, normed, hidden, at, qkv, hidden, heads, Epilogue::none);
        product(v, m, heads, qkv, at + part[1], hidden, hidden, x, Epilogue::residual);
        if (norms > 0) norm_x(m, norms == 2);
        product(v, m, normed, hidden, at + part[2], 2 * inner, hidden, act, Epilogue::gated);
        product(v, m, act, inner, at + part[3], hidden, inner, x, Epilogue::residual);
      });
      set_dependent_launch(true);
      sign_of_life();
      return us;
    };
    std::printf("layer m %3d:", m);
    for (Gemm16Variant v : variants_of(m)) {
      std::printf("\n   c%d/%d %.1f (freeing norms %.1f, no norms %.1f, no dependent launch %.1f)", v.config, v.pace,
                  ours(v, 1, true), ours(v, 2, true), ours(v, 0, true), ours(v, 1, false));
    }
    double with_library = 0.0;
    for (bool plan : {true, false}) {
      const auto layer = [&](int i) {
        const T* at = w + (i % kLayers) * part[4];
        norm_x(m, false);
        library(m, normed, hidden, at, qkv, hidden, heads, false, plan);
        library(m, heads, qkv, at + part[1], hidden, hidden, x, true, plan);
        norm_x(m, false);
        library(m, normed, hidden, at + part[2], 2 * inner, hidden, up, false, plan);
        gate_activate(DType::bf16, Activation::silu, up, 2 * inner, m, inner, act, inner, stream);
        library(m, act, inner, at + part[3], hidden, inner, x, true, plan);
      };
      if (plan) layer(0);
      if (!plan) with_library = time_us(stream, 2 * kLayers, layer);
    }
    std::printf(" | cublasLt %.1f\n", with_library);
  }
}

}  // namespace

int main(int argc, char** argv) {
  return program(argc, argv, "all", &stream, [](const std::string& mode) {
    start_watchdog();
    if (mode == "all" || mode == "check") {
      checks<__nv_bfloat16>();
      checks<__half>();
      std::printf("%d failures\n", failures());
    }
    if (mode == "all" || mode == "layer") layers();
    if (mode == "all" || mode == "time") times();
  });
}
