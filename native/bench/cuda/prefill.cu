// Prefill attention: checks against float64, then times. Usage: prefill [check|time|all|first]
#include <unistd.h>

#include "attention_reference.cuh"
#include "cuda/kernels/attention_prefill.cuh"

using namespace bench;

namespace prefill_bench {

cudaStream_t stream;

// A kernel that waits for itself would hold the machine: give up after some seconds.
void finish(const char* what) {
  for (int i = 0; i < 1000 * patience(4); ++i) {
    const cudaError_t status = cudaStreamQuery(stream);
    if (status == cudaSuccess) return;
    if (status != cudaErrorNotReady) {
      std::printf("FAIL %s: %s\n", what, cudaGetErrorString(status));
      std::fflush(stdout);
      _exit(2);
    }
    usleep(1000);
  }
  std::printf("FAIL %s: it doesn't end\n", what);
  std::fflush(stdout);
  _exit(3);
}

enum class Source { pool, gathered, fresh };

struct Batch {
  std::vector<int32_t> lengths, counts;
};
const Batch kMixed = {{300, 5, 700, 128, 129, 127, 64, 1, 400}, {300, 1, 260, 77, 129, 127, 33, 1, 129}};

// K and V of the batch's tokens, from the pool's values.
template <class T>
__global__ void copy_fresh(KvArgs kv, KvType type, int D, const int32_t* row, const int32_t* index, T* k, T* v,
                           int64_t stride) {
  const int64_t t = blockIdx.x;
  const int head = blockIdx.y;
  const char* part = kv_part(kv, row[t], head, index[t]);
  for (int d = threadIdx.x; d < D; d += 32) {
    k[t * stride + head * D + d] = number<T>(cache_value(kv, type, part, index[t] % kv.block_len, d, false, false));
    v[t * stride + head * D + d] = number<T>(cache_value(kv, type, part, index[t] % kv.block_len, d, true, false));
  }
}
__global__ void poison_token(KvArgs kv, const int32_t* row, const int32_t* index, const int32_t* whole) {
  if (!whole[blockIdx.x]) return;
  char* part = kv_part(kv, row[blockIdx.x], blockIdx.y, index[blockIdx.x]);
  const int place = index[blockIdx.x] % kv.block_len;
  for (int i = threadIdx.x; i < kv.k_row; i += 32) part[place * kv.k_row + i] = -1;
  for (int i = threadIdx.x; i < kv.v_row; i += 32) part[kv.v_offset + place * kv.v_row + i] = -1;
}

template <class T>
void check_prefill(int D, int heads, int kv_heads, int block_len, int window, float softcap, bool sinks, Source source,
                   const Batch& batch = kMixed) {
  if (!mine()) return;
  const KvType plain = dtype_of<T>() == DType::bf16 ? KvType::bf16 : KvType::f16;
  const int n = static_cast<int>(batch.counts.size());
  const int most = *std::max_element(batch.counts.begin(), batch.counts.end());
  const int longest = *std::max_element(batch.lengths.begin(), batch.lengths.end());
  std::vector<int32_t> rows(n), start = {0}, index0, token_row, token_index, whole;
  std::iota(rows.begin(), rows.end(), 0);
  std::reverse(rows.begin(), rows.end());
  std::vector<int32_t> lengths(n);
  for (int s = 0; s < n; ++s) {
    lengths[rows[s]] = batch.lengths[s];
    start.push_back(start.back() + batch.counts[s]);
    index0.push_back(batch.lengths[s] - batch.counts[s]);
    for (int i = 0; i < batch.counts[s]; ++i) {
      token_row.push_back(rows[s]), token_index.push_back(index0[s] + i), whole.push_back(index0[s] == 0);
    }
  }
  Pool pool(source == Source::gathered ? KvType::int8 : plain, 2, lengths, block_len, kv_heads, D);
  const int tokens = start.back();
  Buffer<int32_t> q_start(n + 1), first(n), row(n), t_row(tokens), t_index(tokens), t_whole(tokens);
  q_start.set(start), first.set(index0), row.set(rows), t_row.set(token_row), t_index.set(token_index),
      t_whole.set(whole);
  const int64_t stride = (heads + 2 * kv_heads) * D;
  Buffer<T> qkv(tokens * stride), out(static_cast<int64_t>(tokens) * heads * D);
  normal(qkv.data, qkv.count, 1.5f);
  Buffer<float> sink(heads);
  normal(sink.data, heads, 2.0f);
  AttentionCall c;
  c.dtype = dtype_of<T>(), c.heads = heads, c.scale = 1.0f / std::sqrt(static_cast<float>(D)), c.window = window;
  c.softcap = softcap, c.sinks = sinks ? sink.data : nullptr, c.tokens = tokens;
  c.q = qkv.data, c.q_stride = stride, c.out = out.data, c.out_stride = heads * D;
  Buffer<double> scores(static_cast<int64_t>(tokens) * heads * longest),
      ref(static_cast<int64_t>(tokens) * heads * D);
  reference_attention<T><<<dim3(tokens, heads), 128>>>(c, kv_args("ref", pool.view(1)), pool.type, D, t_row, t_index,
                                                       scores, longest, ref);
  CU(cudaDeviceSynchronize());
  KvView kv = pool.view(1);
  FreshKv fresh;
  std::vector<int32_t> unpacked_lengths = batch.lengths;
  Pool unpacked(plain, 1, unpacked_lengths, 32, kv_heads, D, false);
  Buffer<int32_t> identity(n);
  if (source == Source::gathered) {
    Buffer<int32_t> len(n);
    len.set(batch.lengths);
    kv_gather(c.dtype, kv, unpacked.view(0), n, row, len, longest, stream);
    finish("gather");
    kv = unpacked.view(0);
    std::vector<int32_t> ids(n);
    std::iota(ids.begin(), ids.end(), 0);
    identity.set(ids);
  }
  if (source == Source::fresh) {
    fresh.k = qkv.data + heads * D, fresh.v = qkv.data + (heads + kv_heads) * D, fresh.stride = stride;
    copy_fresh<T><<<dim3(tokens, kv_heads), 32>>>(kv_args("bench", kv), kv.type, D, t_row, t_index,
                                                  qkv.data + heads * D, qkv.data + (heads + kv_heads) * D, stride);
    poison_token<<<dim3(tokens, kv_heads), 32>>>(kv_args("bench", kv), t_row, t_index, t_whole);
    CU(cudaDeviceSynchronize());
  }
  for (int repeat = 0; repeat < 2; ++repeat) {
    out.poison();
    CU(cudaDeviceSynchronize());
    attention_prefill(c, kv, n, q_start, first, source == Source::gathered ? identity : row, most, stream, fresh);
    finish("prefill");
  }
  char what[160];
  std::snprintf(what, sizeof what, "prefill %s D%d heads %d/%d block %d sequences %d%s%s%s%s",
                dtype_of<T>() == DType::f16 ? "f16" : "bf16", D, heads, kv_heads, block_len, n,
                window ? " window" : "", softcap > 0 ? " softcap" : "", sinks ? " sinks" : "",
                source == Source::gathered ? " from int8"
                : source == Source::fresh  ? " fresh"
                                           : "");
  compare(what, out, ref, tolerance<T>());
}

template <class T>
void checks() {
  for (int D : {128, 64, 80, 96, 256}) check_prefill<T>(D, 4, 2, D == 80 ? 16 : 64, 0, 0.0f, false, Source::pool);
  check_prefill<T>(128, 8, 2, 48, 130, 0.0f, true, Source::pool);
  check_prefill<T>(128, 32, 2, 128, 17, 0.0f, true, Source::pool);
  check_prefill<T>(64, 4, 4, 16, 0, 15.0f, false, Source::pool);
  check_prefill<T>(256, 4, 2, 32, 100, 20.0f, true, Source::pool);
  check_prefill<T>(128, 7, 1, 64, 0, 0.0f, false, Source::pool);
  check_prefill<T>(128, 12, 2, 256, 0, 0.0f, true, Source::pool);
  check_prefill<T>(128, 4, 2, 64, 0, 0.0f, false, Source::gathered);
  for (int D : {64, 80, 128, 256}) check_prefill<T>(D, 8, 2, 64, 0, 0.0f, false, Source::fresh);
  std::mt19937 random(static_cast<unsigned>(next_seed()));
  Batch many;
  for (int s = 0; s < 75; ++s) {
    many.counts.push_back(1 + static_cast<int32_t>(random() % (s % 9 == 0 ? 300 : 40)));
    many.lengths.push_back(many.counts.back() + (s % 3 == 0 ? static_cast<int32_t>(random() % 500) : 0));
  }
  check_prefill<T>(128, 8, 2, 64, 0, 0.0f, false, Source::pool, many);
  check_prefill<T>(128, 8, 2, 64, 0, 0.0f, false, Source::fresh, many);
}

// ----------------------------------------------------------------------------------------------------------- times
struct NoTurns : PrefillChoice {
  static constexpr bool kAlternate = false;
};
struct NoSlack : PrefillChoice {
  static constexpr float kSlack = 0.0f;
};

struct Work {
  Pool pool;
  std::vector<int32_t> counts;
  Buffer<int32_t> q_start, index0, row;
  Buffer<__nv_bfloat16> qkv, out;
  AttentionCall c;
  FreshKv fresh;
  int most, heads, kv_heads, D;
  double pairs = 0;
  static std::vector<int32_t> lengths(const std::vector<int32_t>& counts, int history) {
    std::vector<int32_t> l;
    for (int32_t c : counts) l.push_back(c + history);
    return l;
  }
  Work(const std::vector<int32_t>& counts_, int history, int D_, int block_len, int heads_ = 32, int kv_heads_ = 8)
      : pool(KvType::bf16, 1, lengths(counts_, history), block_len, kv_heads_, D_),
        counts(counts_),
        q_start(static_cast<int64_t>(counts.size()) + 1),
        index0(static_cast<int64_t>(counts.size())),
        row(static_cast<int64_t>(counts.size())),
        qkv(static_cast<int64_t>(std::accumulate(counts.begin(), counts.end(), 0)) * (heads_ + 2 * kv_heads_) * D_),
        out(static_cast<int64_t>(std::accumulate(counts.begin(), counts.end(), 0)) * heads_ * D_),
        heads(heads_),
        kv_heads(kv_heads_),
        D(D_) {
    std::vector<int32_t> start = {0}, rows(counts.size());
    std::iota(rows.begin(), rows.end(), 0);
    for (int32_t n : counts) {
      start.push_back(start.back() + n);
      pairs += static_cast<double>(n) * history + 0.5 * n * (n + 1.0);
    }
    q_start.set(start), index0.set(std::vector<int32_t>(counts.size(), history)), row.set(rows);
    normal(qkv.data, qkv.count);
    most = *std::max_element(counts.begin(), counts.end());
    const int64_t stride = (heads + 2 * kv_heads) * D;
    c.heads = heads, c.scale = 1.0f / std::sqrt(static_cast<float>(D)), c.q = qkv.data, c.q_stride = stride;
    c.out = out.data, c.out_stride = heads * D, c.tokens = start.back();
    fresh.k = qkv.data + heads * D, fresh.v = qkv.data + (heads + kv_heads) * D, fresh.stride = stride;
  }
  void run(bool use_fresh) {
    attention_prefill(c, pool.view(0), static_cast<int32_t>(counts.size()), q_start, index0, row, most, stream,
                      use_fresh ? fresh : FreshKv{});
  }
  template <class Choice>
  void time_choice(const char* what, int section = 0) {
    PrefillWork work = prefill_work(c, pool.view(0), static_cast<int32_t>(counts.size()), q_start, index0, row,
                                          most, FreshKv{});
    if (section > 0) work.args.section = section;
    const double us =
        time_us(stream, 8, [&](int) { run_prefill<__nv_bfloat16, 128, false, Choice>(work.maps, work.args, stream); });
    std::printf("  %s: %.1f us, %.0f TFLOP/s\n", what, us, 4.0 * pairs * heads * D / us * 1e-6);
  }
  void time(const char* what, bool use_fresh = false) {
    run(use_fresh);
    finish(what);
    const double us = time_us(stream, pairs < 1e8 ? 64 : 8, [&](int) { run(use_fresh); });
    std::printf("prefill D%d %s block %d%s: %.1f us, %.0f TFLOP/s\n", D, what, pool.block_len,
                use_fresh ? " fresh" : "", us, 4.0 * pairs * heads * D / us * 1e-6);
  }
};

std::vector<int32_t> chat_prompts(int total) {  // lengths like those of a chat: a mean of 227, some long
  std::vector<int32_t> counts;
  std::mt19937 random(7);
  std::exponential_distribution<float> draw(1.0f / 227);
  for (int left = total; left > 0;) {
    const int n = std::min(left, 4 + static_cast<int>(draw(random)));
    counts.push_back(n), left -= n;
  }
  return counts;
}

void times() {
  for (int block : {64, 16, 128}) Work(std::vector<int32_t>(8, 4096), 0, 128, block).time("8 x 4096 of 4096");
  {
    Work w(std::vector<int32_t>(8, 4096), 0, 128, 64);
    w.time_choice<NoTurns>("no turns");
    w.time_choice<NoSlack>("no slack");
    for (int section : {1, 2, 8}) {
      char what[40];
      std::snprintf(what, sizeof what, "sections of %d", section);
      w.time_choice<PrefillChoice>(what, section);
    }
  }
  Work({4096}, 0, 128, 64).time("1 x 4096 of 4096");
  Work({1024, 1024}, 0, 128, 64).time("2 x 1024 of 1024");
  Work({2048}, 14336, 128, 64).time("1 x 2048 of 16384");
  Work({16384}, 0, 128, 64).time("1 x 16384 of 16384");
  Work(std::vector<int32_t>(8, 4096), 0, 64, 64).time("8 x 4096 of 4096");
  Work({4096}, 0, 64, 64).time("1 x 4096 of 4096");
  Work(std::vector<int32_t>(2, 4096), 0, 256, 64, 16, 8).time("2 x 4096 of 4096, 16 heads");
  for (int total : {227, 1024, 8192}) {
    Work w(total == 227 ? std::vector<int32_t>{227} : chat_prompts(total), 0, 128, 64);
    char what[80];
    std::snprintf(what, sizeof what, "chat prompts, %d tokens in %d", total, static_cast<int>(w.counts.size()));
    w.time(what);
    w.time(what, true);
  }
}

void time_gather() {
  for (int total : {227, 1024, 8192}) {
    const std::vector<int32_t> counts = total == 227 ? std::vector<int32_t>{227} : chat_prompts(total);
    for (KvType type : {KvType::int8, KvType::int4}) {
      Pool packed(type, 1, counts, 64, 8, 128), plain(KvType::bf16, 1, counts, 64, 8, 128, false);
      std::vector<int32_t> rows(counts.size());
      std::iota(rows.begin(), rows.end(), 0);
      Buffer<int32_t> row(static_cast<int64_t>(rows.size()));
      row.set(rows);
      const int most = *std::max_element(counts.begin(), counts.end());
      const double us = time_us(stream, 8, [&](int) {
        kv_gather(DType::bf16, packed.view(0), plain.view(0), static_cast<int32_t>(rows.size()), row, packed.length,
                  most, stream);
      });
      std::printf("gather %s, %d tokens in %d: %.1f us\n", type_name(type), total, static_cast<int>(rows.size()), us);
    }
  }
}

}  // namespace prefill_bench
using namespace prefill_bench;

int main(int argc, char** argv) {
  return program(argc, argv, "all", &stream, [](const std::string& mode) {
    if (mode != "time") {
      checks<__nv_bfloat16>();
      if (mode != "first") checks<__half>();
      std::printf("%d failures\n", failures());
    }
    if (mode != "check") times(), time_gather();
  });
}
