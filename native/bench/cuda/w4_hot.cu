// A prompt's 4-bit products at the card's power limit: seconds of each, with watts and clock, beside unpacking and cuBLASLt.
// Usage: w4_hot [f16|bf16]
#include <dlfcn.h>

#include <memory>

#include "w4_common.cuh"
#include "cuda/kernels/gemm_lt.h"

namespace {

// The card's own counters: energy and clock, of the driver's library.
struct Card {
  void* device = nullptr;
  int (*energy_of)(void*, unsigned long long*) = nullptr;
  int (*clock_of)(void*, int, unsigned*) = nullptr;
  Card() {
    void* library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    if (library == nullptr) return;
    const auto init = reinterpret_cast<int (*)()>(dlsym(library, "nvmlInit_v2"));
    const auto handle = reinterpret_cast<int (*)(unsigned, void**)>(dlsym(library, "nvmlDeviceGetHandleByIndex_v2"));
    if (init == nullptr || handle == nullptr || init() != 0 || handle(0, &device) != 0) return;
    energy_of = reinterpret_cast<int (*)(void*, unsigned long long*)>(dlsym(library, "nvmlDeviceGetTotalEnergyConsumption"));
    clock_of = reinterpret_cast<int (*)(void*, int, unsigned*)>(dlsym(library, "nvmlDeviceGetClockInfo"));
  }
  double millijoules() const {
    unsigned long long v = 0;
    return energy_of != nullptr && energy_of(device, &v) == 0 ? static_cast<double>(v) : 0.0;
  }
  double megahertz() const {
    unsigned v = 0;
    return clock_of != nullptr && clock_of(device, 1, &v) == 0 ? v : 0.0;
  }
};

// At the power limit: microseconds a round of `run` after the card is hot, with watts and clock.
void sustained(const char* what, double flops, double warm_s, double measured_s, const std::function<void()>& run) {
  static const Card card;
  run();
  finish(what);
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  CU(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  run();
  CU(cudaStreamEndCapture(stream, &graph));
  CU(cudaGraphInstantiate(&exec, graph, 0));
  const auto seconds = [] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  };
  const auto spin = [&](double length, double* clock) {
    const double start = seconds();
    int rounds = 0;
    double sum = 0;
    while (seconds() - start < length) {
      for (int i = 0; i < 4; ++i) CU(cudaGraphLaunch(exec, stream));
      rounds += 4;
      if (clock != nullptr) sum += card.megahertz();
      CU(cudaStreamSynchronize(stream));
    }
    if (clock != nullptr) *clock = sum / (rounds / 4);
    return rounds;
  };
  spin(warm_s, nullptr);
  const double energy = card.millijoules(), start = seconds();
  double clock = 0;
  const int rounds = spin(measured_s, &clock);
  const double took = seconds() - start, us = took * 1e6 / rounds;
  std::printf("  %-34s %9.1f us  %6.1f TFLOP/s  %5.0f W  %5.0f MHz  %4.1f %% of that clock's\n", what, us, flops / us * 1e-6,
              (card.millijoules() - energy) * 1e-3 / took, clock,
              flops / us / (clock * 132 * 4096) * 100);
  CU(cudaGraphExecDestroy(exec));
  CU(cudaGraphDestroy(graph));
}

template <class T>
struct Prompt {
  int64_t n, k;
  int copies;
  Buffer<char> data, params;
  Buffer<T> x, y;
  LinearCall call;
  Prompt(const Size& s, int m, int copies_)
      : n(s.n), k(s.k), copies(copies_), data(copies * w4_data_bytes(n, k)), params(copies * w4_param_bytes(n, k, 128)),
        x(m * k), y(m * n) {
    bits(data, data.count);
    std::vector<uint32_t> p(params.count / 4);
    for (size_t i = 0; i < p.size(); ++i) p[i] = 0x2000u + (i * 2654435761u >> 24) + (((i * 40503u) >> 8 & 15u) << 16);
    CU(cudaMemcpy(params.data, p.data(), p.size() * 4, cudaMemcpyHostToDevice));
    normal(x.data, x.count);
    call.dtype = dtype_of<T>();
    call.m = m;
    call.x = x.data, call.x_stride = k, call.y = y.data, call.y_stride = n;
    if (std::string(s.name) == "gate_up") call.epilogue = Epilogue::gated, call.y_stride = n / 2;
    if (std::string(s.name) == "o" || std::string(s.name) == "down") {
      y.zero();
      call.epilogue = Epilogue::residual, call.residual = y.data, call.residual_stride = n, call.residual_scale = 0.25f;
    }
  }
  double flops() const { return 2.0 * call.m * n * k; }
  W4Weight weight(int i) const {
    return {data.data + (i % copies) * w4_data_bytes(n, k),
            reinterpret_cast<uint32_t*>(params.data + (i % copies) * w4_param_bytes(n, k, 128)), n, k, 128};
  }
};

template <class T>
void prompt_times(double warm, double measured) {
  GemmLt lt;
  const int64_t lt_bytes = 64 << 20;
  Buffer<char> workspace(lt_bytes);
  Buffer<T> dense(28672ll * 4096);
  const int m = 8192;
  std::printf("%s, %d tokens\n", dtype_of<T>() == DType::f16 ? "f16" : "bf16", m);
  std::vector<std::unique_ptr<Prompt<T>>> loads;
  for (const Size& s : kSizes) loads.push_back(std::make_unique<Prompt<T>>(s, m, 2));
  const auto shape_of = [&](Prompt<T>& p) {
    GemmShape shape;
    shape.dtype = dtype_of<T>(), shape.m = m, shape.n = p.n, shape.k = p.k;
    return shape;
  };
  const auto multiply = [&](Prompt<T>& p) {
    lt.run(shape_of(p), p.x, p.k, dense, p.y, p.n, nullptr, workspace, lt_bytes, stream);
  };
  for (auto& p : loads) {
    w4_dequantize(p->call.dtype, p->weight(0), 0, p->n, dense.data, stream);
    lt.plan(shape_of(*p), p->x, p->k, dense, p->y, p->n, nullptr, workspace, lt_bytes, 8, stream);
  }
  const struct {
    const char* name;
    int variant;
  } variants[] = {{"256 rows x 128 tokens", 16}, {"128 rows x 256 tokens", 48}};
  for (size_t i = 0; i < 4; ++i) {
    Prompt<T>& p = *loads[i];
    std::printf("%s\n", kSizes[i].name);
    for (const auto& v : variants) {
      sustained(v.name, p.flops() * 4, warm, measured, [&] {
        for (int j = 0; j < 4; ++j) w4_wgmma_variant(v.variant, p.call, p.weight(j), stream);
      });
    }
    sustained("unpack + cuBLASLt", p.flops() * 4, warm, measured, [&] {
      for (int j = 0; j < 4; ++j) w4_dequantize(p.call.dtype, p.weight(j), 0, p.n, dense.data, stream), multiply(p);
    });
  }
  std::printf("a layer's four products\n");
  double flops = 0;
  for (auto& p : loads) flops += p->flops();
  for (int repeat = 0; repeat < 2; ++repeat) {
    for (int own = 2; own <= 3; ++own) {  // gate-up and what follows, or gate-up alone
      sustained(own == 3 ? "unpack + cuBLASLt, own gate-up" : "the same for QKV and O alone", flops, 2 * warm, 2 * measured, [&] {
        for (int i = 0; i < 4; ++i) {
          Prompt<T>& p = *loads[i];
          if (i == 2 || (i == 3 && own == 2)) {
            w4_matmul(p.call, p.weight(0), stream);
          } else {
            w4_dequantize(p.call.dtype, p.weight(0), 0, p.n, dense.data, stream);
            multiply(p);
          }
        }
      });
    }
    for (const auto& v : variants) {
      sustained(v.name, flops, 2 * warm, 2 * measured, [&] {
        for (int i = 0; i < 4; ++i) w4_wgmma_variant(v.variant, loads[i]->call, loads[i]->weight(0), stream);
      });
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  print_device();
  CU(cudaStreamCreate(&stream));
  try {
    if (argc > 1 && std::string(argv[1]) == "bf16") {
      prompt_times<__nv_bfloat16>(0.2, 0.4);
    } else {
      prompt_times<__half>(0.2, 0.4);
    }
  } catch (const std::exception& error) {
    std::printf("exception: %s\n", error.what());
    return 2;
  }
}
