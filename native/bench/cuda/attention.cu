// Decode attention, rotation and KV store: checks against float64, then times. Usage: attention [check|time|all|small]
#include "attention_reference.cuh"

using namespace bench;

namespace {

cudaStream_t stream;

template <class T>
void check_decode(KvType type, int D, int heads, int kv_heads, int block_len, int window, float softcap, bool sinks,
                  int splits) {
  if (!mine()) return;
  const std::vector<int32_t> lengths = {1, 17, 64, 333, 1500, 4099};
  Pool pool(type, 2, lengths, block_len, kv_heads, D);
  const int n = 7;
  const std::vector<int32_t> rows = {3, 0, -1, 5, 4, 2, 1};
  std::vector<int32_t> index;
  for (int r : rows) index.push_back(r < 0 ? 12345 : lengths[r] - 1);
  Buffer<int32_t> row(n), idx(n);
  row.set(rows), idx.set(index);
  const int64_t stride = heads * D + 16;
  Buffer<T> q(n * stride), out(n * heads * D);
  normal(q.data, q.count, 1.5f);
  Buffer<float> sink(heads);
  normal(sink.data, heads, 2.0f);
  AttentionCall c;
  c.dtype = dtype_of<T>(), c.heads = heads, c.scale = 1.0f / std::sqrt(static_cast<float>(D)), c.window = window;
  c.softcap = softcap, c.sinks = sinks ? sink.data : nullptr;
  c.q = q.data, c.q_stride = stride, c.out = out.data, c.out_stride = heads * D;
  Buffer<char> workspace(attention_decode_workspace_bytes(n, heads, kv_heads, D, splits));
  CU(cudaMemset(workspace.data, 0, 65536));
  const KvView kv = pool.view(1);
  for (int repeat = 0; repeat < 2; ++repeat) {
    out.poison();
    CU(cudaDeviceSynchronize());
    attention_decode(c, kv, n, row, idx, splits, workspace, stream);
  }
  CU(cudaStreamSynchronize(stream));
  Buffer<double> scores(n * heads * 4100ll), ref(n * heads * D);
  reference_attention<T><<<dim3(n, heads), 128>>>(c, kv_args("ref", kv), type, D, row, idx, scores, 4100, ref);
  char what[160];
  std::snprintf(what, sizeof what, "decode %s kv %s D%d heads %d/%d block %d%s%s%s splits %d",
                dtype_of<T>() == DType::f16 ? "f16" : "bf16", type_name(type), D, heads, kv_heads, block_len,
                window ? " window" : "", softcap > 0 ? " softcap" : "", sinks ? " sinks" : "", splits);
  compare(what, out, ref, tolerance<T>());
}

template <class T>
__global__ void reference_rope(RopeCall c, const T* q, const T* k, const T* v, int heads, int kv_heads, int D,
                               double* out) {
  const int64_t t = blockIdx.x;
  const int unit = blockIdx.y;  // heads, then K, then V
  const bool value = unit >= heads + kv_heads;
  const T* x = unit < heads ? q + t * c.q_stride + unit * D
                            : (value ? v + (unit - heads - kv_heads) * D : k + (unit - heads) * D) + t * c.kv_stride;
  const T* w = static_cast<const T*>(unit < heads ? c.q_norm : value ? nullptr : c.k_norm);
  double squares = 0;
  for (int d = 0; d < D; ++d) squares += double(Num<T>::to_float(x[d])) * Num<T>::to_float(x[d]);
  const double factor = rsqrt(squares / D + c.norm_eps);
  const auto at = [&](int d) {
    double f = Num<T>::to_float(x[d]);
    if (w != nullptr) f *= factor * (Num<T>::to_float(w[d]) + double(c.norm_offset));
    if (unit < heads && c.logn_trained_len > 1)
      f *= fmax(1.0, log(c.position[t] + 1.0) / log(double(c.logn_trained_len)));
    return f;
  };
  for (int d = threadIdx.x; d < D; d += 32) {
    double f = at(d);
    if (!value && d < 2 * c.half) {
      const int i = c.interleaved ? d / 2 : d % c.half;
      const float angle = static_cast<float>(c.position[t]) * c.inv_freq[i];
      const double co = cos(double(angle)) * c.attention_factor, si = sin(double(angle)) * c.attention_factor;
      const bool second = c.interleaved ? d % 2 == 1 : d >= c.half;
      const int partner = c.interleaved ? d ^ 1 : second ? d - c.half : d + c.half;
      f = second ? f * co + at(partner) * si : f * co - at(partner) * si;
    }
    out[(t * (heads + 2 * kv_heads) + unit) * D + d] = f;
  }
}
// x [D] through kernels.h's M, by its definition.
void mix(double* x, int D) {
  const int b = D & -D, m = D / b;
  std::vector<double> y(D, 0.0);
  for (int i = 0; i < D; ++i) {
    for (int j = 0; j < D; ++j) {
      const double across = m == 1 ? 1.0 : (i / b == j / b) - 2.0 / m;
      y[i] += across * (__builtin_popcount(i % b & j % b) % 2 != 0 ? -1.0 : 1.0) / std::sqrt(static_cast<double>(b)) * x[j];
    }
  }
  std::copy(y.begin(), y.end(), x);
}
// What the cache holds of each token, and the allowed distance from the truth.
__global__ void read_back(KvArgs kv, KvType type, int heads, int D, const int32_t* row, const int32_t* index,
                          const double* truth, double* worst_ratio) {
  const int64_t t = blockIdx.x;
  const int unit = blockIdx.y, kv_heads = kv.kv_heads;
  if (row[t] < 0) return;
  const bool value = unit >= kv_heads;
  const char* part = kv_part(kv, row[t], unit % kv_heads, index[t]);
  const int place = index[t] % kv.block_len;
  const bool plain = type == KvType::f16 || type == KvType::bf16, fp8 = type == KvType::fp8;
  double scale = 0;
  if (!plain && !fp8)
    scale = __half2float(
        *reinterpret_cast<const __half*>(part + (value ? kv.v_params_offset : kv.k_params_offset) + place * 4));
  double worst = 0;
  for (int d = 0; d < D; ++d) {
    const double x = truth[(t * (heads + 2 * kv_heads) + heads + unit) * D + d];
    const double got = cache_value(kv, type, part, place, d, value, false);
    const double allowed = plain ? fabs(x) / (type == KvType::f16 ? 1900 : 240) + 1e-5
                           : fp8 ? fabs(x) / 15 + 1.5e-3  // 3 bits of mantissa; 2^-9 is the least number
                                 : 0.51 * scale + 3e-3 * fabs(x) + 2e-3;
    const double ratio = fabs(got - x) / allowed;
    worst = !(ratio <= 1e30) ? 1e30 : fmax(worst, ratio);
  }
  worst_ratio[t * 2 * kv_heads + unit] = worst;
}
template <class T>
void check_rope(KvType type, int D, int half, bool interleaved, bool norms, int logn) {
  if (!mine()) return;
  const int heads = 8, kv_heads = 2, tokens = 300;
  Pool pool(type, 2, {200, 170}, 16, kv_heads, D, false);
  std::vector<int32_t> rows, index, position;
  for (int t = 0; t < tokens; ++t) {
    rows.push_back(t == 7 ? -1 : t % 2), index.push_back(t / 2), position.push_back(t / 2 + (t % 3) * 4000);
  }
  Buffer<int32_t> row(tokens), idx(tokens), pos(tokens);
  row.set(rows), idx.set(index), pos.set(position);
  const int64_t stride = (heads + 2 * kv_heads) * D;
  Buffer<T> qkv(tokens * stride), before(tokens * stride), w(2 * D);
  normal(qkv.data, qkv.count, 2.0f);
  normal(w.data, w.count, 0.2f, 1.0f);
  CU(cudaMemcpy(before.data, qkv.data, qkv.count * 2, cudaMemcpyDeviceToDevice));
  std::vector<float> f;
  for (int i = 0; i < half; ++i) f.push_back(std::pow(10000.0f, -static_cast<float>(i) / std::max(half, 1)));
  Buffer<float> inv(half);
  if (half > 0) inv.set(f);
  RopeCall c;
  c.dtype = dtype_of<T>(), c.tokens = tokens, c.q = qkv.data, c.q_stride = stride, c.k = qkv.data + heads * D;
  c.v = qkv.data + (heads + kv_heads) * D, c.kv_stride = stride, c.heads = heads, c.row = row, c.index = idx,
  c.position = pos;
  c.inv_freq = inv, c.half = half, c.attention_factor = 1.1f, c.interleaved = interleaved, c.logn_trained_len = logn;
  if (norms) c.q_norm = w.data, c.k_norm = w.data + D;
  c.keep_k = D != 256;
  CU(cudaDeviceSynchronize());
  rope_store(c, pool.view(1), stream);
  CU(cudaStreamSynchronize(stream));
  Buffer<double> truth(tokens * stride), ratio(tokens * 2 * kv_heads);
  ratio.zero();
  const T* b = before.data;
  reference_rope<T><<<dim3(tokens, heads + 2 * kv_heads), 32>>>(c, b, b + heads * D, b + (heads + kv_heads) * D, heads,
                                                                kv_heads, D, truth);
  CU(cudaDeviceSynchronize());
  std::vector<double> t = truth.host();
  if (mixes_keys(type)) {
    for (int i = 0; i < tokens; ++i) {
      for (int unit = 0; unit < heads + kv_heads; ++unit) mix(t.data() + i * stride + unit * D, D);
    }
    truth.set(t);
  }
  read_back<<<dim3(tokens, 2 * kv_heads), 1>>>(kv_args("ref", pool.view(1)), type, heads, D, row, idx, truth, ratio);
  CU(cudaDeviceSynchronize());
  double worst = 0;
  for (double r : ratio.host()) worst = std::max(worst, r);
  // q and the kept keys, but token 7's
  const std::vector<T> got = qkv.host(), old = before.host();
  double q_worst = 0;
  for (int i = 0; i < tokens; ++i) {
    for (int d = 0; d < (heads + kv_heads) * D; ++d) {
      const bool as_it_was = i == 7 || (d >= heads * D && !c.keep_k);
      const double x = as_it_was ? static_cast<double>(static_cast<float>(old[i * stride + d])) : t[i * stride + d];
      const double allowed =
          as_it_was ? 1e-12 : std::fabs(x) / (dtype_of<T>() == DType::f16 ? 1900 : 240) + (mixes_keys(type) ? 4e-5 : 1e-5);
      q_worst =
          std::max(q_worst, std::fabs(static_cast<double>(static_cast<float>(got[i * stride + d])) - x) / allowed);
    }
  }
  const bool ok = worst <= 1.0 && q_worst <= 1.0;
  if (!ok) ++failures();
  std::printf("%-4s rope_store %s kv %s D%d half %d%s%s%s: worst error over allowed: cache %.3f, q and k %.3f\n",
              ok ? "ok" : "FAIL", dtype_of<T>() == DType::f16 ? "f16" : "bf16", type_name(type), D, half,
              interleaved ? " interleaved" : "", norms ? " norms" : "", logn ? " logn" : "", worst, q_worst);
}

// A step's queries, keys and values of n rows, and how they are rotated.
template <class T>
struct Step {
  int n, heads, kv_heads, D;
  Buffer<int32_t> row, index, position;
  Buffer<T> qkv, weights;
  Buffer<float> inv_freq;
  RopeCall rope;
  AttentionCall call;
  Step(const std::vector<int32_t>& rows, const std::vector<int32_t>& indices, int heads_, int kv_heads_, int D_, int half)
      : n(static_cast<int>(rows.size())),
        heads(heads_),
        kv_heads(kv_heads_),
        D(D_),
        row(n),
        index(n),
        position(n),
        qkv(static_cast<int64_t>(n) * (heads + 2 * kv_heads) * D),
        weights(2 * D),
        inv_freq(half) {
    std::vector<int32_t> positions;
    for (int i = 0; i < n; ++i) positions.push_back(indices[i] + i % 3 * 1000);
    row.set(rows), index.set(indices), position.set(positions);
    normal(qkv.data, qkv.count, 1.5f);
    normal(weights.data, weights.count, 0.2f, 1.0f);
    std::vector<float> f;
    for (int i = 0; i < half; ++i) f.push_back(std::pow(10000.0f, -static_cast<float>(i) / half));
    if (half > 0) inv_freq.set(f);
    const int64_t stride = (heads + 2 * kv_heads) * D;
    rope.dtype = call.dtype = dtype_of<T>(), rope.tokens = n, rope.q = qkv.data, rope.q_stride = stride;
    rope.k = qkv.data + heads * D, rope.v = qkv.data + (heads + kv_heads) * D, rope.kv_stride = stride;
    rope.heads = call.heads = heads, rope.row = row, rope.index = index, rope.position = position;
    rope.inv_freq = inv_freq, rope.half = half;
    call.scale = 1.0f / std::sqrt(static_cast<float>(D)), call.q = qkv.data, call.q_stride = stride;
    call.out_stride = heads * D;
  }
};

// One kernel against two: the same bytes.
template <class T>
void check_rotating_decode(KvType type, int D, int heads, int kv_heads, int block_len, int window, int splits, int half,
                           bool interleaved, bool norms, int logn) {
  if (!mine()) return;
  const bool planned = splits == 0;
  const std::vector<int32_t> lengths = {1, 17, 64, 333, 1500, 16, 81};
  Pool pool(type, 2, lengths, block_len, kv_heads, D);
  const std::vector<int32_t> rows = {3, 0, -1, 4, 2, 1, 6, 5};
  std::vector<int32_t> index;
  for (int r : rows) index.push_back(r < 0 ? 12345 : lengths[r] - 1);
  Step<T> step(rows, index, heads, kv_heads, D, half);
  step.rope.interleaved = interleaved, step.rope.attention_factor = 1.1f, step.rope.logn_trained_len = logn;
  if (norms) step.rope.q_norm = step.weights.data, step.rope.k_norm = step.weights.data + D;
  step.call.window = window;
  Buffer<T> out(static_cast<int64_t>(step.n) * heads * D);
  Buffer<char> workspace(planned ? attention_planned_workspace_bytes(step.n, heads, kv_heads, D)
                                 : attention_decode_workspace_bytes(step.n, heads, kv_heads, D, splits));
  CU(cudaMemset(workspace.data, 0, 65536));
  Buffer<char> plan(attention_plan_bytes(step.n, heads, kv_heads));
  attention_plan(step.n, heads, kv_heads, step.row, step.index, reinterpret_cast<int32_t*>(plan.data), stream);
  const int32_t* cut = planned ? reinterpret_cast<const int32_t*>(plan.data) : nullptr;
  step.call.out = out.data;
  CU(cudaDeviceSynchronize());
  const std::vector<char> before = pool.data.host();
  rope_attention_decode(step.rope, step.call, pool.view(1), step.n, splits, cut, workspace, stream);
  CU(cudaStreamSynchronize(stream));
  const std::vector<char> one = pool.data.host();
  const std::vector<T> one_out = out.host();
  pool.data.set(before);
  out.poison();
  CU(cudaDeviceSynchronize());
  rope_store(step.rope, pool.view(1), stream);
  if (planned) {
    attention_decode_planned(step.call, pool.view(1), step.n, step.row, step.index, cut, workspace, stream);
  } else {
    attention_decode(step.call, pool.view(1), step.n, step.row, step.index, splits, workspace, stream);
  }
  CU(cudaStreamSynchronize(stream));
  const std::vector<char> two = pool.data.host();
  const std::vector<T> two_out = out.host();
  int64_t bytes = 0, values = 0, stored = 0;
  for (size_t i = 0; i < one.size(); ++i) bytes += one[i] != two[i], stored += one[i] != before[i];
  for (size_t i = 0; i < one_out.size(); ++i) values += std::memcmp(&one_out[i], &two_out[i], 2) != 0;
  const bool ok = bytes == 0 && values == 0 && stored > 0;
  if (!ok) ++failures();
  std::printf("%-4s rotating decode %s kv %s D%d heads %d/%d block %d half %d%s%s%s%s splits %d: %lld bytes stored, %lld "
              "differ, %lld outputs differ\n",
              ok ? "ok" : "FAIL", dtype_of<T>() == DType::f16 ? "f16" : "bf16", type_name(type), D, heads, kv_heads,
              block_len, half, interleaved ? " interleaved" : "", norms ? " norms" : "", logn ? " logn" : "",
              window ? " window" : "", splits, static_cast<long long>(stored), static_cast<long long>(bytes),
              static_cast<long long>(values));
}

template <class T>
void checks(bool small) {
  const KvType plain = dtype_of<T>() == DType::bf16 ? KvType::bf16 : KvType::f16;
  for (KvType type : {plain, KvType::int8, KvType::k8v4, KvType::int4, KvType::fp8}) {
    for (int D : {64, 80, 96, 128, 256}) {
      if (small && D != 80 && D != 128) continue;
      check_decode<T>(type, D, 8, 2, D == 80 ? 16 : 64, 0, 0.0f, false, D == 96 ? 1 : 7);
      check_rope<T>(type, D, D == 80 ? 20 : D / 2, D == 64, D == 128, D == 256 ? 1000 : 0);
    }
    for (int D : {64, 80, 96, 128, 256}) {
      check_rotating_decode<T>(type, D, 8, 2, D == 80 ? 16 : 64, 0, D == 96 ? 1 : 7, D == 80 ? 20 : D / 2, D == 64,
                               D == 128, D == 256 ? 1000 : 0);
    }
    check_rotating_decode<T>(type, 128, 32, 2, 48, 100, 3, 64, false, false, 0);
    check_rotating_decode<T>(type, 64, 3, 3, 16, 0, 1, 0, false, false, 0);
    check_rotating_decode<T>(type, 128, 8, 2, 64, 0, 0, 64, false, false, 0);
    check_decode<T>(type, 128, 32, 2, 32, 700, 0.0f, true, 5);
    check_decode<T>(type, 64, 3, 3, 16, 0, 20.0f, true, 64);
  }
}

// ----------------------------------------------------------------------------------------------------------- times
void time_decode(KvType type, int n, int context) {
  const int heads = 32, kv_heads = 8, D = 128;
  const int64_t layer_bytes = static_cast<int64_t>(n) * context * kv_head_bytes(type, 1, D) * kv_heads;
  const int layers = static_cast<int>(std::clamp<int64_t>((200ll << 20) / layer_bytes, 2, 32));
  Pool pool(type, layers, std::vector<int32_t>(n, context), 64, kv_heads, D);
  std::vector<int32_t> rows(n), index(n, context - 1);
  std::iota(rows.begin(), rows.end(), 0);
  Buffer<int32_t> row(n), idx(n);
  row.set(rows), idx.set(index);
  Buffer<__nv_bfloat16> q(n * heads * D), out(n * heads * D);
  normal(q.data, q.count);
  AttentionCall c;
  c.heads = heads, c.scale = 0.08838f, c.q = q.data, c.q_stride = heads * D, c.out = out.data, c.out_stride = heads * D;
  std::printf("decode kv %s n %d context %d (%.1f MB):", type_name(type), n, context, layer_bytes * 1e-6);
  const int tuned = attention_decode_splits(n, heads, kv_heads, context);
  std::vector<int> list = {tuned};
  for (int s : {1, 2, 4, 8, 16, 32, 64}) {
    if (s != tuned && s <= 4 * tuned && s * 4 >= tuned) list.push_back(s);
  }
  for (int splits : list) {
    Buffer<char> workspace(attention_decode_workspace_bytes(n, heads, kv_heads, D, splits));
    workspace.zero();
    const double us = time_us(stream, layers * std::max(1, 32 / layers), [&](int i) {
      attention_decode(c, pool.view(i % layers), n, row, idx, splits, workspace, stream);
    });
    std::printf("  %s%d: %.1f us %.2f TB/s", splits == tuned ? "*" : "s", splits, us, layer_bytes / us * 1e-6);
  }
  std::printf("\n");
}

// Rotation, store and attention of a layer: two kernels, then one; with a context of 0, rows as a chat server has them,
// by their number and by a plan.
void time_rotating(KvType type, int n, int context) {
  const int heads = 32, kv_heads = 8, D = 128;
  std::vector<int32_t> lengths(n, context), rows(n), index;
  std::mt19937 random(7);
  std::exponential_distribution<float> draw(1.0f / 300);
  for (int32_t& l : lengths) l = context > 0 ? context : 16 + static_cast<int32_t>(draw(random));
  for (int32_t l : lengths) index.push_back(l - 1);
  const int64_t tokens = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
  const int64_t layer_bytes = tokens * kv_head_bytes(type, 1, D) * kv_heads;
  const int layers = static_cast<int>(std::clamp<int64_t>((200ll << 20) / layer_bytes, 2, 32));
  Pool pool(type, layers, lengths, 64, kv_heads, D);
  std::iota(rows.begin(), rows.end(), 0);
  Step<__nv_bfloat16> step(rows, index, heads, kv_heads, D, 64);
  Buffer<__nv_bfloat16> out(static_cast<int64_t>(n) * heads * D);
  step.call.out = out.data;
  const int calls = layers * std::max(1, 32 / layers);
  Buffer<char> plan(attention_plan_bytes(n, heads, kv_heads));
  attention_plan(n, heads, kv_heads, step.row, step.index, reinterpret_cast<int32_t*>(plan.data), stream);
  CU(cudaStreamSynchronize(stream));
  for (const bool planned : {false, true}) {
    const int splits = attention_decode_splits(n, heads, kv_heads, *std::max_element(lengths.begin(), lengths.end()));
    Buffer<char> workspace(std::max(attention_planned_workspace_bytes(n, heads, kv_heads, D),
                                    attention_decode_workspace_bytes(n, heads, kv_heads, D, splits)));
    workspace.zero();
    const int32_t* cut = planned ? reinterpret_cast<const int32_t*>(plan.data) : nullptr;
    const auto attend = [&](int i) {
      if (planned) {
        attention_decode_planned(step.call, pool.view(i % layers), n, step.row, step.index, cut, workspace, stream);
      } else {
        attention_decode(step.call, pool.view(i % layers), n, step.row, step.index, splits, workspace, stream);
      }
    };
    const double alone = time_us(stream, calls, attend);
    const double two = time_us(stream, calls, [&](int i) {
      rope_store(step.rope, pool.view(i % layers), stream);
      attend(i);
    });
    const double one = time_us(stream, calls, [&](int i) {
      rope_attention_decode(step.rope, step.call, pool.view(i % layers), n, splits, cut, workspace, stream);
    });
    std::printf("rotating decode kv %s n %d context %d%s: attention alone %.1f us, two kernels %.1f us, one %.1f us, "
                "%.2f TB/s\n",
                type_name(type), n, context, planned ? " planned" : "", alone, two, one, layer_bytes / one * 1e-6);
  }
}

void times() {
  for (KvType type : {KvType::bf16, KvType::int8, KvType::k8v4, KvType::int4, KvType::fp8}) {
    for (auto [n, context] : {std::pair<int, int>{1, 256},
                              {1, 4096},
                              {4, 256},
                              {16, 256},
                              {64, 256},
                              {128, 330},
                              {256, 330},
                              {256, 0}}) {
      time_rotating(type, n, context);
    }
  }
  for (KvType type : {KvType::bf16, KvType::int8, KvType::k8v4, KvType::int4, KvType::fp8}) {
    for (auto [n, context] :
         {std::pair<int, int>{1, 256}, {1, 4096}, {1, 32768}, {16, 256}, {64, 256}, {64, 1024}, {256, 330}, {256, 400}}) {
      time_decode(type, n, context);
    }
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
    if (mode == "all" || mode == "time") times();
  });
}
