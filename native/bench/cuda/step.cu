// A decode step of the Llama-3-8B shape made of the kernels alone, in one graph: 32 layers over 4 layers' worth of
// random weights (no reuse within L2), head and argmax. Usage: step
#include <ctime>
#include <memory>
#include <numeric>

#include "bench.cuh"
#include "cuda/kernels/gemm_lt.h"

using namespace bench;

namespace {

using T = __nv_bfloat16;
constexpr int64_t kHidden = 4096, kInner = 14336, kVocab = 128256;
constexpr int kLayers = 32, kDistinct = 4, kHeads = 32, kKvHeads = 8, kDim = 128;
constexpr int64_t kQkv = (kHeads + 2 * kKvHeads) * kDim;
cudaStream_t stream;

struct Matrix {
  int64_t n, k;
  Buffer<T> w16;
  Buffer<char> data, params;
  Matrix(int64_t n_, int64_t k_, bool w4)
      : n(n_),
        k(k_),
        w16(w4 ? 1 : n_ * k_),
        data(w4 ? w4_data_bytes(n_, k_) : 1),
        params(w4 ? w4_param_bytes(n_, k_, 128) : 4) {
    if (!w4) {
      normal(w16.data, w16.count, 0.02f);
      return;
    }
    bits(data, data.count);
    std::vector<uint32_t> p(params.count / 4);
    for (size_t i = 0; i < p.size(); ++i) p[i] = 0x1400u + (i * 2654435761u >> 24) + (((i * 40503u) >> 8 & 15u) << 16);
    CU(cudaMemcpy(params.data, p.data(), p.size() * 4, cudaMemcpyHostToDevice));
  }
  W4Weight w4() const { return {data.data, reinterpret_cast<uint32_t*>(params.data), n, k, 128}; }
};

struct Layer {
  Matrix qkv, o, gate_up, down;
  explicit Layer(bool w4)
      : qkv(kQkv, kHidden, w4),
        o(kHidden, kHeads * kDim, w4),
        gate_up(2 * kInner, kHidden, w4),
        down(kHidden, kInner, w4) {}
};

void run_step(bool w4, int n, int context) {
  std::vector<std::unique_ptr<Layer>> layers;
  for (int i = 0; i < kDistinct; ++i) layers.emplace_back(new Layer(w4));
  Matrix head(kVocab, kHidden, false);
  Buffer<T> g(kHidden), h(n * kHidden), x(n * kHidden), qkv(n * kQkv), att(n * kHeads * kDim), inner(n * kInner),
      wide(n * 2 * kInner);
  Buffer<float> logits(n * kVocab), inv_freq(64);
  Buffer<char> workspace(w4_mma_workspace_bytes()), argmax_space(sample_workspace_bytes(n, kVocab)), lt_space(64 << 20);
  workspace.zero();
  normal(g.data, kHidden, 0.1f, 1.0f);
  normal(h.data, h.count);
  uniform(inv_freq.data, 64, 0.0f, 1.0f);
  const int64_t head_bytes = kv_head_bytes(KvType::bf16, 64, kDim), layer_bytes = head_bytes * kKvHeads;
  const int per_row = context / 64 + 2;
  Buffer<char> pool(static_cast<int64_t>(n) * per_row * layer_bytes * kLayers);
  normal(reinterpret_cast<T*>(pool.data), pool.count / 2);
  std::vector<int32_t> table(static_cast<size_t>(n) * per_row), rows(n), index(n, context);
  std::iota(table.begin(), table.end(), 0);
  std::iota(rows.begin(), rows.end(), 0);
  Buffer<int32_t> d_table(n * per_row), d_row(n), d_index(n), token(n);
  d_table.set(table), d_row.set(rows), d_index.set(index);
  const int splits = attention_decode_splits(n, kHeads, kKvHeads, context);
  Buffer<char> att_space(attention_decode_workspace_bytes(n, kHeads, kKvHeads, kDim, splits));
  att_space.zero();
  GemmLt lt;
  const bool gemv = n <= 8;
  const auto linear = [&](const Matrix& m, const void* in, int64_t in_stride, void* out, int64_t out_stride, Epilogue e,
                          bool norm_in) {
    LinearCall c;
    c.m = n, c.x = in, c.x_stride = in_stride, c.y = out, c.y_stride = out_stride, c.epilogue = e,
    c.workspace = workspace.data;
    if (e == Epilogue::residual) c.residual = out, c.residual_stride = out_stride;
    if (norm_in && gemv && n <= 2) {
      c.norm_weight = g.data;
    } else if (norm_in) {
      NormCall nc;
      nc.weight = g.data, nc.rows = n, nc.n = kHidden, nc.x = in, nc.x_stride = in_stride, nc.y = x.data,
      nc.y_stride = kHidden;
      norm(nc, stream);
      c.x = x.data, c.x_stride = kHidden;
    }
    if (w4 && gemv) return w4_gemv(c, m.w4(), stream);
    if (w4) return w4_mma(c, m.w4(), stream);
    if (gemv) return gemv16(c, m.w16.data, m.n, m.k, stream);
    GemmShape s;
    s.m = n, s.n = m.n, s.k = m.k, s.accumulate = e == Epilogue::residual;
    void* to = e == Epilogue::gated ? static_cast<void*>(wide.data) : out;
    const int64_t to_stride = e == Epilogue::gated ? 2 * kInner : out_stride;
    lt.run(s, c.x, c.x_stride, m.w16.data, to, to_stride, nullptr, lt_space, lt_space.count, stream);
    if (e == Epilogue::gated)
      gate_activate(DType::bf16, Activation::silu, wide, 2 * kInner, n, kInner, out, out_stride, stream);
  };
  if (!w4 && !gemv) {
    GemmShape s;
    s.m = n;
    s.n = kQkv, s.k = kHidden;
    lt.plan(s, x, kHidden, layers[0]->qkv.w16, qkv, kQkv, nullptr, lt_space, lt_space.count, 8, stream);
    s.n = 2 * kInner;
    lt.plan(s, x, kHidden, layers[0]->gate_up.w16, wide, 2 * kInner, nullptr, lt_space, lt_space.count, 8, stream);
    s.accumulate = true, s.n = kHidden;
    lt.plan(s, att, kHidden, layers[0]->o.w16, h, kHidden, nullptr, lt_space, lt_space.count, 8, stream);
    s.k = kInner;
    lt.plan(s, inner, kInner, layers[0]->down.w16, h, kHidden, nullptr, lt_space, lt_space.count, 8, stream);
  }
  GemmShape hs;
  hs.m = n, hs.n = kVocab, hs.k = kHidden, hs.y_f32 = true;
  if (n > 4) lt.plan(hs, x, kHidden, head.w16, logits, kVocab, nullptr, lt_space, lt_space.count, 8, stream);
  const double us = time_us(stream, 1, [&](int) {
    for (int l = 0; l < kLayers; ++l) {
      const Layer& layer = *layers[l % kDistinct];
      linear(layer.qkv, h.data, kHidden, qkv.data, kQkv, Epilogue::none, true);
      KvView kv;
      kv.base = pool.data, kv.block_bytes = layer_bytes * kLayers, kv.layer_offset = layer_bytes * l, kv.block_len = 64;
      kv.kv_heads = kKvHeads, kv.head_dim = kDim, kv.type = KvType::bf16, kv.block_table = d_table,
      kv.max_blocks = per_row;
      RopeCall r;
      r.tokens = n, r.q = qkv.data, r.q_stride = kQkv, r.k = qkv.data + kHeads * kDim,
      r.v = qkv.data + (kHeads + kKvHeads) * kDim;
      r.kv_stride = kQkv, r.heads = kHeads, r.row = d_row, r.index = d_index, r.position = d_index,
      r.inv_freq = inv_freq, r.half = 64;
      rope_store(r, kv, stream);
      AttentionCall a;
      a.heads = kHeads, a.scale = 0.0884f, a.q = qkv.data, a.q_stride = kQkv, a.out = att.data,
      a.out_stride = kHeads * kDim;
      attention_decode(a, kv, n, d_row, d_index, splits, att_space, stream);
      linear(layer.o, att.data, kHeads * kDim, h.data, kHidden, Epilogue::residual, false);
      linear(layer.gate_up, h.data, kHidden, inner.data, kInner, Epilogue::gated, true);
      linear(layer.down, inner.data, kInner, h.data, kHidden, Epilogue::residual, false);
    }
    if (n <= 4) {
      LinearCall c;
      c.m = n, c.x = h.data, c.x_stride = kHidden, c.y = logits.data, c.y_stride = kVocab, c.y_f32 = true,
      c.norm_weight = g.data;
      gemv16(c, head.w16.data, kVocab, kHidden, stream);
    } else {
      NormCall nc;
      nc.weight = g.data, nc.rows = n, nc.n = kHidden, nc.x = h.data, nc.x_stride = kHidden, nc.y = x.data,
      nc.y_stride = kHidden;
      norm(nc, stream);
      lt.run(hs, x, kHidden, head.w16, logits, kVocab, nullptr, lt_space, lt_space.count, stream);
    }
    argmax(logits, kVocab, n, kVocab, token, argmax_space, stream);
  });
  std::printf("step %s n %d context %d: %.1f us, %.0f tokens/s\n", w4 ? "W4" : "bf16", n, context, us, n / us * 1e6);
}

}  // namespace

int main() {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  print_device();
  CU(cudaStreamCreate(&stream));
  try {
    for (bool w4 : {false, true}) {
      for (int n : {1, 2, 4, 8, 16, 32, 64}) run_step(w4, n, 256);
    }
    set_dependent_launch(false);
    std::printf("without dependent launch:\n");
    run_step(false, 1, 256);
    run_step(true, 1, 256);
  } catch (const std::exception& error) {
    std::printf("exception: %s\n", error.what());
    return 2;
  }
  return 0;
}
