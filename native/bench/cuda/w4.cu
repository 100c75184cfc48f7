// 4-bit products: checks of every kernel against float64, then times beside dequantization and cuBLASLt.
// Usage: w4 [check|time|tune|all]
#include "linear_reference.cuh"
#include "w4_random.cuh"
#include "cuda/kernels/gemm_lt.h"

namespace {

enum class Tier { gemv, mma, wgmma, door };

struct Case {
  Tier tier;
  int variant;
  int64_t n, k;
  int m, group;
  Epilogue epilogue = Epilogue::none;
  bool bias = false, f32 = false, norm = false, gptq = false;
  Activation act = Activation::silu;
};

template <class T>
void check(const Case& o) {
  if (!mine()) return;
  const bool gated = o.epilogue == Epilogue::gated;
  const int64_t n = o.n, k = o.k, n_out = gated ? n / 2 : n, stride = k + 8, y_stride = n_out + 8;
  Buffer<T> x(o.m * stride), y(o.m * y_stride), packed(o.m * n_out), bias(n), residual(o.m * n), g(k);
  Buffer<float> y32(o.m * y_stride), packed32(o.m * n_out);
  normal(x.data, x.count);
  normal(bias.data, n, 0.5f);
  normal(residual.data, o.m * n);
  normal(g.data, k, 0.2f, 1.0f);
  // Beside a token's inputs stand other numbers: they must not count.
  LinearCall c;
  c.dtype = dtype_of<T>();
  c.m = o.m, c.x = x.data, c.x_stride = stride;
  c.y = o.f32 ? static_cast<void*>(y32.data) : y.data, c.y_stride = y_stride, c.y_f32 = o.f32;
  c.epilogue = o.epilogue, c.activation = o.act;
  if (o.bias) c.bias = bias.data;
  if (o.epilogue == Epilogue::residual) c.residual = residual.data, c.residual_stride = n, c.residual_scale = 0.75f;
  if (o.norm) c.norm_weight = g.data;
  Buffer<double> sums(o.m * n), ref(o.m * n_out);
  Buffer<char> workspace(w4_mma_workspace_bytes());
  CU(cudaMemset(workspace.data, 0, 65536));
  c.workspace = workspace.data;
  W4Random r(n, k, o.group, o.gptq, gated);
  const char* tiers[] = {"gemv", "mma", "wgmma", "door"};
  char what[200];
  std::snprintf(what, sizeof what, "%s v%d %s %lldx%lld m%d g%d%s ep%d%s%s%s", tiers[int(o.tier)], o.variant,
                dtype_of<T>() == DType::f16 ? "f16" : "bf16", (long long)n, (long long)k, o.m, o.group,
                o.gptq ? " gptq" : "", int(o.epilogue), o.norm ? " norm" : "", o.bias ? " bias" : "",
                o.f32 ? " f32" : "");
  for (int repeat = 0; repeat < 2; ++repeat) {
    y.poison(), y32.poison();
    CU(cudaDeviceSynchronize());
    if (o.tier == Tier::gemv) w4_gemv_variant(o.variant, c, r.w, stream);
    if (o.tier == Tier::mma) w4_mma_variant(o.variant, c, r.w, stream);
    if (o.tier == Tier::wgmma) w4_wgmma_variant(o.variant, c, r.w, stream);
    if (o.tier == Tier::door) w4_matmul(c, r.w, stream);
    finish(what);
  }
  reference_linear<T><<<ceil_div(o.m * n, 256), 256>>>(c, r.values, n, k, sums);
  reference_epilogue<T><<<ceil_div(o.m * n_out, 256), 256>>>(c, sums, n, ref);
  const double unit = dtype_of<T>() == DType::f16 ? 1.0 / 2048 : 1.0 / 256;
  const bool rounded = o.tier == Tier::wgmma || o.tier == Tier::door;  // weights rounded to T
  const size_t size = o.f32 ? 4 : sizeof(T);
  CU(cudaMemcpy2D(o.f32 ? static_cast<void*>(packed32.data) : packed.data, n_out * size, c.y, y_stride * size,
                  n_out * size, o.m, cudaMemcpyDeviceToDevice));
  if (o.f32) {
    compare(what, packed32, ref, rounded || o.norm ? unit : 1e-5);
  } else {
    compare(what, packed, ref, unit);
  }
  // Nothing may be written beside the rows.
  std::vector<uint32_t> pad(static_cast<size_t>(o.m) * 8 * size / 4);
  CU(cudaMemcpy2D(pad.data(), 8 * size, static_cast<char*>(c.y) + n_out * size, y_stride * size, 8 * size, o.m,
                  cudaMemcpyDeviceToHost));
  for (uint32_t v : pad) {
    if (v != 0xffffffffu) {
      std::printf("FAIL %s: writes beside its rows\n", what);
      ++failures();
      break;
    }
  }
}

template <class T>
void check_dequantize(int group, bool gptq) {
  if (!mine()) return;
  const int64_t n = 96, k = 1024;
  W4Random r(n, k, group, gptq, false);
  Buffer<T> out(64 * k);
  Buffer<double> ref(64 * k);
  w4_dequantize(dtype_of<T>(), r.w, 32, 64, out, stream);
  finish("w4_dequantize");
  const std::vector<float> v = r.values.host();
  ref.set(std::vector<double>(v.begin() + 32 * k, v.begin() + 96 * k));
  compare(std::string("w4_dequantize g") + std::to_string(group) + (gptq ? " gptq" : ""), out, ref,
          dtype_of<T>() == DType::f16 ? 1.0 / 2048 : 1.0 / 256);
}

template <class T>
void checks() {
  for (int group : {32, 64, 128}) check_dequantize<T>(group, group == 64);
  for (int v = 0; v < 6; ++v) {
    for (int m : {1, 2, 5}) {
      check<T>({Tier::gemv, v, 1024, 4096, m, 128, m == 2 ? Epilogue::gated : Epilogue::residual, m == 1, false, m == 5});
    }
  }
  check<T>({Tier::gemv, 0, 48, 448, 5, 64, Epilogue::none, true, true});
  check<T>({Tier::gemv, 0, 48, 448, 2, 64, Epilogue::none, true, true});
  check<T>({Tier::gemv, 0, 48, 576, 8, 32, Epilogue::none, true, true});
  check<T>({Tier::gemv, 0, 48, 576, 1, 32, Epilogue::none, true, true, false, true});
  check<T>({Tier::gemv, 0, 256, 1024, 4, 32, Epilogue::gated, false, false, true});
  for (int m : {5, 16, 33, 64}) {
    check<T>({Tier::mma, 0, 512, 4096, m, 128, Epilogue::residual, true});
    check<T>({Tier::mma, 0, 272, 2112, m, 64, Epilogue::none, false, true});
    check<T>({Tier::mma, 0, 1040, 1088, m, 32, Epilogue::gated, true, false, false, true});
  }
  // One tile and the smallest inputs first.
  for (int m : {1, 3, 8, 16, 17, 32, 33, 64, 65, 128, 129, 200}) {
    check<T>({Tier::wgmma, 1, 256, 128, m, 128, Epilogue::none, false, true});
  }
  int turn = 0;
  for (int m : {3, 9, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 100, 127, 128, 129, 191, 255, 256, 257, 300}) {
    const Epilogue epilogues[3] = {Epilogue::none, Epilogue::residual, Epilogue::gated};
    for (int group : {32, 64, 128}) {
      const Epilogue e = epilogues[turn % 3];
      const bool bias = turn % 2 == 0;
      const int split = turn % 9;  // 0: the tuned choice
      check<T>({Tier::wgmma, split, group == 128 ? 544 : 192, group == 128 ? 1536 : 576, m, group, e, bias, false, false,
                turn % 4 == 0, turn % 5 == 0 ? Activation::gelu_tanh : Activation::silu});
      check<T>({Tier::wgmma, 0, group == 128 ? 1040 : 272, group == 128 ? 2048 : 1088, m, group, Epilogue::none, !bias,
                turn % 2 == 1});
      ++turn;
    }
    turn += turn % 3 == 0 ? 1 : 0;
  }
  for (int m : {1, 2, 3, 20, 64, 130, 1000}) {
    check<T>({Tier::door, 0, 4096, 1024, m, 128, m % 2 == 0 ? Epilogue::gated : Epilogue::residual, true});
  }
  check<T>({Tier::door, 0, 4096, 1024, 6, 128, Epilogue::none, true, false, true});
  check<T>({Tier::wgmma, 1, 6144, 512, 777, 128, Epilogue::residual});  // several tiles a block
  check<T>({Tier::wgmma, 1, 9232, 512, 1300, 64, Epilogue::gated, true});
  for (int base : {16, 32}) {  // shapes by name: 256 and 128 rows
    for (int m : {16, 30, 64, 128, 200}) {
      check<T>({Tier::wgmma, base + m % 3, 1040, 1024, m, 128, Epilogue::residual, true});
      check<T>({Tier::wgmma, base + m % 5, 544, 1024, m, 128, Epilogue::gated, true});
      check<T>({Tier::wgmma, base + 1, 6160, 512, m, 64, Epilogue::gated, false, false, false, false, Activation::gelu});
    }
    check<T>({Tier::wgmma, base + 1, 9232, 512, 1300, 128, Epilogue::gated, true});  // several tiles a block
    check<T>({Tier::wgmma, base + 1, 9232, 512, 700, 128, Epilogue::residual, true});
    check<T>({Tier::wgmma, base + 1, 9232, 512, 700, 32, Epilogue::none, false, true});
  }
}

// Clusters that share a row tile, every split.
template <class T>
void split_checks() {
  const Epilogue epilogues[3] = {Epilogue::none, Epilogue::residual, Epilogue::gated};
  int turn = 0;
  for (int m : {1, 8, 9, 16, 17, 32, 33, 55, 64}) {
    for (int n : {16, 544, 4096}) {
      for (int k : {128, 1024, 4096}) {
        const Epilogue e = epilogues[turn % 3];
        check<T>({Tier::wgmma, 1 + turn % 8, n, k, m, 128, e, turn % 4 < 2, turn % 5 == 0 && e == Epilogue::none, false, false,
                  turn % 7 == 0 ? Activation::gelu : Activation::silu});
        ++turn;
      }
    }
  }
  for (int split = 0; split <= 8; ++split) {
    check<T>({Tier::wgmma, split, 4096, 14336, 64, 128, Epilogue::residual});
    check<T>({Tier::wgmma, split, 6144, 4096, 16, 128, Epilogue::none, true});
    check<T>({Tier::wgmma, split, 1024, 4096, 32, 128, Epilogue::gated, true, false, false, false,
              split % 2 == 0 ? Activation::gelu_tanh : Activation::silu});
  }
  for (int m : {3, 16, 32, 64}) check<T>({Tier::door, 0, 28672, 4096, m, 128, Epilogue::gated});
}

template <class T>
void prompt_checks() {
  const Epilogue epilogues[3] = {Epilogue::none, Epilogue::residual, Epilogue::gated};
  int turn = 0;
  const int v = 48;
  check<T>({Tier::wgmma, v, 256, 128, 128, 128, Epilogue::none, false, true});
  check<T>({Tier::wgmma, v, 256, 128, 128, 128});
  check<T>({Tier::wgmma, v, 128, 256, 70, 128, Epilogue::none, true});
  check<T>({Tier::wgmma, v, 256, 64, 256, 64});
  check<T>({Tier::wgmma, v, 256, 192, 256, 32});
  for (int m : {65, 127, 128, 129, 191, 255, 256, 257, 300, 511, 513, 777}) {
    for (int n : {16, 272, 1040}) {
      for (int group : {128, 64, 32}) {
        const Epilogue e = epilogues[turn % 3];
        const bool f32 = e == Epilogue::none && turn % 2 == 0;
        const int k = group == 128 ? 128 * (1 + turn % 9) : 64 * (1 + turn % 11);
        check<T>({Tier::wgmma, v, n, k, m, group, e, turn % 4 < 2, f32, false, turn % 5 == 0,
                  turn % 7 == 2 ? Activation::gelu : Activation::silu});
        turn += group == 128 ? 2 : 1;
      }
    }
  }
  for (int group : {128, 64, 32}) {
    check<T>({Tier::wgmma, v, 9232, 512, 1300, group, Epilogue::gated, true});  // several tiles a block
    check<T>({Tier::wgmma, v, 9232, 640, 700, group, Epilogue::residual, true});
    check<T>({Tier::wgmma, v, 9232, 128, 1500, group, Epilogue::none, false, true});
    check<T>({Tier::wgmma, v, 4096, 4096, 1000, group, Epilogue::residual});
  }
}

// ----------------------------------------------------------------------------------------------------------- times
using T16 = __half;  // what an AWQ checkpoint computes in

// Four-bit weights of one size in several copies, so that none stays in L2; a call as the model makes it.
struct Load {
  int64_t n, k, bytes;
  int copies;
  Buffer<char> data, params;
  Buffer<T16> x, y;
  LinearCall call;
  Load(const Size& s, int64_t most)
      : n(s.n), k(s.k), bytes(w4_data_bytes(n, k) + w4_param_bytes(n, k, 128)),
        copies(static_cast<int>(std::max<int64_t>(1, (400ll << 20) / bytes))), data(copies * w4_data_bytes(n, k)),
        params(copies * w4_param_bytes(n, k, 128)), x(most * k), y(most * n) {
    bits(data, data.count);
    std::vector<uint32_t> p(params.count / 4);
    for (size_t i = 0; i < p.size(); ++i) p[i] = 0x2000u + (i * 2654435761u >> 24) + (((i * 40503u) >> 8 & 15u) << 16);
    CU(cudaMemcpy(params.data, p.data(), p.size() * 4, cudaMemcpyHostToDevice));
    normal(x.data, x.count);
    call.dtype = dtype_of<T16>();
    call.x = x.data, call.x_stride = k, call.y = y.data, call.y_stride = n;
    if (std::string(s.name) == "gate_up") call.epilogue = Epilogue::gated, call.y_stride = n / 2;
    if (std::string(s.name) == "o" || std::string(s.name) == "down") {
      call.epilogue = Epilogue::residual, call.residual = y.data, call.residual_stride = n;
    }
  }
  W4Weight weight(int i) const {
    return {data.data + (i % copies) * w4_data_bytes(n, k),
            reinterpret_cast<uint32_t*>(params.data + (i % copies) * w4_param_bytes(n, k, 128)), n, k, 128};
  }
  double time(int m, const std::function<void(const LinearCall&, const W4Weight&)>& run) {
    call.m = m;
    const double flops = 2.0 * m * n * k;
    const int calls = flops > 2e11 ? 4 : copies * std::max(1, 24 / copies);
    return time_us(stream, calls, [&](int i) { run(call, weight(i)); });
  }
};

void tune() {
  for (const Size& s : kSizes) {
    Load load(s, 8192);
    std::printf("%-8s W4 %.1f MB\n", s.name, load.bytes * 1e-6);
    const auto wgmma = [&](int m, int v) {
      return load.time(m, [&](const LinearCall& c, const W4Weight& w) { w4_wgmma_variant(v, c, w, stream); });
    };
    for (int m : {1, 2, 4, 8}) {
      std::printf("  m %4d:", m);
      for (int v = 0; v < 6; ++v) {
        std::printf(" gemv%d %.1f", v,
                    load.time(m, [&](const LinearCall& c, const W4Weight& w) { w4_gemv_variant(v, c, w, stream); }));
      }
      std::printf(" wgmma %.1f\n", wgmma(m, 0));
    }
    for (int m : {16, 32, 64, 128, 256, 512, 2048, 8192}) {
      std::printf("  m %4d: auto %.1f", m, wgmma(m, 0));
      if (m > 64) std::printf(" | 128 x 256 %.1f | 256 rows %.1f | 128 rows", wgmma(m, 48), wgmma(m, 16));
      for (int split = 1; split <= 8 && (split == 1 || (s.n < 20000 && m <= 512)); ++split) {
        std::printf(" %d:%.1f", split, wgmma(m, (m > 64 ? 32 : 0) + split));
      }
      std::printf("\n");
    }
  }
  // The four products of a layer in turn, as a model runs them (without what stands between).
  Load loads[4] = {{kSizes[0], 256}, {kSizes[1], 256}, {kSizes[2], 256}, {kSizes[3], 256}};
  for (int m : {1, 4, 8, 16, 32, 64, 128, 256}) {
    std::printf("layer m %3d:", m);
    const double us = time_us(stream, 48, [&](int i) {
      Load& load = loads[i % 4];
      load.call.m = m;
      w4_matmul(load.call, load.weight(i / 4), stream);
    });
    std::printf(" %.1f", us * 4);
    std::printf("\n");
  }
}

void times() {
  GemmLt lt;
  const int64_t lt_bytes = 64 << 20;
  Buffer<char> lt_workspace(lt_bytes);
  const int ms[] = {1, 8, 16, 32, 64, 128, 256, 512, 2048, 8192};
  for (const Size& s : kSizes) {
    Load load(s, 8192);
    const int64_t n = s.n, k = s.k, bytes = n * k * 2;
    const int copies = static_cast<int>(std::max<int64_t>(1, (600ll << 20) / bytes));
    Buffer<T16> w(copies * n * k);
    normal(w.data, w.count, 0.02f);
    const double dequantize = load.time(
        1, [&](const LinearCall&, const W4Weight& w4) { w4_dequantize(dtype_of<T16>(), w4, 0, n, w.data, stream); });
    std::printf("%-8s dequantize %.1f us\n", s.name, dequantize);
    for (int m : ms) {
      const double us =
          load.time(m, [&](const LinearCall& c, const W4Weight& w4) { w4_matmul(c, w4, stream); });
      GemmShape shape;
      shape.dtype = dtype_of<T16>(), shape.m = m, shape.n = n, shape.k = k;
      lt.plan(shape, load.x, k, w, load.y, n, nullptr, lt_workspace, lt_bytes, 8, stream);
      const double flops = 2.0 * m * n * k;
      const double library = time_us(stream, flops > 2e11 ? 4 : copies * std::max(1, 24 / copies), [&](int i) {
        lt.run(shape, load.x, k, w + (i % copies) * n * k, load.y, n, nullptr, lt_workspace, lt_bytes, stream);
      });
      std::printf("  m %4d: w4_matmul %.1f us (%.2f TB/s, %.0f TFLOP/s)  dequantize + cublasLt %.1f  cublasLt 16-bit %.1f (%.0f TFLOP/s)\n",
                  m, us, load.bytes / us * 1e-6, flops / us * 1e-6, dequantize + library, library, flops / library * 1e-6);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  return program(argc, argv, "all", &stream, [](const std::string& mode) {
    if (mode == "check" || mode == "all") {
      checks<__nv_bfloat16>();
      checks<__half>();
      prompt_checks<__nv_bfloat16>();
      prompt_checks<__half>();
      split_checks<__nv_bfloat16>();
      split_checks<__half>();
      std::printf("%d failures\n", failures());
    }
    if (mode == "tune" || mode == "all") tune();
    if (mode == "time" || mode == "all") {
      print_bandwidth(stream);
      times();
    }
  });
}
