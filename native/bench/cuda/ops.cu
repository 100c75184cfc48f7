// Small kernels and sampling: checks against float64 and a plain implementation, then times. Usage: ops
// [check|time|all]
#include <cstring>
#include <ctime>

#include "bench.cuh"

using namespace bench;

namespace {

cudaStream_t stream;

template <class T>
std::vector<double> wide(const Buffer<T>& b) {
  std::vector<double> out;
  for (const T& v : b.host()) out.push_back(static_cast<double>(static_cast<float>(v)));
  return out;
}
template <class T>
void compare_host(const char* what, const Buffer<T>& got, const std::vector<double>& want, double limit) {
  Buffer<double> ref(static_cast<int64_t>(want.size()));
  ref.set(want);
  compare(std::string(what) + (dtype_of<T>() == DType::f16 ? " f16" : " bf16"), got, ref, limit);
}

template <class T>
void check_elementwise() {
  const double unit = dtype_of<T>() == DType::f16 ? 1.0 / 2048 : 1.0 / 256;
  const int64_t rows = 37;
  for (int64_t n : {64, 4096, 5120, 14336}) {
    for (int kind = 0; kind < 3; ++kind) {  // rms, layer with bias, rms with a sum
      Buffer<T> x(rows * (n + 8)), add(rows * n), w(n), b(n), y(rows * n), sum(rows * n);
      normal(x.data, x.count, 2.0f, 0.3f), normal(add.data, add.count), normal(w.data, n, 0.3f, 1.0f),
          normal(b.data, n);
      NormCall c;
      c.dtype = dtype_of<T>(), c.weight = w.data, c.rows = rows, c.n = n, c.x = x.data, c.x_stride = n + 8,
      c.y = y.data, c.y_stride = n;
      if (kind == 1) c.norm.kind = NormKind::layer, c.bias = b.data;
      if (kind == 2)
        c.add = add.data, c.add_stride = n, c.add_scale = 0.5f, c.sum = sum.data, c.sum_stride = n,
        c.norm.weight_offset = 1.0f;
      CU(cudaDeviceSynchronize());
      norm(c, stream);
      CU(cudaStreamSynchronize(stream));
      const auto hx = wide(x), ha = wide(add), hw = wide(w), hb = wide(b);
      std::vector<double> want(rows * n), want_sum(rows * n);
      for (int64_t r = 0; r < rows; ++r) {
        std::vector<double> v(n);
        double mean = 0, squares = 0;
        for (int64_t i = 0; i < n; ++i) {
          v[i] = hx[r * (n + 8) + i];
          if (kind == 2) {
            want_sum[r * n + i] = v[i] + 0.5 * ha[r * n + i];
            v[i] = static_cast<double>(static_cast<float>(T(static_cast<float>(want_sum[r * n + i]))));
          }
          mean += v[i];
        }
        mean = kind == 1 ? mean / n : 0;
        for (double d : v) squares += (d - mean) * (d - mean);
        const double f = 1 / std::sqrt(squares / n + c.norm.eps);
        for (int64_t i = 0; i < n; ++i)
          want[r * n + i] = (v[i] - mean) * f * (hw[i] + c.norm.weight_offset) + (kind == 1 ? hb[i] : 0);
      }
      compare_host(kind == 0 ? "norm rms" : kind == 1 ? "norm layer" : "norm sum rms", y, want, unit);
      if (kind == 2) compare_host("norm's sum", sum, want_sum, unit);
    }
  }
  const int64_t m = 33, inner = 1024;
  Buffer<T> x(m * 2 * inner), y(m * inner), h(m * inner);
  normal(x.data, x.count, 2.0f), normal(h.data, h.count);
  const auto hx = wide(x), hh = wide(h);
  CU(cudaDeviceSynchronize());
  gate_activate(dtype_of<T>(), Activation::silu, x, 2 * inner, m, inner, y, inner, stream);
  CU(cudaStreamSynchronize(stream));
  std::vector<double> want(m * inner);
  for (int64_t r = 0; r < m; ++r) {
    for (int64_t i = 0; i < inner; ++i) {
      const double g = hx[r * 2 * inner + i / 8 * 16 + i % 8], u = hx[r * 2 * inner + i / 8 * 16 + 8 + i % 8];
      want[r * inner + i] = g / (1 + std::exp(-g)) * u;
    }
  }
  compare_host("gate_activate", y, want, unit);
  add_scaled(dtype_of<T>(), h, inner, x, 2 * inner, 0.25f, m, inner, stream);
  CU(cudaStreamSynchronize(stream));
  for (int64_t r = 0; r < m; ++r) {
    for (int64_t i = 0; i < inner; ++i) want[r * inner + i] = hh[r * inner + i] + 0.25 * hx[r * 2 * inner + i];
  }
  compare_host("add_scaled", h, want, unit);
  const auto before = wide(y);
  activate(dtype_of<T>(), Activation::gelu_tanh, y, inner, m, inner, stream);
  CU(cudaStreamSynchronize(stream));
  for (size_t i = 0; i < want.size(); ++i) {
    const double v = before[i];
    want[i] = 0.5 * v * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
  }
  compare_host("activate gelu_tanh", y, want, unit);

  const int64_t vocab = 1000, hidden = 576;
  Buffer<T> table(vocab * hidden), out(5 * hidden);
  Buffer<int32_t> ids(5);
  ids.set({3, 999, -1, 1000, 3});
  normal(table.data, table.count);
  const auto ht = wide(table);
  CU(cudaDeviceSynchronize());
  embed(dtype_of<T>(), table, vocab, hidden, 2.0f, ids, 5, out, hidden, stream);
  CU(cudaStreamSynchronize(stream));
  std::vector<double> rows_wanted(5 * hidden, 0.0);
  for (int r : {0, 1, 4}) {
    for (int64_t i = 0; i < hidden; ++i) rows_wanted[r * hidden + i] = 2 * ht[(r == 1 ? 999 : 3) * hidden + i];
  }
  compare_host("embed", out, rows_wanted, unit);
}

// ------------------------------------------------------------------------------------------------------- sampling
double philox(uint64_t seed, uint32_t position) {
  uint32_t c[4] = {position, 0, 0, 0}, k[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  for (int i = 0; i < 10; ++i) {
    const uint64_t a = 0xD2511F53ull * c[0], b = 0xCD9E8D57ull * c[2];
    const uint32_t next[4] = {static_cast<uint32_t>(b >> 32) ^ c[1] ^ k[0], static_cast<uint32_t>(b),
                              static_cast<uint32_t>(a >> 32) ^ c[3] ^ k[1], static_cast<uint32_t>(a)};
    std::memcpy(c, next, sizeof c);
    k[0] += 0x9E3779B9u, k[1] += 0xBB67AE85u;
  }
  return ((static_cast<double>(c[0]) * 1048576.0 + (c[1] >> 12)) + 0.5) / 4503599627370496.0;
}
// docs/sampling.md, written to be read: sorts.
int reference_draw(std::vector<float> x, const SampleRow& p, double& margin) {
  const int n = static_cast<int>(x.size());
  margin = 1;
  float best = -INFINITY;
  for (float v : x) best = std::max(best, v);
  if (!(best > -INFINITY)) return kSampleNoToken;
  if (p.temperature == 0) return static_cast<int>(std::find(x.begin(), x.end(), best) - x.begin());
  if (p.top_k > 0 && p.top_k < n) {
    std::vector<float> sorted = x;
    std::sort(sorted.begin(), sorted.end(), std::greater<float>());
    const float v = sorted[p.top_k - 1];
    for (float& f : x)
      if (f < v) f = -INFINITY;
  }
  std::vector<double> w(n);
  double total = 0;
  for (int i = 0; i < n; ++i)
    total += w[i] = x[i] == -INFINITY ? 0 : std::exp((double(x[i]) - best) / double(p.temperature));
  if (p.top_p < 1) {
    std::vector<int> order(n);
    for (int i = 0; i < n; ++i) order[i] = i;
    std::sort(order.begin(), order.end(), [&](int a, int b) { return x[a] > x[b]; });
    double ahead = 0;
    float last = best;
    for (int i = 0; i < n;) {
      int j = i;
      double mass = 0;
      while (j < n && x[order[j]] == x[order[i]]) mass += w[order[j++]];
      margin = std::min(margin, std::fabs(ahead - p.top_p * total) / total);
      if (ahead < double(p.top_p) * total) last = x[order[i]];
      ahead += mass, i = j;
    }
    for (int i = 0; i < n; ++i)
      if (x[i] < last) w[i] = 0;
  }
  for (double& v : w) {
    if (p.min_p > 0 && v > 0) margin = std::min(margin, std::fabs(v - p.min_p));
    if (v < double(p.min_p)) v = 0;
  }
  double kept = 0;
  for (double v : w) kept += v;
  const double target = philox(p.seed, p.position) * kept;
  double sum = 0;
  int chosen = -1;
  for (int i = 0; i < n; ++i) {
    sum += w[i];
    margin = std::min(margin, std::fabs(sum - target) / kept * 1e3);
    if (sum > target && chosen < 0) chosen = i;
  }
  return chosen;
}

// Rows of every kind that draw() tells apart: lists that fit, lists that don't (ties, flat rows, likely tokens side by
// side), nothing cut, and numbers that aren't finite.
void check_draws(int vocab) {
  const int n = 64;
  Buffer<float> logits(static_cast<int64_t>(n) * vocab);
  normal(logits.data, logits.count, 2.5f);
  std::vector<SampleRow> rows(n);
  const int ranks[] = {0, 1, 40, 0, 896, 897, 800, 5000, 3, 0};
  const double masses[] = {1.0, 0.9, 0.5, 0.0, 0.99, 1.0, 0.9999};
  std::vector<float> host = logits.host();
  for (int i = 0; i < n; ++i) {
    rows[i].temperature = i % 11 == 0 ? 0.0 : 0.2 + 0.15 * (i % 9);
    rows[i].top_k = ranks[i % 10];
    rows[i].top_p = masses[i % 7];
    rows[i].min_p = i % 5 == 3 ? 0.02 : 0.0;
    rows[i].seed = 0x9876543210ull * (i + 1), rows[i].position = i * 5;
    float* x = host.data() + static_cast<int64_t>(i) * vocab;
    const int kind = i / 10;
    for (int j = 0; j < vocab; ++j) {
      if (kind == 1) x[j] *= 4;                            // few likely tokens
      if (kind == 2) x[j] = std::round(x[j]);              // ties
      if (kind == 3) x[j] = j % 100 == 7 ? x[j] : -INFINITY;  // with a slot alone: see below
      if (kind == 4) x[j] = -1e-4f * j + (j < 900 ? 3.0f : 0.0f);  // likely tokens side by side
      if (kind == 5) x[j] = 0.25f;
    }
  }
  // Rows with -inf come out of process_logits(): they have a slot.
  std::vector<float> processed(static_cast<int64_t>(10) * vocab);
  for (int i = 30; i < 40; ++i) {
    rows[i].slot = 39 - i;
    std::copy_n(host.begin() + static_cast<int64_t>(i) * vocab, vocab,
                processed.begin() + static_cast<int64_t>(rows[i].slot) * vocab);
  }
  std::fill_n(processed.begin() + static_cast<int64_t>(rows[31].slot) * vocab, vocab, -INFINITY);
  std::fill_n(host.begin() + int64_t{31} * vocab, vocab, -INFINITY);
  host[int64_t{60} * vocab + vocab / 2] = NAN, host[int64_t{61} * vocab + vocab - 1] = -INFINITY;
  logits.set(host);
  Buffer<float> d_processed(processed.size());
  d_processed.set(processed);
  Buffer<char> d_rows(n * sizeof(SampleRow)), space(sample_workspace_bytes(n, vocab));
  CU(cudaMemcpy(d_rows.data, rows.data(), n * sizeof(SampleRow), cudaMemcpyHostToDevice));
  Buffer<int32_t> error(n), token(n);
  error.zero();
  std::vector<int32_t> skipped(n, 0);
  skipped[62] = kSampleSkipped;
  error.set(skipped);
  draw(logits, vocab, d_processed, n, vocab, reinterpret_cast<SampleRow*>(d_rows.data), error, token, space, stream);
  CU(cudaStreamSynchronize(stream));
  const auto got = token.host();
  const auto errors = error.host();
  int wrong = 0, near_edge = 0;
  for (int i = 0; i < n; ++i) {
    double margin = 1;
    const auto begin = host.begin() + static_cast<int64_t>(i) * vocab;
    const int want = i == 60 || i == 61 ? kSampleNonfinite
                     : i == 62          ? kSampleSkipped
                                        : reference_draw(std::vector<float>(begin, begin + vocab), rows[i], margin);
    if (margin < 1e-9) {
      ++near_edge;
    } else if (got[i] != want || (want < 0 && errors[i] != want)) {
      ++wrong;
      std::printf("draw of %d, row %d (top_k %d, top_p %g): %d, wanted %d (margin %g)\n", vocab, i, rows[i].top_k,
                  rows[i].top_p, got[i], want, margin);
    }
  }
  std::printf("%-4s draw of %d: %d rows, %d wrong, %d on an edge\n", wrong ? "FAIL" : "ok", vocab, n, wrong, near_edge);
  failures() += wrong;
}

void check_sampling() {
  const int vocab = 50257, n = 24;
  Buffer<float> logits(n * vocab);
  normal(logits.data, logits.count, 2.5f);
  std::vector<SampleRow> rows(n);
  for (int i = 0; i < n; ++i) {
    rows[i].temperature = i % 6 == 0 ? 0.0f : 0.3f + 0.2f * (i % 7);
    rows[i].top_k = i % 4 == 1 ? 40 : i % 8 == 3 ? 5 : 0;
    rows[i].top_p = i % 3 == 1 ? 0.9f : i % 5 == 2 ? 0.3f : 1.0f;
    rows[i].min_p = i % 7 == 3 ? 0.02f : 0.0f;
    rows[i].seed = 0x123456789abcull * (i + 1), rows[i].position = i * 3;
  }
  std::vector<float> host = logits.host();
  for (int i = 0; i < vocab; ++i) host[5 * vocab + i] = std::round(host[5 * vocab + i]);  // ties
  logits.set(host);
  Buffer<char> d_rows(n * sizeof(SampleRow)), space(sample_workspace_bytes(n, vocab));
  CU(cudaMemcpy(d_rows.data, rows.data(), n * sizeof(SampleRow), cudaMemcpyHostToDevice));
  Buffer<int32_t> error(n), token(n);
  error.zero();
  const auto* r = reinterpret_cast<SampleRow*>(d_rows.data);
  draw(logits, vocab, nullptr, n, vocab, r, error, token, space, stream);
  CU(cudaStreamSynchronize(stream));
  const auto got = token.host();
  int wrong = 0, near_edge = 0;
  for (int i = 0; i < n; ++i) {
    double margin = 0;
    const int want =
        reference_draw(std::vector<float>(host.begin() + i * vocab, host.begin() + (i + 1) * vocab), rows[i], margin);
    if (margin < 1e-9)
      ++near_edge;
    else if (got[i] != want)
      ++wrong, std::printf("draw row %d: %d, wanted %d (margin %g)\n", i, got[i], want, margin);
  }
  std::printf("%-4s draw: %d rows, %d wrong, %d on an edge\n", wrong ? "FAIL" : "ok", n, wrong, near_edge);
  failures() += wrong;

  host[3 * vocab + 77] = NAN, host[4 * vocab + 8] = INFINITY;
  logits.set(host);
  argmax(logits, vocab, n, vocab, token, space, stream);
  CU(cudaStreamSynchronize(stream));
  const auto best = token.host();
  wrong = 0;
  for (int i = 0; i < n; ++i) {
    const auto begin = host.begin() + i * vocab;
    int want = static_cast<int>(std::max_element(begin, begin + vocab) - begin);
    if (i == 3 || i == 4) want = kSampleNonfinite;
    wrong += best[i] != want;
  }
  std::printf("%-4s argmax: %d wrong\n", wrong ? "FAIL" : "ok", wrong);
  failures() += wrong;

  // steps 0 to 5, against a plain loop in float32
  normal(logits.data, logits.count, 2.5f);
  host = logits.host();
  std::vector<uint32_t> counts(n * vocab), masks(2 * ((vocab + 31) / 32));
  for (int i = 0; i < n * vocab; ++i) counts[i] = i % 5 == 0 ? 0x80000000u | (i % 3) : i % 11 == 0 ? i % 4 : 0;
  for (size_t i = 0; i < masks.size(); ++i) masks[i] = static_cast<uint32_t>(i * 2654435761u);
  const std::vector<int32_t> bias_id = {1, 5, 50256}, ban_id = {9, 10, -4, 60000};
  const std::vector<float> bias_value = {3.5f, -100.0f, 0.1f};
  for (int i = 0; i < n; ++i) {
    rows[i].repetition = i % 2 ? 1.3f : 1.0f, rows[i].frequency = i % 3 ? 0.7f : 0.0f,
    rows[i].presence = i % 5 ? 0.2f : 0.0f;
    rows[i].slot = i % 4 == 3 ? -1 : n - 1 - i, rows[i].mask_slot = i % 3 == 2 ? i % 2 : -1;
    rows[i].bias_begin = i % 2, rows[i].bias_end = 3, rows[i].bias_values = i % 2, rows[i].ban_begin = 0, rows[i].ban_end = i % 5;
  }
  host[6 * vocab + 4] = -INFINITY;
  logits.set(host);
  CU(cudaMemcpy(d_rows.data, rows.data(), n * sizeof(SampleRow), cudaMemcpyHostToDevice));
  Buffer<uint32_t> d_counts(counts.size()), d_masks(masks.size());
  Buffer<int32_t> d_bias(3), d_ban(4);
  Buffer<float> d_value(3);
  d_counts.set(counts), d_masks.set(masks), d_bias.set(bias_id), d_ban.set(ban_id), d_value.set(bias_value);
  SampleLists lists;
  lists.bias_id = d_bias, lists.bias_value = d_value, lists.ban_id = d_ban, lists.counts = d_counts,
  lists.masks = d_masks;
  Buffer<float> d_processed(n * vocab);
  process_logits(logits, vocab, n, vocab, r, lists, d_processed, error, stream);
  CU(cudaStreamSynchronize(stream));
  const auto processed = d_processed.host();
  wrong = std::memcmp(logits.host().data(), host.data(), host.size() * 4) != 0;  // the raw ones stay
  const auto errors = error.host();
  wrong += errors[6] != kSampleNonfinite;
  for (int i = 0; i < n; ++i) {
    if (i == 6) continue;
    wrong += errors[i] != 0;
    if (rows[i].slot < 0) continue;
    std::vector<float> x(host.begin() + i * vocab, host.begin() + (i + 1) * vocab);
    const SampleRow& p = rows[i];
    for (int j = p.bias_begin; j < p.bias_end; ++j) x[bias_id[j]] += bias_value[j];
    for (int j = 0; j < vocab; ++j) {
      const uint32_t c = counts[p.slot * vocab + j];
      if (c != 0 && p.repetition != 1.0f) x[j] = x[j] > 0 ? x[j] / p.repetition : x[j] * p.repetition;
      if ((c & 0x7fffffffu) != 0) {
        volatile float product = static_cast<float>(c & 0x7fffffffu) * p.frequency;
        x[j] = x[j] - product;
        x[j] = x[j] - p.presence;
      }
    }
    for (int j = 0; j < p.ban_end; ++j)
      if (ban_id[j] >= 0 && ban_id[j] < vocab) x[ban_id[j]] = -INFINITY;
    for (int j = 0; p.mask_slot >= 0 && j < vocab; ++j) {
      if ((masks[p.mask_slot * ((vocab + 31) / 32) + j / 32] >> (j % 32) & 1) == 0) x[j] = -INFINITY;
    }
    for (int j = 0; j < vocab; ++j) wrong += std::memcmp(&x[j], &processed[p.slot * vocab + j], 4) != 0;
  }
  std::printf("%-4s process_logits: %d values differ\n", wrong ? "FAIL" : "ok", wrong);
  failures() += wrong;

  logits.set(host);
  Buffer<char> d_found(n * sizeof(SampleLogprobs));
  std::vector<int32_t> chosen(n);
  for (int i = 0; i < n; ++i) chosen[i] = i == 2 ? -1 : (i * 7919) % vocab;
  for (int i = 0; i < n; ++i) rows[i].logprobs = i == 5 ? -1 : i % 21;
  CU(cudaMemcpy(d_rows.data, rows.data(), n * sizeof(SampleRow), cudaMemcpyHostToDevice));
  token.set(chosen);
  auto* d_logprobs = reinterpret_cast<SampleLogprobs*>(d_found.data);
  token_logprobs(logits, vocab, n, vocab, r, token, d_logprobs, stream);
  CU(cudaStreamSynchronize(stream));
  std::vector<SampleLogprobs> found(n);
  CU(cudaMemcpy(found.data(), d_found.data, n * sizeof(SampleLogprobs), cudaMemcpyDeviceToHost));
  wrong = 0;
  for (int i = 0; i < n; ++i) {
    if (i == 2 || i == 5) {
      wrong += found[i].token != -1;
      continue;
    }
    if (i == 6) continue;  // it has an infinite logit
    const float* x = host.data() + i * vocab;
    const double top = *std::max_element(x, x + vocab);
    double sum = 0;
    int place = 1;
    for (int j = 0; j < vocab; ++j)
      sum += std::exp(x[j] - top), place += x[j] > x[chosen[i]] || (x[j] == x[chosen[i]] && j < chosen[i]);
    wrong += std::fabs(found[i].logprob - (x[chosen[i]] - top - std::log(sum))) > 1e-9 || found[i].rank != place;
    std::vector<int> order(vocab);
    for (int j = 0; j < vocab; ++j) order[j] = j;
    std::partial_sort(order.begin(), order.begin() + 20, order.end(),
                      [&](int a, int b) { return x[a] != x[b] ? x[a] > x[b] : a < b; });
    for (int k = 0; k < i % 21; ++k) {
      wrong += found[i].top_ids[k] != order[k] ||
               std::fabs(found[i].top[k] - (x[order[k]] - top - std::log(sum))) > 1e-9;
    }
  }
  std::printf("%-4s token_logprobs: %d wrong\n", wrong ? "FAIL" : "ok", wrong);
  failures() += wrong;
}

void times() {
  using T = __nv_bfloat16;
  const int vocab = 128256;
  for (int n : {1, 16, 64, 256}) {
    Buffer<float> logits(static_cast<int64_t>(n) * vocab);
    normal(logits.data, logits.count, 2.5f);
    std::vector<SampleRow> rows(n);
    for (int i = 0; i < n; ++i) rows[i].seed = i, rows[i].temperature = 0.8f;
    Buffer<char> d_rows(n * sizeof(SampleRow)), space(sample_workspace_bytes(n, vocab));
    Buffer<int32_t> error(n), token(n);
    error.zero();
    const auto* r = reinterpret_cast<SampleRow*>(d_rows.data);
    CU(cudaMemcpy(d_rows.data, rows.data(), n * sizeof(SampleRow), cudaMemcpyHostToDevice));
    std::printf("n %d: argmax %.1f us", n,
                time_us(stream, 16, [&](int) { argmax(logits, vocab, n, vocab, token, space, stream); }));
    std::printf(", draw %.1f us",
                time_us(stream, 4, [&](int) { draw(logits, vocab, nullptr, n, vocab, r, error, token, space, stream); }));
    for (auto& v : rows) v.top_k = 40;
    CU(cudaMemcpy(d_rows.data, rows.data(), n * sizeof(SampleRow), cudaMemcpyHostToDevice));
    std::printf(", with top_k %.1f us",
                time_us(stream, 4, [&](int) { draw(logits, vocab, nullptr, n, vocab, r, error, token, space, stream); }));
    for (auto& v : rows) v.top_k = 0, v.top_p = 0.9, v.temperature = 0.4;
    CU(cudaMemcpy(d_rows.data, rows.data(), n * sizeof(SampleRow), cudaMemcpyHostToDevice));
    std::printf(", with top_p %.1f us",
                time_us(stream, 4, [&](int) { draw(logits, vocab, nullptr, n, vocab, r, error, token, space, stream); }));
    for (auto& v : rows) v.temperature = 1.5;
    CU(cudaMemcpy(d_rows.data, rows.data(), n * sizeof(SampleRow), cudaMemcpyHostToDevice));
    std::printf(", with top_p of a flat row %.1f us",
                time_us(stream, 4, [&](int) { draw(logits, vocab, nullptr, n, vocab, r, error, token, space, stream); }));
    for (auto& v : rows) v.top_k = 40, v.top_p = 0.9f, v.temperature = 0.8;
    CU(cudaMemcpy(d_rows.data, rows.data(), n * sizeof(SampleRow), cudaMemcpyHostToDevice));
    std::printf(", with top_k and top_p %.1f us",
                time_us(stream, 4, [&](int) { draw(logits, vocab, nullptr, n, vocab, r, error, token, space, stream); }));
    std::printf(", process %.1f us", time_us(stream, 4, [&](int) {
                  process_logits(logits, vocab, n, vocab, r, SampleLists(), nullptr, error, stream);
                }));
    Buffer<T> x(n * 4096), y(n * 4096), w(4096), wide_x(n * 28672), inner(n * 14336);
    normal(x.data, x.count), normal(w.data, w.count), normal(wide_x.data, wide_x.count);
    NormCall c;
    c.weight = w.data, c.rows = n, c.n = 4096, c.x = x.data, c.x_stride = 4096, c.y = y.data, c.y_stride = 4096;
    std::printf(", norm 4096 %.2f us", time_us(stream, 64, [&](int) { norm(c, stream); }));
    std::printf(", gate_activate 14336 %.2f us\n", time_us(stream, 64, [&](int) {
                  gate_activate(DType::bf16, Activation::silu, wide_x, 28672, n, 14336, inner, 14336, stream);
                }));
  }
}

}  // namespace

int main(int argc, char** argv) {
  return program(argc, argv, "all", &stream, [](const std::string& mode) {
    if (mode != "time") {
      check_elementwise<__nv_bfloat16>();
      check_elementwise<__half>();
      check_sampling();
      for (const int vocab : {1, 16, 1000, 50257, 128256, 151936}) check_draws(vocab);
      std::printf("%d failures\n", failures());
    }
    if (mode != "check") times();
  });
}
