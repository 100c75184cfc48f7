// Checks and times of the products with 8-bit weights: cuda_w8 check | time | all.

#include "cuda/kernels/gemm_lt.h"
#include "watchdog.cuh"

namespace deploykit::cuda {  // internal: the kernels behind the door
void w8_matmul_variant(int variant, const LinearCall& call, const W8Weight& w, cudaStream_t stream);
}  // namespace deploykit::cuda

using namespace bench;

namespace {

cudaStream_t stream;

struct Weight {
  Buffer<char> data;
  Buffer<float> scales;
  W8Weight view;
  Weight(int64_t n, int64_t k) : data(w8_data_bytes(n, k)), scales(n), view{n, k, data.data, scales.data} {}
};

// Where the layout has an integer, said once more.
__host__ __device__ int64_t place(int64_t row, int64_t input, int64_t k) {
  const int64_t tile = row / 16, chunk = input / 32;
  const int lane = static_cast<int>(row % 8 * 4 + input % 8 / 2), word = static_cast<int>(input % 32 / 8);
  return ((tile * (k / 32) + chunk) * 32 + lane) * 16 + word * 4 + input % 2 * 2 + row % 16 / 8;
}

// ---------------------------------------------------------------------------------------------------------- quantize
template <class S>
S narrow(float v) {
  return S(v);
}
template <>
__half narrow<__half>(float v) {
  return __float2half(v);
}
template <>
__nv_bfloat16 narrow<__nv_bfloat16>(float v) {
  return __float2bfloat16(v);
}

template <class S>
void check_quantize(DType type, const char* name, int64_t n, int64_t k) {
  if (!mine()) return;
  sign_of_life();
  Buffer<S> src(n * k);
  normal(src.data, src.count, 0.02f);
  CU(cudaDeviceSynchronize());
  std::vector<S> w = src.host();
  const auto at = [&](int64_t row, int64_t i) -> S& { return w[static_cast<size_t>(row * k + i)]; };
  for (int64_t i = 0; i < k; ++i) {
    at(1, i) = narrow<S>(0.0f);                                                  // no weight at all
    at(2, i) = narrow<S>(i == 0 ? 127.0f : static_cast<float>(i % 250) - 124.5f);  // ties everywhere
    at(3, i) = narrow<S>(i == 5 ? -6e-8f : 0.0f);                                // among f16's smallest
    at(4, i) = narrow<S>(i % 3 == 0 ? -60000.0f : 59000.0f);
    if (sizeof(S) == 4) at(5, i) = narrow<S>((i % 2 == 0 ? 1.0f : -0.7f) * 1e-43f);  // no scale or nearly
    if (sizeof(S) == 4) at(6, i) = narrow<S>(1e-45f);
  }
  src.set(w);
  Weight out(n, k);
  // In two parts, the later first.
  const int64_t half = n / 32 * 16;
  w8_quantize(type, src.data + half * k, half, n - half, out.view, stream);
  w8_quantize(type, src.data, 0, half, out.view, stream);
  CU(cudaStreamSynchronize(stream));
  const std::vector<char> q = out.data.host();
  const std::vector<float> scales = out.scales.host();
  int64_t wrong = 0;
  for (int64_t row = 0; row < n; ++row) {
    float most = 0.0f;
    for (int64_t i = 0; i < k; ++i) most = std::max(most, std::fabs(static_cast<float>(at(row, i))));
    float scale = most / 127.0f;
    if (scale == 0.0f) scale = 1.0f;
    wrong += std::memcmp(&scale, &scales[static_cast<size_t>(row)], 4) != 0;
    for (int64_t i = 0; i < k; ++i) {
      const float exact = std::nearbyint(static_cast<float>(at(row, i)) / scale);
      const int value = static_cast<int>(std::min(127.0f, std::max(-127.0f, exact)));
      wrong += static_cast<int8_t>(q[static_cast<size_t>(place(row, i, k))]) != value;
    }
  }
  if (wrong != 0) ++failures();
  std::printf("%-4s quantize %s %lldx%lld: %lld wrong\n", wrong == 0 ? "ok" : "FAIL", name, (long long)n, (long long)k,
              (long long)wrong);
}

// ---------------------------------------------------------------------------------------------------------- products
// A warp an output.
template <class T>
__global__ void reference(LinearCall c, const T* residual, const char* q, const float* scales, int64_t n, int64_t k,
                          double* out) {
  const int64_t i = (blockIdx.x * 256ll + threadIdx.x) / 32;
  if (i >= c.m * n) return;
  const int64_t m = i / n, row = i % n;
  const T* x = static_cast<const T*>(c.x) + m * c.x_stride;
  double sum = 0;
  for (int64_t j = threadIdx.x % 32; j < k; j += 32) {
    sum += static_cast<double>(Num<T>::to_float(x[j])) * static_cast<int8_t>(q[place(row, j, k)]);
  }
  for (int offset = 16; offset > 0; offset >>= 1) sum += __shfl_xor_sync(~0u, sum, offset);
  sum *= scales[row];
  if (c.bias != nullptr) sum += Num<T>::to_float(static_cast<const T*>(c.bias)[row]);
  if (c.epilogue == Epilogue::residual) sum = Num<T>::to_float(residual[i]) + double(c.residual_scale) * sum;
  if (threadIdx.x % 32 == 0) out[i] = sum;
}

enum class End { plain, plain_bias, residual, logits, logits_bias };

struct Case {
  int variant;
  int64_t n, k;
  int m;
  End end;
};

template <class T>
void check(const Case& t) {
  if (!mine()) return;
  sign_of_life();
  const bool f32 = t.end == End::logits || t.end == End::logits_bias;
  const int64_t x_stride = t.k + 8, y_stride = t.n + 8;
  Buffer<T> x((t.m + 1) * x_stride), source(t.n * t.k), bias(t.n), residual(t.m * t.n), y((t.m + 1) * y_stride);
  Buffer<T> packed(t.m * t.n);
  Buffer<float> y32((t.m + 1) * y_stride), packed32(t.m * t.n);
  Buffer<double> ref(t.m * t.n);
  Weight w(t.n, t.k);
  normal(x.data, t.m * x_stride);  // the row beyond stays NaN: it must not be read
  normal(source.data, source.count, 0.02f);
  normal(bias.data, t.n, 0.5f);
  normal(residual.data, residual.count);
  CU(cudaDeviceSynchronize());
  w8_quantize(dtype_of<T>(), source.data, 0, t.n, w.view, stream);
  LinearCall c;
  c.dtype = dtype_of<T>();
  c.m = t.m, c.x = x.data, c.x_stride = x_stride;
  c.y = f32 ? static_cast<void*>(y32.data) : y.data, c.y_stride = y_stride, c.y_f32 = f32;
  if (t.end == End::plain_bias || t.end == End::logits_bias || t.end == End::residual) c.bias = bias.data;
  if (t.end == End::residual) {  // in place
    c.epilogue = Epilogue::residual;
    c.residual = y.data, c.residual_stride = y_stride, c.residual_scale = 0.75f;
    CU(cudaMemcpy2D(y.data, y_stride * 2, residual.data, t.n * 2, t.n * 2, t.m, cudaMemcpyDeviceToDevice));
  }
  CU(cudaStreamSynchronize(stream));  // weights are read before the kernel in front has ended
  w8_matmul_variant(t.variant, c, w.view, stream);
  CU(cudaStreamSynchronize(stream));
  reference<T><<<ceil_div(t.m * t.n, 8), 256>>>(c, residual.data, w.data, w.scales, t.n, t.k, ref);
  const int size = f32 ? 4 : 2;
  CU(cudaMemcpy2D(f32 ? static_cast<void*>(packed32.data) : packed.data, t.n * size, c.y, y_stride * size, t.n * size,
                  t.m, cudaMemcpyDeviceToDevice));
  char what[160];
  std::snprintf(what, sizeof what, "w8 v%d %s %lldx%lld m%d end%d", t.variant,
                dtype_of<T>() == DType::f16 ? "f16" : "bf16", (long long)t.n, (long long)t.k, t.m, int(t.end));
  if (f32) {
    compare(what, packed32, ref, 1e-6 + 2e-9 * static_cast<double>(t.k));  // wgmma's sums cut off, and err one way
  } else {
    compare(what, packed, ref, dtype_of<T>() == DType::f16 ? 1.0 / 2048 : 1.0 / 256);
  }
  // Nothing beside the outputs: the pad of a row and the row beyond are as they were.
  std::vector<char> all(static_cast<size_t>((t.m + 1) * y_stride * size));
  CU(cudaMemcpy(all.data(), c.y, all.size(), cudaMemcpyDeviceToHost));
  int64_t touched = 0;
  for (int64_t row = 0; row <= t.m; ++row) {
    for (int64_t i = row < t.m ? t.n * size : 0; i < y_stride * size; ++i) {
      touched += all[static_cast<size_t>(row * y_stride * size + i)] != static_cast<char>(0xff);
    }
  }
  if (touched != 0) {
    std::printf("FAIL %s: %lld bytes beside the outputs\n", what, (long long)touched);
    ++failures();
  }
}

constexpr int kGemv = 1, kMma = 2;
constexpr int kTileTokens[] = {16, 32, 64, 128, 256};  // of wgmma; variants of that name

template <class T>
void checks() {
  int turn = 0;
  const auto end = [&] { return End(turn++ % 5); };
  for (int m : {1, 3, 8}) {
    check<T>({kGemv, 4752, 576, m, end()});  // more tiles than blocks
    check<T>({kGemv, 48, 4096, m, end()});
    check<T>({kGemv, 16, 64, m, end()});
  }
  for (int m : {1, 15, 16, 17, 31, 33, 64, 65, 131}) {
    check<T>({kMma, turn % 2 ? 272 : 1296, turn % 3 ? 576 : 128, m, end()});
  }
  check<T>({kMma, 16, 64, 5, end()});
  check<T>({kMma, 528, 2112, 64, end()});
  for (int tokens : kTileTokens) {
    for (int m : {1, tokens - 1, tokens, tokens + 1, 2 * tokens + 3}) {
      check<T>({tokens, 1296, 576, m, end()});
      check<T>({tokens, 272, 128, m, end()});
    }
    check<T>({tokens, 16, 64, tokens / 2, end()});
    check<T>({tokens, 784, 2112, tokens - 3, end()});
  }
  // The choice, with more tiles than blocks.
  for (int m : {1, 2, 5, 8, 9, 16, 17, 33, 65, 130}) {
    check<T>({0, 49152, 576, m, m % 2 ? End::logits : End::logits_bias});
  }
  for (int m : {1, 8, 9, 24, 40, 100, 257}) check<T>({0, 4096, 1088, m, end()});
  check<T>({0, 4096, 14336, 6, End::logits});
  check<T>({0, 528, 14336, 8, End::plain});
}

// ----------------------------------------------------------------------------------------------------------- times
std::vector<int> variants_of(int m) {
  std::vector<int> v;
  if (m <= 8) v = {kGemv, 16};
  for (int tokens : kTileTokens) {
    if (m > 8 && m <= 2 * tokens && tokens < 4 * m) v.push_back(tokens);
  }
  if (m <= 64) v.push_back(kMma);
  v.insert(v.begin(), 0);
  return v;
}

struct Contender {
  std::string name;
  std::function<void(int)> call;
  std::vector<double> times;
};
struct Size {
  const char* name;
  int64_t n, k;
  std::vector<int> tokens;
};

void times() {
  using T = __nv_bfloat16;
  GemmLt lt;
  const int64_t lt_bytes = 64 << 20;
  Buffer<char> lt_workspace(lt_bytes);
  const Size sizes[] = {{"128256x4096", 128256, 4096, {1, 2, 4, 8, 9, 16, 32, 64, 65, 96, 128, 192, 256}},
                        {"49152x576", 49152, 576, {1, 8, 16, 64}},
                        {"151936x1024", 151936, 1024, {1, 8}},
                        {"151936x1536", 151936, 1536, {1, 8}},
                        {"128256x2048", 128256, 2048, {1, 8}},
                        {"152064x3584", 152064, 3584, {1, 8}}};
  for (const Size& s : sizes) {
    const int64_t n = s.n, k = s.k, most = 256;
    const int copies = static_cast<int>(std::max<int64_t>(2, (300ll << 20) / (n * k)));
    Buffer<T> w16(copies * n * k), x(most * k);
    Buffer<char> data(copies * n * k);
    Buffer<float> scales(copies * n), y(most * n);
    normal(w16.data, w16.count, 0.02f);
    normal(x.data, x.count);
    CU(cudaDeviceSynchronize());
    const auto weight = [&](int i) { return W8Weight{n, k, data + i * n * k, scales + i * n}; };
    for (int i = 0; i < copies; ++i) w8_quantize(DType::bf16, w16 + i * n * k, 0, n, weight(i), stream);
    CU(cudaStreamSynchronize(stream));
    const double bytes = static_cast<double>(n * k);
    std::printf("%s %.1f MB, bytes' time at 3.12 TB/s: int8 %.1f us, bf16 %.1f us\n", s.name, bytes * 1e-6,
                bytes / 3.12 * 1e-6, bytes / 1.56 * 1e-6);
    {
      const double us =
          time_us(stream, 4, [&](int i) { w8_quantize(DType::bf16, w16, 0, n, weight(i % copies), stream); });
      std::printf("  quantize from bf16 %.0f us\n", us);
    }
    for (int m : s.tokens) {
      LinearCall c;
      c.m = m, c.x = x.data, c.x_stride = k, c.y = y.data, c.y_stride = n, c.y_f32 = true;
      GemmShape shape;
      shape.m = m, shape.n = n, shape.k = k, shape.y_f32 = true;
      lt.plan(shape, x, k, w16, y, n, nullptr, lt_workspace, lt_bytes, 8, stream);
      std::vector<Contender> list;
      for (int v : variants_of(m)) {
        const auto call = [=](int i) { w8_matmul_variant(v, c, weight(i % copies), stream); };
        list.push_back({"v" + std::to_string(v), call, {}});
      }
      const T* w = w16.data;
      if (m <= kGemv16MaxM) {
        list.push_back({"| gemv16", [=](int i) { gemv16(c, w + i % copies * n * k, n, k, stream); }, {}});
      } else if (m <= kGemm16BestM) {
        list.push_back({"| gemm16", [=](int i) { gemm16(c, w + i % copies * n * k, n, k, stream); }, {}});
      }
      list.push_back({"| cublasLt",
                      [&, w](int i) {
                        lt.run(shape, x, k, w + i % copies * n * k, y, n, nullptr, lt_workspace, lt_bytes, stream);
                      },
                      {}});
      // A warm card is slower: all in turn, with rests between them.
      const int calls = copies * std::max(1, 6 / copies);
      for (int round = 0; round < 3; ++round) {
        for (Contender& one : list) {
          sign_of_life();
          std::this_thread::sleep_for(std::chrono::milliseconds(12));
          one.times.push_back(time_us(stream, calls, one.call));
        }
      }
      std::printf("  %s m %3d:", s.name, m);
      for (Contender& one : list) {
        std::sort(one.times.begin(), one.times.end());
        std::printf(" %s %.1f", one.name.c_str(), one.times[1]);
      }
      std::printf("\n");
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  return program(argc, argv, "all", &stream, [](const std::string& mode) {
    start_watchdog();
    if (mode == "all" || mode == "check") {
      for (int64_t n : {32, 2064}) {
        check_quantize<float>(DType::f32, "f32", n, 576);
        check_quantize<__half>(DType::f16, "f16", n, 1088);
        check_quantize<__nv_bfloat16>(DType::bf16, "bf16", n, 64);
      }
      checks<__nv_bfloat16>();
      checks<__half>();
      std::printf("%d failures\n", failures());
    }
    if (mode == "all" || mode == "time") times();
  });
}
