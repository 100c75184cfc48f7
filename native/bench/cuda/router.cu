// The way to a mixture's experts: norm, the router's product by each kernel that does it, the routing; microseconds each
// and one after the other.
#include "bench.cuh"
#include "cuda/kernels/gemm_lt.h"
#include "cuda/kernels/kernels.h"

using namespace bench;

namespace {

using T = __half;

void measure(const char* name, int experts, int top_k, int64_t hidden, cudaStream_t stream) {
  constexpr int kCalls = 64;
  constexpr int64_t kMost = 512, kWorkspace = int64_t{64} << 20;
  const int64_t n = (experts + 15) / 16 * 16;
  MoeSpec spec;
  spec.experts = experts, spec.top_k = top_k, spec.normalize = true;
  Buffer<T> weights(kCalls * n * hidden), scale(hidden), x(kMost * hidden), normed(kMost * hidden);
  Buffer<float> logits(kMost * n);
  Buffer<char> memory(moe_routes_bytes(kMost, spec)), workspace(kWorkspace);
  normal<T>(weights, weights.count, 0.02f);
  normal<T>(scale, hidden, 0.0f, 1.0f);
  normal<T>(x, x.count);
  normal<T>(normed, normed.count);
  normal<float>(logits, logits.count);
  const MoeRoutes routes = moe_routes(memory.data, kMost, spec);
  GemmLt library;
  std::printf("%s\n tokens    norm  gemv16  gemm16 library   route | norm, product, route by each\n", name);
  for (const int m : {1, 2, 4, 8, 16, 32, 64, 128, 256}) {
    NormCall pre;
    pre.dtype = DType::f16;
    pre.weight = scale.data;
    pre.rows = m, pre.n = hidden;
    pre.x = x.data, pre.x_stride = hidden;
    pre.y = normed.data, pre.y_stride = hidden;
    const auto normalize = [&](bool frees) {
      pre.frees_next = frees;
      norm(pre, stream);
    };
    const auto product = [&](int kernel, int i) {
      LinearCall call;
      call.dtype = DType::f16;
      call.m = m;
      call.x = normed.data, call.x_stride = hidden;
      call.y = logits.data, call.y_stride = n;
      call.y_f32 = true;
      const T* w = weights.data + i % kCalls * n * hidden;
      if (kernel == 0) return gemv16(call, w, n, hidden, stream);
      if (kernel == 1) return gemm16(call, w, n, hidden, stream);
      library.run({DType::f16, m, n, hidden, true, false, false}, call.x, hidden, w, call.y, n, nullptr, workspace.data,
                  kWorkspace, stream);
    };
    const auto route = [&] { moe_route(spec, logits, n, m, nullptr, routes, stream); };
    library.plan({DType::f16, m, n, hidden, true, false, false}, normed.data, hidden, weights.data, logits.data, n,
                 nullptr, workspace.data, kWorkspace, 8, stream);
    double alone[3] = {}, all[3] = {};
    for (int kernel = m > kGemv16MaxM ? 1 : 0; kernel < 3; ++kernel) {
      alone[kernel] = time_us(stream, kCalls, [&](int i) { product(kernel, i); });
      all[kernel] = time_us(stream, kCalls, [&](int i) { normalize(kernel < 2), product(kernel, i), route(); });
    }
    const double norms = time_us(stream, kCalls, [&](int) { normalize(false); });
    const double routing = time_us(stream, kCalls, [&](int) { route(); });
    std::printf("%7d %7.2f %7.2f %7.2f %7.2f %7.2f | %7.2f %7.2f %7.2f\n", m, norms, alone[0], alone[1], alone[2],
                routing, all[0], all[1], all[2]);
  }
}

}  // namespace

int main() {
  print_device();
  cudaStream_t stream;
  CU(cudaStreamCreate(&stream));
  measure("Qwen3-30B-A3B: 8 of 128, hidden 2,048", 128, 8, 2048, stream);
  measure("Mixtral-8x7B: 2 of 8, hidden 4,096", 8, 2, 4096, stream);
  CU(cudaStreamDestroy(stream));
  return 0;
}
