// Kernels on operands of more than 2^31 elements (or bytes, where a kernel counts bytes): their last rows must be what the
// same kernel makes of those rows alone, at the start of small buffers. Needs about 40 GB of device memory.
#include "bench.cuh"

using namespace bench;

namespace {

cudaStream_t stream;
using T = __nv_bfloat16;

// Relative difference of the last `count` values of `whole` and of `alone`; 0 is asked for where the kernel can't depend on
// the size.
template <class V>
void same(const char* what, const V* whole, const V* alone, int64_t count, double limit) {
  CU(cudaStreamSynchronize(stream));
  std::vector<V> a(static_cast<size_t>(count)), b(a.size());
  CU(cudaMemcpy(a.data(), whole, a.size() * sizeof(V), cudaMemcpyDeviceToHost));
  CU(cudaMemcpy(b.data(), alone, b.size() * sizeof(V), cudaMemcpyDeviceToHost));
  double error = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double x = static_cast<double>(static_cast<float>(a[i])), y = static_cast<double>(static_cast<float>(b[i]));
    error += (x - y) * (x - y), size += y * y;
  }
  const double relative = std::sqrt(error / size);
  const bool ok = relative <= limit && size > 0;
  if (!ok) ++failures();
  std::printf("%-4s %-56s relative difference %.2e\n", ok ? "ok" : "FAIL", what, relative);
}

constexpr int64_t kLast = 16;  // rows that are compared

void rows() {
  const int64_t n = 28672, m = (1ll << 31) / n + 1000;  // 2.17e9 elements
  Buffer<T> x(m * n), y(m * n / 2), small(kLast * n), w(n);
  normal(x.data, x.count);
  normal(w.data, w.count);
  const T* tail = x.data + (m - kLast) * n;
  gate_activate(DType::bf16, Activation::silu, x, n, m, n / 2, y, n / 2, stream);
  gate_activate(DType::bf16, Activation::silu, tail, n, kLast, n / 2, small, n / 2, stream);
  same("gate_activate", y.data + (m - kLast) * (n / 2), small.data, kLast * n / 2, 0);
  NormCall call;
  call.weight = w.data, call.rows = kLast, call.n = n, call.x = tail, call.x_stride = n, call.y = small.data, call.y_stride = n;
  norm(call, stream);
  call.rows = m, call.x = x.data, call.y = x.data;
  norm(call, stream);
  same("norm, in place", tail, small.data, kLast * n, 0);
  std::vector<int32_t> ids(kLast);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(m - kLast + static_cast<int64_t>(i));
  Buffer<int32_t> d_ids(kLast);
  d_ids.set(ids);
  Buffer<T> found(kLast * n);
  embed(DType::bf16, x, m, n, 1.0f, d_ids, kLast, found, n, stream);
  same("embed", found.data, tail, kLast * n, 0);
  add_scaled(DType::bf16, small, n, tail, n, 0.5f, kLast, n, stream);
  Buffer<T> more(m * n);
  CU(cudaMemcpy(more.data, x.data, x.count * sizeof(T), cudaMemcpyDeviceToDevice));
  add_scaled(DType::bf16, x, n, more, n, 0.5f, m, n, stream);
  same("add_scaled", tail, small.data, kLast * n, 0);
}

void sampling() {
  const int vocab = 128256, n = 17000, last = 8;  // 2.18e9 logits
  Buffer<float> logits(static_cast<int64_t>(n) * vocab);
  normal(logits.data, logits.count, 2.5f);
  Buffer<int32_t> token(n), alone(last), error(n);
  Buffer<char> space(sample_workspace_bytes(n, vocab)), d_rows(n * sizeof(SampleRow));
  const float* tail = logits.data + static_cast<int64_t>(n - last) * vocab;
  argmax(logits, vocab, n, vocab, token, space, stream);
  argmax(tail, vocab, last, vocab, alone, space, stream);
  same("argmax", token.data + n - last, alone.data, last, 0);
  std::vector<SampleRow> rows(n);
  for (int i = 0; i < n; ++i) rows[i].temperature = 1.0, rows[i].top_p = 0.9, rows[i].seed = i % last;
  CU(cudaMemcpy(d_rows.data, rows.data(), n * sizeof(SampleRow), cudaMemcpyHostToDevice));
  const auto* r = reinterpret_cast<const SampleRow*>(d_rows.data);
  process_logits(logits, vocab, n, vocab, r, SampleLists(), nullptr, error, stream);
  draw(logits, vocab, nullptr, n, vocab, r, error, token, space, stream);
  process_logits(tail, vocab, last, vocab, r + n - last, SampleLists(), nullptr, error, stream);
  draw(tail, vocab, nullptr, last, vocab, r + n - last, error, alone, space, stream);
  same("process_logits and draw", token.data + n - last, alone.data, last, 0);
}

