// Attention, rotation and KV store: checks against float64, then times. Usage: attention [check|time|all|small]
#include <ctime>
#include <numeric>
#include <random>

#include "bench.cuh"
#include "cuda/kernels/attention.cuh"

using namespace bench;

namespace {

cudaStream_t stream;

// ------------------------------------------------------------------------------------------------------ references
// Element d of K or V of a token, from the layout's definition.
__device__ double cache_value(const KvArgs& kv, KvType type, const char* part, int place, int d, bool value,
                              bool bf16) {
  const char* row =
      part + (value ? kv.v_offset + static_cast<int64_t>(place) * kv.v_row : static_cast<int64_t>(place) * kv.k_row);
  if (type == KvType::f16) return __half2float(reinterpret_cast<const __half*>(row)[d]);
  if (type == KvType::bf16) return __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(row)[d]);
  const __half* param =
      reinterpret_cast<const __half*>(part + (value ? kv.v_params_offset : kv.k_params_offset) + place * 4);
  const bool four = type == KvType::int4 || (type == KvType::k8v4 && value);
  const uint8_t byte = static_cast<uint8_t>(four ? row[d / 2] : row[d]);
  const int u = four ? (d % 2 ? byte >> 4 : byte & 15) : byte;
  return double(u) * __half2float(param[0]) + __half2float(param[1]);
}
// Random contents for tokens below length[i] of row i; everything else keeps its poison.
__global__ void fill_cache(KvArgs kv, KvType type, int D, const int32_t* length, uint64_t seed) {
  const int row = blockIdx.z, head = blockIdx.y, index = blockIdx.x;
  if (index >= length[row]) return;
  char* part = kv_part(kv, row, head, index);
  const int place = index % kv.block_len;
  const uint64_t base = ((row * 64ull + head) * 1000003ull + index) * 1024;
  for (int value = 0; value < 2; ++value) {
    char* p =
        part + (value ? kv.v_offset + static_cast<int64_t>(place) * kv.v_row : static_cast<int64_t>(place) * kv.k_row);
    const int bytes = value ? kv.v_row : kv.k_row;
    if (type == KvType::f16 || type == KvType::bf16) {
      for (int d = threadIdx.x; d < D; d += 32) {
        const float x = (uniform01(seed, base + value * 512 + d) - 0.5f) * 4.0f + (value ? 0.5f : 0.0f);
        if (type == KvType::f16)
          reinterpret_cast<__half*>(p)[d] = __float2half(x);
        else
          reinterpret_cast<__nv_bfloat16*>(p)[d] = __float2bfloat16(x);
      }
    } else {
      for (int d = threadIdx.x; d < bytes; d += 32) p[d] = static_cast<char>(mix(seed + base + value * 512 + d));
      const bool four = type == KvType::int4 || (type == KvType::k8v4 && value);
      if (threadIdx.x == 0) {
        const float scale = (0.5f + uniform01(seed, base + 900 + value)) * (four ? 0.25f : 0.015f);
        __half* param = reinterpret_cast<__half*>(part + (value ? kv.v_params_offset : kv.k_params_offset) + place * 4);
        param[0] = __float2half(scale);
        param[1] = __float2half(-scale * (four ? 7.0f : 120.0f) + uniform01(seed, base + 910 + value));
      }
    }
  }
}
// One query and head a block.
template <class T>
__global__ void reference_attention(AttentionCall c, KvArgs kv, KvType type, int D, const int32_t* row_of,
                                    const int32_t* index_of, double* scores, int64_t max_len, double* out) {
  const int64_t i = blockIdx.x;
  const int head = blockIdx.y, row = row_of[i], length = row < 0 ? 0 : index_of[i] + 1;
  __shared__ double shared[256];
  double* s = scores + (i * c.heads + head) * max_len;
  const T* q = static_cast<const T*>(c.q) + i * c.q_stride + head * D;
  const int kv_head = head / (c.heads / kv.kv_heads);
  const int oldest = c.window > 0 && length > c.window ? length - c.window : 0;
  if (row < 0) {
    for (int d = threadIdx.x; d < D; d += 128) out[(i * c.heads + head) * D + d] = 0;
    return;
  }
  double top = -1e300;
  for (int k = oldest + threadIdx.x; k < length; k += 128) {
    const char* part = kv_part(kv, row, kv_head, k);
    double sum = 0;
    for (int d = 0; d < D; ++d)
      sum += double(Num<T>::to_float(q[d])) * cache_value(kv, type, part, k % kv.block_len, d, false, false);
    sum *= c.scale;
    if (c.softcap > 0) sum = c.softcap * tanh(sum / c.softcap);
    s[k] = sum;
    top = fmax(top, sum);
  }
  shared[threadIdx.x] = top;
  __syncthreads();
  for (int k = 0; k < 128; ++k) top = fmax(top, shared[k]);
  if (c.sinks != nullptr) top = fmax(top, double(c.sinks[head]));
  double mass = 0;
  for (int k = oldest + threadIdx.x; k < length; k += 128) mass += s[k] = exp(s[k] - top);
  shared[128 + threadIdx.x] = mass;
  __syncthreads();
  mass = c.sinks != nullptr ? exp(c.sinks[head] - top) : 0;
  for (int k = 0; k < 128; ++k) mass += shared[128 + k];
  for (int d = threadIdx.x; d < D; d += 128) {
    double sum = 0;
    for (int k = oldest; k < length; ++k) {
      sum += s[k] * cache_value(kv, type, kv_part(kv, row, kv_head, k), k % kv.block_len, d, true, false);
    }
    out[(i * c.heads + head) * D + d] = sum / mass;
  }
}

