// Chained 4-bit products: checks against float64, then times beside one kernel a product. Usage: w4_chain [check|time|all]
#include <memory>

#include "linear_reference.cuh"
#include "w4_random.cuh"

namespace deploykit::cuda {  // internal: with so many copies under way
void w4_chain_variant(int ahead, const W4ChainLink* links, int32_t count, uint32_t* arrivals, cudaStream_t stream);
}

namespace {

struct Case {
  int64_t hidden, heads, inner, qkv;  // widths
  int m, group = 128, count = 4;
  bool bias = false, gptq = false, in_place = false;
  Activation act = Activation::silu;
  int ahead = 0;
};

// Each product against float64 on what the kernel itself gave it, twice in a row (the second meets other counts).
template <class T>
void check(const Case& o) {
  if (!mine()) return;
  const int64_t m = o.m, hidden = o.hidden;
  W4Random wo(hidden, o.heads, o.group, o.gptq, false), up(2 * o.inner, hidden, o.group, o.gptq, true),
      down(hidden, o.inner, o.group, o.gptq, false), qkv(o.qkv, hidden, o.group, o.gptq, false);
  const W4Random* weights[4] = {&wo, &up, &down, &qkv};
  Buffer<T> attended(m * o.heads), x(m * hidden), first(m * hidden), inner(m * o.inner), second(m * hidden), out(m * o.qkv),
      g(hidden), bias(2 * o.inner + o.qkv);
  Buffer<uint32_t> arrivals(1);
  arrivals.set({0xffffff00u});  // the count goes past 2^32 on the way
  normal(attended.data, attended.count);
  normal(x.data, x.count);
  normal(g.data, hidden, 0.2f, 1.0f);
  normal(bias.data, bias.count, 0.5f);
  T* const after_o = o.in_place ? x.data : first.data;
  T* const after_down = o.in_place ? x.data : second.data;
  const void* xs[4] = {attended.data, after_o, inner.data, after_down};
  T* ys[4] = {after_o, inner.data, after_down, out.data};
  W4ChainLink links[4];
  for (int i = 0; i < 4; ++i) {
    LinearCall& c = links[i].call;
    links[i].weight = &weights[i]->w;
    const W4Weight& w = weights[i]->w;
    c.dtype = dtype_of<T>();
    c.m = o.m, c.x = xs[i], c.x_stride = w.k, c.y = ys[i], c.y_stride = i == 1 ? w.n / 2 : w.n;
    if (o.bias) c.bias = bias.data;
    if (i == 1) c.epilogue = Epilogue::gated, c.activation = o.act;
    if (i == 0 || i == 2) {
      c.epilogue = Epilogue::residual, c.residual_scale = 0.05f, c.residual_stride = hidden;
      c.residual = i == 0 ? x.data : after_o;
    } else {
      c.norm_weight = g.data;
    }
  }
  char what[200];
  std::snprintf(what, sizeof what, "chain %s %lld/%lld/%lld/%lld m%d g%d x%d%s%s%s ahead %d",
                dtype_of<T>() == DType::f16 ? "f16" : "bf16", (long long)hidden, (long long)o.heads, (long long)o.inner,
                (long long)o.qkv, o.m, o.group, o.count, o.bias ? " bias" : "", o.gptq ? " gptq" : "",
                o.in_place ? " in place" : "", o.ahead);
  CU(cudaDeviceSynchronize());
  if (o.in_place) {  // the same bytes as with buffers of its own, on the same inputs
    W4ChainLink own[4];
    std::copy(links, links + 4, own);
    own[0].call.y = first.data, own[1].call.x = first.data, own[2].call.residual = first.data;
    own[2].call.y = second.data, own[3].call.x = second.data;
    w4_chain_variant(o.ahead, own, o.count, arrivals, stream);
    finish(what);
    const std::vector<T> a = second.host(), b = out.host();
    w4_chain_variant(o.ahead, links, o.count, arrivals, stream);
    finish(what);
    const std::vector<T> c = x.host(), d = out.host();
    const bool same = std::memcmp(a.data(), c.data(), a.size() * sizeof(T)) == 0 &&
                      (o.count < 4 || std::memcmp(b.data(), d.data(), b.size() * sizeof(T)) == 0);
    if (!same) ++failures();
    std::printf("%-4s %s\n", same ? "ok" : "FAIL", what);
    return;
  }
  for (int repeat = 0; repeat < 2; ++repeat) {
    first.poison(), inner.poison(), second.poison(), out.poison();
    CU(cudaDeviceSynchronize());
    w4_chain_variant(o.ahead, links, o.count, arrivals, stream);
    finish(what);
  }
  const double unit = dtype_of<T>() == DType::f16 ? 1.0 / 2048 : 1.0 / 256;
  const char* names[4] = {"o", "up", "down", "qkv"};
  Buffer<T>* results[4] = {&first, &inner, &second, &out};
  for (int i = 0; i < o.count; ++i) {
    const W4Weight& w = weights[i]->w;
    const int64_t n_out = i == 1 ? w.n / 2 : w.n;
    Buffer<double> sums(m * w.n), ref(m * n_out);
    reference_linear<T><<<ceil_div(m * w.n, 256), 256>>>(links[i].call, weights[i]->values, w.n, w.k, sums);
    reference_epilogue<T><<<ceil_div(m * n_out, 256), 256>>>(links[i].call, sums, w.n, ref);
    // A gate multiplies two rounded sums' errors: half as much again.
    compare(std::string(what) + " " + names[i], *results[i], ref, i == 1 ? 1.5 * unit : unit);
  }
}

template <class T>
void checks() {
  check<T>({128, 128, 128, 128, 1});
  check<T>({128, 128, 128, 128, 4, 32});
  int turn = 0;
  for (int group : {128, 64, 32}) {
    for (int m = 1; m <= kW4ChainMaxM; ++m) {
      const int count = 1 + turn % 4;
      check<T>({512, 640, 1536, 768, m, group, 4, turn % 2 == 0, turn % 3 == 0, false,
                turn % 5 == 0 ? Activation::gelu_tanh : Activation::silu, turn % 4});
      check<T>({1152, 2176, 3456, 1280, m, group, count, turn % 2 == 1, turn % 3 == 1});  // stages that aren't full
      check<T>({3584, 3584, 5120, 4608, m, group, 3, true, false, true});
      ++turn;
    }
  }
  for (int m : {1, 3}) check<T>({4096, 4096, 14336, 6144, m});
  check<T>({4096, 4096, 14336, 6144, 4, 128, 4, false, false, true});
  check<T>({8192, 8192, 28672, 10240, 1});
}

using T16 = __half;
struct Matrix {
  int64_t n, k;
  int copies;
  Buffer<char> data, params;
  Matrix(int64_t n_, int64_t k_, int copies_)
      : n(n_), k(k_), copies(copies_), data(copies * w4_data_bytes(n, k)), params(copies * w4_param_bytes(n, k, 128)) {
    bits(data, data.count);
    std::vector<uint32_t> p(params.count / 4);
    for (size_t i = 0; i < p.size(); ++i) p[i] = 0x1400u + (i * 2654435761u >> 24) + (((i * 40503u) >> 8 & 15u) << 16);
    CU(cudaMemcpy(params.data, p.data(), p.size() * 4, cudaMemcpyHostToDevice));
  }
  W4Weight weight(int i) const {
    return {data.data + (i % copies) * w4_data_bytes(n, k),
            reinterpret_cast<uint32_t*>(params.data + (i % copies) * w4_param_bytes(n, k, 128)), n, k, 128};
  }
};

struct Model {
  const char* name;
  int64_t hidden, heads, inner, qkv;
};
// A layer's four products of a model's shape, chained and one kernel each.
void times(const Model& model, const std::vector<int>& aheads) {
  const int64_t layer = model.hidden * (model.heads + 3 * model.inner + model.qkv) / 2;
  const int copies = static_cast<int>(std::max<int64_t>(2, (400ll << 20) / layer));  // none stays in L2
  Matrix wo(model.hidden, model.heads, copies), up(2 * model.inner, model.hidden, copies),
      down(model.hidden, model.inner, copies), qkv(model.qkv, model.hidden, copies);
  constexpr int kMost = kW4ChainMaxM;
  Buffer<T16> x(kMost * model.hidden), attended(kMost * model.heads), inner(kMost * model.inner), out(kMost * model.qkv),
      g(model.hidden);
  Buffer<uint32_t> arrivals(1);
  arrivals.zero();
  normal(x.data, x.count);
  normal(attended.data, attended.count);
  normal(g.data, model.hidden, 0.1f, 1.0f);
  const Matrix* matrices[4] = {&wo, &up, &down, &qkv};
  std::vector<W4Weight> weights;
  for (int i = 0; i < copies; ++i) {
    for (const Matrix* matrix : matrices) weights.push_back(matrix->weight(i));
  }
  const auto links_of = [&](int m, int i, W4ChainLink* links) {
    const void* xs[4] = {attended.data, x.data, inner.data, x.data};
    void* ys[4] = {x.data, inner.data, x.data, out.data};
    for (int j = 0; j < 4; ++j) {
      LinearCall& c = links[j].call;
      links[j].weight = &weights[static_cast<size_t>(i % copies * 4 + j)];
      c.dtype = dtype_of<T16>();
      c.m = m, c.x = xs[j], c.x_stride = links[j].weight->k, c.y = ys[j], c.y_stride = links[j].weight->n / (j == 1 ? 2 : 1);
      if (j == 1) c.epilogue = Epilogue::gated;
      if (j == 0 || j == 2) {
        c.epilogue = Epilogue::residual, c.residual = x.data, c.residual_stride = model.hidden, c.residual_scale = 0.0f;
      } else {
        c.norm_weight = g.data;
      }
    }
  };
  double bytes = 0;
  for (int j = 0; j < 4; ++j) bytes += w4_data_bytes(weights[j].n, weights[j].k) + w4_param_bytes(weights[j].n, weights[j].k, 128);
  const int calls = copies * std::max(1, 16 / copies);
  for (int m = 1; m <= kMost; ++m) {
    W4ChainLink links[4];
    links_of(m, 0, links);
    bool takes = true;
    for (const W4ChainLink& link : links) takes = takes && w4_chain_takes(*link.weight, m);
    if (!takes) continue;
    const double apart = time_us(stream, calls, [&](int i) {
      links_of(m, i, links);
      for (const W4ChainLink& link : links) w4_gemv(link.call, *link.weight, stream);
    });
    std::printf("%-12s m %d, %.1f MB: apart %.1f us (%.2f TB/s), chained", model.name, m, bytes * 1e-6, apart, bytes / apart * 1e-6);
    for (int ahead : aheads) {
      const double us = time_us(stream, calls, [&](int i) {
        links_of(m, i, links);
        w4_chain_variant(ahead, links, 4, arrivals, stream);
      });
      std::printf(" %.1f (%.2f TB/s, %d under way)", us, bytes / us * 1e-6, ahead);
    }
    std::printf("\n");
  }
}

void times() {
  times({"Llama 8B", 4096, 4096, 14336, 6144}, {1, 2, 3, 4, 8});
  times({"Qwen2.5 0.5B", 1024, 1024, 4864, 1280}, {2});  // heads rounded up
  times({"Llama 1B", 2048, 2048, 8192, 3072}, {2, 3});
  times({"Llama 3B", 3072, 3072, 8192, 5120}, {2, 3});
  times({"Qwen3 14B", 5120, 5120, 17408, 7168}, {2, 3});
  times({"Llama 70B", 8192, 8192, 28672, 10240}, {2, 3});
}

}  // namespace

int main(int argc, char** argv) {
  return program(argc, argv, "all", &stream, [](const std::string& mode) {
    if (mode == "check" || mode == "all") {
      checks<__nv_bfloat16>();
      checks<__half>();
      std::printf("%d failures\n", failures());
    }
    if (mode == "time" || mode == "all") times();
  });
}