// A product whose weights, or whose tokens, are many; the last rows of W, or the last tokens, are done alone as well.
using Product = std::function<void(const LinearCall& call, int64_t first_row, int64_t rows)>;
void product(const char* what, int64_t n, int64_t k, int32_t m, bool many_tokens, const Product& run) {
  Buffer<T> x(m * k), y(m * n);
  normal(x.data, x.count);
  LinearCall call;
  call.m = m, call.x = x, call.x_stride = k, call.y = y, call.y_stride = n;
  Buffer<char> space(w4_matmul_workspace_bytes());
  space.zero();
  call.workspace = space;
  run(call, 0, n);
  if (many_tokens) {
    const int32_t last = 16;
    Buffer<T> small(last * n);
    call.m = last, call.x = x.data + static_cast<int64_t>(m - last) * k, call.y = small;
    run(call, 0, n);
    same(what, y.data + static_cast<int64_t>(m - last) * n, small.data, last * n, 6e-3);
    return;
  }
  const int64_t last = 4096;
  Buffer<T> small(m * last), cut(m * last);
  call.y = small, call.y_stride = last;
  run(call, n - last, last);
  CU(cudaMemcpy2DAsync(cut.data, last * 2, y.data + n - last, n * 2, last * 2, m, cudaMemcpyDeviceToDevice, stream));
  same(what, cut.data, small.data, m * last, 6e-3);
}

void products() {
  const int64_t n = 557056, k = 4096;  // 2.28e9 weights
  {
    Buffer<T> w(n * k);
    normal(w.data, w.count, 0.02f);
    product("gemv16, many weights", n, k, 4, false, [&](const LinearCall& call, int64_t first, int64_t rows) {
      gemv16(call, w.data + first * k, rows, k, stream);
    });
    for (const int32_t m : {16, 200}) {
      product("gemm16, many weights", n, k, m, false, [&](const LinearCall& call, int64_t first, int64_t rows) {
        gemm16(call, w.data + first * k, rows, k, stream);
      });
    }
  }
  {
    Buffer<T> w(4096 * 14336);
    normal(w.data, w.count, 0.02f);
    product("gemm16, many tokens", 4096, 14336, 160000, true, [&](const LinearCall& call, int64_t, int64_t rows) {
      gemm16(call, w.data, rows, 14336, stream);
    });
    product("gemm16, many outputs", 14336, 4096, 160000, true, [&](const LinearCall& call, int64_t, int64_t rows) {
      gemm16(call, w.data, rows, 4096, stream);
    });
  }
  const int64_t wide = 1179648;  // 2.4e9 bytes of 4-bit weights
  Buffer<char> data(w4_data_bytes(wide, k)), params(w4_param_bytes(wide, k, 128));
  bits(data, data.count);
  std::vector<uint32_t> parameter(static_cast<size_t>(params.count / 4), 0x0008211fu);  // scale 0.01, zero point 8
  CU(cudaMemcpy(params.data, parameter.data(), parameter.size() * 4, cudaMemcpyHostToDevice));
  const auto weight = [&](int64_t first, int64_t rows) {
    W4Weight w;
    w.data = data.data + w4_data_bytes(first, k);
    w.params = reinterpret_cast<const uint32_t*>(params.data + w4_param_bytes(first, k, 128));
    w.n = rows, w.k = k, w.group = 128;
    return w;
  };
  for (const int32_t m : {1, 5, 40, 300}) {
    product("w4_matmul, many weights", wide, k, m, false, [&](const LinearCall& call, int64_t first, int64_t rows) {
      w4_matmul(call, weight(first, rows), stream);
    });
  }
  Buffer<T> unpacked(4096 * k), alone(4096 * k);
  w4_dequantize(DType::bf16, weight(0, wide), wide - 4096, 4096, unpacked, stream);
  w4_dequantize(DType::bf16, weight(wide - 4096, 4096), 0, 4096, alone, stream);
  same("w4_dequantize", unpacked.data, alone.data, alone.count, 0);
}