const char* type_name(KvType t) {
  switch (t) {
    case KvType::f16:
      return "f16";
    case KvType::bf16:
      return "bf16";
    case KvType::int8:
      return "int8";
    case KvType::k8v4:
      return "k8v4";
    default:
      return "int4";
  }
}

// A pool of `layers` layers with shuffled blocks for rows of these lengths.
struct Pool {
  int layers, rows;
  std::vector<int32_t> lengths;
  int64_t head_bytes, layer_bytes, block_bytes, max_blocks, blocks;
  Buffer<char> data;
  Buffer<int32_t> table, length;
  KvType type;
  int block_len, kv_heads, D;
  static int64_t count(const std::vector<int32_t>& l, int block_len) {
    int64_t n = 0;
    for (int32_t v : l) n += (v + block_len - 1) / block_len;
    return n + 3;
  }
  static int64_t most(const std::vector<int32_t>& l, int block_len) {
    return (*std::max_element(l.begin(), l.end()) + block_len - 1) / block_len + 1;
  }
  Pool(KvType t, int layers_, std::vector<int32_t> l, int block_len_, int kv_heads_, int D_, bool fill = true)
      : layers(layers_),
        rows(static_cast<int>(l.size())),
        lengths(l),
        head_bytes(kv_head_bytes(t, block_len_, D_)),
        layer_bytes(head_bytes * kv_heads_),
        block_bytes((layer_bytes * layers_ + 15) / 16 * 16),
        max_blocks(most(l, block_len_)),
        blocks(count(l, block_len_)),
        data(blocks * block_bytes),
        table(static_cast<int64_t>(l.size()) * max_blocks),
        length(static_cast<int64_t>(l.size())),
        type(t),
        block_len(block_len_),
        kv_heads(kv_heads_),
        D(D_) {
    std::vector<int32_t> order(static_cast<size_t>(blocks)),
        entries(static_cast<size_t>(rows) * max_blocks, 0x7fffffff);
    std::iota(order.begin(), order.end(), 0);
    std::mt19937 random(static_cast<unsigned>(next_seed()));
    std::shuffle(order.begin(), order.end(), random);
    size_t next = 0;
    for (int r = 0; r < rows; ++r) {
      for (int b = 0; b < (lengths[r] + block_len - 1) / block_len; ++b) entries[r * max_blocks + b] = order[next++];
    }
    table.set(entries);
    length.set(lengths);
    if (!fill) return;
    for (int layer = 0; layer < layers; ++layer) {
      const KvArgs a = kv_args("bench", view(layer));
      const int most_tokens = *std::max_element(lengths.begin(), lengths.end());
      fill_cache<<<dim3(most_tokens, kv_heads, rows), 32>>>(a, type, D, length, next_seed());
    }
    CU(cudaDeviceSynchronize());
  }
  KvView view(int layer) const {
    KvView v;
    v.base = data.data, v.block_bytes = block_bytes, v.layer_offset = layer * layer_bytes, v.block_len = block_len;
    v.kv_heads = kv_heads, v.head_dim = D, v.type = type, v.block_table = table.data, v.max_blocks = max_blocks;
    return v;
  }
};

template <class T>
double tolerance() {
  return dtype_of<T>() == DType::f16 ? 1.0 / 1024 : 1.0 / 150;
}

template <class T>
void check_decode(KvType type, int D, int heads, int kv_heads, int block_len, int window, float softcap, bool sinks,
                  int splits) {
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
void check_prefill(int D, int heads, int kv_heads, int block_len, int window, float softcap, bool sinks,
                   bool gathered) {
  const KvType plain = dtype_of<T>() == DType::bf16 ? KvType::bf16 : KvType::f16;
  const std::vector<int32_t> lengths = {300, 5, 700, 128};
  const std::vector<int32_t> counts = {300, 1, 260, 77}, rows = {0, 1, 2, 3};
  Pool pool(gathered ? KvType::int8 : plain, 2, lengths, block_len, kv_heads, D);
  std::vector<int32_t> start = {0}, index0, token_row, token_index;
  for (size_t s = 0; s < counts.size(); ++s) {
    start.push_back(start.back() + counts[s]);
    index0.push_back(lengths[s] - counts[s]);
    for (int i = 0; i < counts[s]; ++i) token_row.push_back(rows[s]), token_index.push_back(index0[s] + i);
  }
  const int tokens = start.back(), n = static_cast<int>(counts.size());
  Buffer<int32_t> q_start(n + 1), first(n), row(n), t_row(tokens), t_index(tokens);
  q_start.set(start), first.set(index0), row.set(rows), t_row.set(token_row), t_index.set(token_index);
  const int64_t stride = heads * D + 64;
  Buffer<T> q(tokens * stride), out(static_cast<int64_t>(tokens) * heads * D);
  normal(q.data, q.count, 1.5f);
  Buffer<float> sink(heads);
  normal(sink.data, heads, 2.0f);
  AttentionCall c;
  c.dtype = dtype_of<T>(), c.heads = heads, c.scale = 1.0f / std::sqrt(static_cast<float>(D)), c.window = window;
  c.softcap = softcap, c.sinks = sinks ? sink.data : nullptr;
  c.q = q.data, c.q_stride = stride, c.out = out.data, c.out_stride = heads * D;
  KvView kv = pool.view(1);
  Pool unpacked(plain, 1, lengths, 32, kv_heads, D, false);
  if (gathered) {
    Buffer<int32_t> len(n);
    len.set(lengths);
    kv_gather(c.dtype, kv, unpacked.view(0), n, row, len, 700, stream);
    CU(cudaStreamSynchronize(stream));
    kv = unpacked.view(0);
  }
  attention_prefill(c, kv, n, q_start, first, row, 300, stream);
  CU(cudaStreamSynchronize(stream));
  Buffer<double> scores(static_cast<int64_t>(tokens) * heads * 704), ref(static_cast<int64_t>(tokens) * heads * D);
  reference_attention<T>
      <<<dim3(tokens, heads), 128>>>(c, kv_args("ref", pool.view(1)), pool.type, D, t_row, t_index, scores, 704, ref);
  char what[160];
  std::snprintf(what, sizeof what, "prefill %s D%d heads %d/%d block %d%s%s%s%s",
                dtype_of<T>() == DType::f16 ? "f16" : "bf16", D, heads, kv_heads, block_len, window ? " window" : "",
                softcap > 0 ? " softcap" : "", sinks ? " sinks" : "", gathered ? " from int8" : "");
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
// What the cache holds of each token, and the allowed distance from the truth.
__global__ void read_back(KvArgs kv, KvType type, int heads, int D, const int32_t* row, const int32_t* index,
                          const double* truth, double* worst_ratio) {
  const int64_t t = blockIdx.x;
  const int unit = blockIdx.y, kv_heads = kv.kv_heads;
  if (row[t] < 0) return;
  const bool value = unit >= kv_heads;
  const char* part = kv_part(kv, row[t], unit % kv_heads, index[t]);
  const int place = index[t] % kv.block_len;
  const bool plain = type == KvType::f16 || type == KvType::bf16;
  double scale = 0;
  if (!plain)
    scale = __half2float(
        *reinterpret_cast<const __half*>(part + (value ? kv.v_params_offset : kv.k_params_offset) + place * 4));
  double worst = 0;
  for (int d = 0; d < D; ++d) {
    const double x = truth[(t * (heads + 2 * kv_heads) + heads + unit) * D + d];
    const double got = cache_value(kv, type, part, place, d, value, false);
    const double allowed =
        plain ? fabs(x) / (type == KvType::f16 ? 1900 : 240) + 1e-5 : 0.51 * scale + 3e-3 * fabs(x) + 2e-3;
    const double ratio = fabs(got - x) / allowed;
    worst = !(ratio <= 1e30) ? 1e30 : fmax(worst, ratio);
  }
  worst_ratio[t * 2 * kv_heads + unit] = worst;
}
template <class T>
void check_rope(KvType type, int D, int half, bool interleaved, bool norms, int logn) {
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
  CU(cudaDeviceSynchronize());
  rope_store(c, pool.view(1), stream);
  CU(cudaStreamSynchronize(stream));
  Buffer<double> truth(tokens * stride), ratio(tokens * 2 * kv_heads);
  ratio.zero();
  const T* b = before.data;
  reference_rope<T><<<dim3(tokens, heads + 2 * kv_heads), 32>>>(c, b, b + heads * D, b + (heads + kv_heads) * D, heads,
                                                                kv_heads, D, truth);
  read_back<<<dim3(tokens, 2 * kv_heads), 1>>>(kv_args("ref", pool.view(1)), type, heads, D, row, idx, truth, ratio);
  CU(cudaDeviceSynchronize());
  double worst = 0;
  for (double r : ratio.host()) worst = std::max(worst, r);
  // q, but token 7's
  const std::vector<T> got = qkv.host(), old = before.host();
  const std::vector<double> t = truth.host();
  double q_worst = 0;
  for (int i = 0; i < tokens; ++i) {
    for (int d = 0; d < heads * D; ++d) {
      const double x = i == 7 ? static_cast<double>(static_cast<float>(old[i * stride + d])) : t[i * stride + d];
      const double allowed = i == 7 ? 1e-12 : std::fabs(x) / (dtype_of<T>() == DType::f16 ? 1900 : 240) + 1e-5;
      q_worst =
          std::max(q_worst, std::fabs(static_cast<double>(static_cast<float>(got[i * stride + d])) - x) / allowed);
    }
  }
  const bool ok = worst <= 1.0 && q_worst <= 1.0;
  if (!ok) ++failures();
  std::printf("%-4s rope_store %s kv %s D%d half %d%s%s%s: worst error over allowed: cache %.3f, q %.3f\n",
              ok ? "ok" : "FAIL", dtype_of<T>() == DType::f16 ? "f16" : "bf16", type_name(type), D, half,
              interleaved ? " interleaved" : "", norms ? " norms" : "", logn ? " logn" : "", worst, q_worst);
}

template <class T>
void checks(bool small) {
  const KvType plain = dtype_of<T>() == DType::bf16 ? KvType::bf16 : KvType::f16;
  for (KvType type : {plain, KvType::int8, KvType::k8v4, KvType::int4}) {
    for (int D : {64, 80, 96, 128, 256}) {
      if (small && D != 80 && D != 128) continue;
      check_decode<T>(type, D, 8, 2, D == 80 ? 16 : 64, 0, 0.0f, false, D == 96 ? 1 : 7);
      check_rope<T>(type, D, D == 80 ? 20 : D / 2, D == 64, D == 128, D == 256 ? 1000 : 0);
    }
    check_decode<T>(type, 128, 32, 2, 32, 700, 0.0f, true, 5);
    check_decode<T>(type, 64, 3, 3, 16, 0, 20.0f, true, 64);
  }
  for (int D : {64, 80, 96, 128, 256}) {
    if (small && D != 80 && D != 128) continue;
    check_prefill<T>(D, 4, 2, D == 80 ? 16 : 64, 0, 0.0f, false, false);
  }
  check_prefill<T>(128, 8, 2, 48, 130, 0.0f, true, false);
  check_prefill<T>(64, 4, 4, 16, 0, 15.0f, false, false);
  check_prefill<T>(128, 4, 2, 64, 0, 0.0f, false, true);
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

void time_prefill(int sequences, int count, int context, int D) {
  const int heads = 32, kv_heads = 8;
  Pool pool(KvType::bf16, 1, std::vector<int32_t>(sequences, context), 64, kv_heads, D);
  std::vector<int32_t> start, first(sequences, context - count), rows(sequences);
  std::iota(rows.begin(), rows.end(), 0);
  for (int s = 0; s <= sequences; ++s) start.push_back(s * count);
  Buffer<int32_t> q_start(sequences + 1), index0(sequences), row(sequences);
  q_start.set(start), index0.set(first), row.set(rows);
  Buffer<__nv_bfloat16> q(static_cast<int64_t>(sequences) * count * heads * D), out(q.count);
  normal(q.data, q.count);
  AttentionCall c;
  c.heads = heads, c.scale = 1.0f / std::sqrt(static_cast<float>(D)), c.q = q.data, c.q_stride = heads * D,
  c.out = out.data;
  c.out_stride = heads * D;
  const double us = time_us(
      stream, 4, [&](int) { attention_prefill(c, pool.view(0), sequences, q_start, index0, row, count, stream); });
  const double pairs = sequences * (static_cast<double>(count) * (context - count) + 0.5 * count * (count + 1.0));
  std::printf("prefill D%d %d x %d of %d: %.1f us, %.0f TFLOP/s\n", D, sequences, count, context, us,
              4.0 * pairs * heads * D / us * 1e-6);
}

void times() {
  for (KvType type : {KvType::bf16, KvType::int8, KvType::k8v4, KvType::int4}) {
    for (auto [n, context] :
         {std::pair<int, int>{1, 256}, {1, 4096}, {1, 32768}, {16, 256}, {64, 256}, {64, 1024}, {256, 400}}) {
      time_decode(type, n, context);
    }
  }
  time_prefill(1, 4096, 4096, 128);
  time_prefill(8, 4096, 4096, 128);
  time_prefill(2, 1024, 1024, 128);
  time_prefill(1, 2048, 16384, 128);
  time_prefill(1, 4096, 4096, 64);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "all";
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  print_device();
  CU(cudaStreamCreate(&stream));
  try {
    if (mode != "time") {
      checks<__nv_bfloat16>(mode == "small");
      if (mode != "small") checks<__half>(false);
      std::printf("%d failures\n", failures());
    }
    if (mode == "all" || mode == "time") times();
  } catch (const std::exception& error) {
    std::printf("exception: %s\n", error.what());
    return 2;
  }
  return failures() != 0;
}