// Blocks beyond 2^31 (and 2^32) bytes of KV memory: the same tokens in the first blocks and in the last.
void attention() {
  const int heads = 32, kv_heads = 8, dim = 128, block_len = 64, blocks = 24000, length = 512, queries = 200;
  const int64_t block_bytes = kv_heads * kv_head_bytes(KvType::bf16, block_len, dim);  // 256 KiB: 6.3 GB
  Buffer<char> pool(block_bytes * blocks);
  pool.zero();
  const int table_blocks = length / block_len;
  std::vector<int32_t> table(2 * table_blocks);
  for (int i = 0; i < table_blocks; ++i) table[i] = i, table[table_blocks + i] = blocks - 1 - i;
  Buffer<int32_t> d_table(static_cast<int64_t>(table.size()));
  d_table.set(table);
  KvView kv;
  kv.base = pool, kv.block_bytes = block_bytes, kv.block_len = block_len, kv.kv_heads = kv_heads, kv.head_dim = dim;
  kv.type = KvType::bf16, kv.block_table = d_table, kv.max_blocks = table_blocks;
  Buffer<T> k(length * kv_heads * dim), v(length * kv_heads * dim), q(length * heads * dim);
  normal(k.data, k.count), normal(v.data, v.count), normal(q.data, q.count);
  Buffer<float> inv_freq(dim / 2);
  uniform(inv_freq.data, inv_freq.count, 0.0f, 1.0f);
  std::vector<int32_t> index(length);
  for (int i = 0; i < length; ++i) index[i] = i;
  Buffer<int32_t> d_index(length), d_row(length);
  d_index.set(index);
  Buffer<T> turned(q.count);
  for (const int row : {0, 1}) {
    d_row.set(std::vector<int32_t>(length, row));
    CU(cudaMemcpy(turned.data, q.data, q.count * sizeof(T), cudaMemcpyDeviceToDevice));
    RopeCall rope;
    rope.tokens = length, rope.q = turned, rope.q_stride = heads * dim, rope.k = k, rope.v = v;
    rope.kv_stride = kv_heads * dim, rope.heads = heads, rope.row = d_row, rope.index = d_index, rope.position = d_index;
    rope.inv_freq = inv_freq, rope.half = dim / 2;
    rope_store(rope, kv, stream);
    CU(cudaStreamSynchronize(stream));
  }
  same("rope_store, the last block", reinterpret_cast<T*>(pool.data + block_bytes * (blocks - 1)),
       reinterpret_cast<T*>(pool.data), block_bytes / 2, 0);
  AttentionCall call;
  call.heads = heads, call.scale = 0.088f, call.q = turned, call.q_stride = heads * dim, call.out_stride = heads * dim;
  call.tokens = length;
  Buffer<T> low(queries * heads * dim), high(queries * heads * dim);
  Buffer<char> space(attention_decode_workspace_bytes(1, heads, kv_heads, dim, 4));
  space.zero();
  for (const int row : {0, 1}) {
    Buffer<int32_t> one_row(1), one_index(1);
    one_row.set({row}), one_index.set({length - 1});
    call.out = row == 0 ? low : high;
    attention_decode(call, kv, 1, one_row, one_index, 4, space, stream);
    CU(cudaStreamSynchronize(stream));
  }
  same("attention_decode", high.data, low.data, heads * dim, 0);
  call.q = turned.data + static_cast<int64_t>(length - queries) * heads * dim;
  call.tokens = queries;
  for (const bool wgmma : {true, false}) {
    set_wgmma(wgmma);
    for (const int row : {0, 1}) {
      Buffer<int32_t> starts(2), index0(1), one_row(1);
      starts.set({0, queries}), index0.set({length - queries}), one_row.set({row});
      call.out = row == 0 ? low : high;
      attention_prefill(call, kv, 1, starts, index0, one_row, queries, stream);
      CU(cudaStreamSynchronize(stream));
    }
    same(wgmma ? "attention_prefill" : "attention_prefill, mma.sync", high.data, low.data, low.count, 0);
  }
  set_wgmma(true);
}

}  // namespace

int main() {
  print_device();
  CU(cudaStreamCreate(&stream));
  rows();
  sampling();
  products();
  attention();
  std::printf("%d failures\n", failures());
  return failures() != 0;
}
