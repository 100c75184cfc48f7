// The forward of a model of SmolLM2-135M's shape with random weights: 4-bit linear layers (q4_1), an 8-bit tied table
// (q8_0), KV in bfloat16. Prints milliseconds and tokens a second, and what that is in GB/s and GMAC/s beside what
// this machine reaches in a loop that only reads, and in one that only multiplies.
//
// bench_model_smol [--threads N] [--isa NAME] [--kv bf16|int8|int4] [--profile] [--quick] [--cpu-time]
//                  [--only decode|prefill|rows]
// --cpu-time: the CPU time of the caller instead of the clock's, for one thread on a busy machine.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "cpu/model/cpu_model.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

using namespace deploykit;

namespace {

bool cpu_time = false;

double seconds() {
  timespec time{};
  clock_gettime(cpu_time ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

ModelDescription smol() {
  ModelDescription d;
  d.hidden = 576;
  d.vocab = 49152;
  d.tied = true;
  Rope rope;
  rope.interleaved = true;
  for (int i = 0; i < 32; ++i) rope.inv_freq.push_back(std::pow(100000.0f, -static_cast<float>(i) / 32.0f));
  d.ropes = {rope};
  LayerSpec layer;
  layer.attention.heads = 9;
  layer.attention.kv_heads = 3;
  layer.attention.head_dim = 64;
  layer.attention.scale = 0.125f;
  layer.attention.rope = 0;
  layer.mlp.intermediate = 1536;
  d.layers.assign(30, layer);
  return d;
}

// Random blocks with small scales: values of about 0.05.
std::vector<uint8_t> random_bytes(const WeightSpec& spec, std::mt19937_64& random) {
  std::vector<uint8_t> bytes(static_cast<size_t>(stored_bytes(spec).data));
  if (spec.format == WeightFormat::f32) {
    for (size_t i = 0; i + 4 <= bytes.size(); i += 4) {
      const float one = 1.0f;
      std::memcpy(bytes.data() + i, &one, 4);
    }
    return bytes;
  }
  for (size_t i = 0; i + 8 <= bytes.size(); i += 8) {
    const uint64_t word = random();
    std::memcpy(bytes.data() + i, &word, 8);
  }
  const size_t block = spec.format == WeightFormat::q8_0 ? 34 : 20;
  for (size_t i = 0; i < bytes.size(); i += block) {
    const uint16_t d = spec.format == WeightFormat::q8_0 ? 0x0e00 : 0x1e00, m = 0xa9a0;  // about 0.0004; 0.006, -0.045
    std::memcpy(bytes.data() + i, &d, 2);
    if (spec.format == WeightFormat::q4_1) std::memcpy(bytes.data() + i + 2, &m, 2);
  }
  return bytes;
}

struct Ceilings {
  double read_gbs = 0, gmacs = 0;
};

#if defined(__x86_64__)
__attribute__((target("avx512f,avx512vnni"))) double dot_products(int64_t rounds) {
  __m512i sum[12], a = _mm512_set1_epi8(1), b = _mm512_set1_epi8(2);
  for (auto& s : sum) s = _mm512_setzero_si512();
  for (int64_t i = 0; i < rounds; ++i) {
    for (auto& s : sum) s = _mm512_dpbusd_epi32(s, a, b);
    __asm__ volatile("" : "+v"(a), "+v"(b));
  }
  int32_t lanes[16];
  double total = 0;
  for (auto& s : sum) {
    _mm512_storeu_si512(lanes, s);
    total += lanes[0];
  }
  return total;
}
#endif

Ceilings measure_ceilings(cpu::ThreadPool& pool) {
  Ceilings best;
  const int64_t bytes = int64_t{384} << 20;
  cpu::Mapping memory(bytes, "the read loop");
  std::memset(memory.data(), 1, static_cast<size_t>(bytes));
  std::vector<double> sums(static_cast<size_t>(pool.threads()));
  for (int round = 0; round < 5; ++round) {
    double start = seconds();
    pool.run([&](int32_t worker) {
      const cpu::Range part = cpu::share(bytes / 64, pool.threads(), worker);
      uint64_t sum[8] = {};
      const auto* words = reinterpret_cast<const uint64_t*>(memory.data());
      for (int64_t i = part.begin; i < part.end; ++i) {
        for (int j = 0; j < 8; ++j) sum[j] += words[i * 8 + j];
      }
      for (const uint64_t s : sum) sums[static_cast<size_t>(worker)] += static_cast<double>(s);
    });
    best.read_gbs = std::max(best.read_gbs, static_cast<double>(bytes) / (seconds() - start) * 1e-9);
#if defined(__x86_64__)
    if (cpu::available_isas().front() != cpu::Isa::avx512) continue;
    const int64_t rounds = 1000000;
    start = seconds();
    pool.run([&](int32_t worker) { sums[static_cast<size_t>(worker)] += dot_products(rounds); });
    const auto macs = static_cast<double>(rounds * 12 * 64 * pool.threads());
    best.gmacs = std::max(best.gmacs, macs / (seconds() - start) * 1e-9);
#endif
  }
  return best;
}

int64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  int64_t size = 0, resident = 0;
  file >> size >> resident;
  return resident * 4096;
}

struct Options {
  int32_t threads = 2;
  std::string isa;
  KvType kv = KvType::bf16;
  bool profile = false, quick = false;
  std::string only;
};

class Bench {
 public:
  explicit Bench(const Options& options) : options_(options), description_(smol()) {
    EngineOptions engine;
    engine.dtype = DType::bf16;
    engine.kv = options.kv;
    engine.block_len = 64;
    engine.num_blocks = 48;
    engine.max_rows = 16;
    engine.session_len = 4096;
    engine.max_step_tokens = 2048;
    engine.threads = options.threads;
    engine.isa = options.isa;
    std::vector<WeightSpec> manifest = required_weights(description_);
    for (WeightSpec& spec : manifest) {
      if (spec.rows > 1) spec.format = spec.name == "embed.weight" ? WeightFormat::q8_0 : WeightFormat::q4_1;
    }
    const int64_t before = resident_bytes();
    model_ = std::make_unique<cpu::CpuModel>(description_, manifest, engine);
    std::mt19937_64 random(1);
    double load_s = 0;
    for (const WeightSpec& spec : manifest) {
      const std::vector<uint8_t> bytes = random_bytes(spec, random);
      WeightTensor tensor;
      tensor.spec = spec;
      tensor.data = bytes.data();
      tensor.data_bytes = static_cast<int64_t>(bytes.size());
      const double start = seconds();
      model_->load_weight(tensor);
      load_s += seconds() - start;
      if (spec.rows > 1) macs_ += spec.rows * spec.cols;
    }
    model_->finish_loading();
    layer_macs_ = macs_ - int64_t{description_.vocab} * description_.hidden;
    const Capacity capacity = model_->capacity();
    weight_bytes_ = capacity.weight_bytes;
    for (const auto& [key, value] : model_->info()) std::printf("%s: %s\n", key.c_str(), value.c_str());
    std::printf("loaded in %.3f s; weights %.1f MB, KV %.1f MB, scratch %.1f MB reserved; resident %.1f MB\n", load_s,
                static_cast<double>(weight_bytes_) * 1e-6, static_cast<double>(capacity.kv_bytes) * 1e-6,
                static_cast<double>(capacity.scratch_bytes) * 1e-6,
                static_cast<double>(resident_bytes() - before) * 1e-6);
    kv_token_bytes_ = capacity.block_bytes / capacity.block_len;
    cpu::ThreadPool pool(options.threads);
    ceilings_ = measure_ceilings(pool);
    std::printf("ceilings: %.1f GB/s read, %.0f GMAC/s int8\n", ceilings_.read_gbs, ceilings_.gmacs);
    for (int32_t i = 0; i < engine.num_blocks; ++i) blocks_.push_back(i);
    logits_.resize(static_cast<size_t>(16) * static_cast<size_t>(description_.vocab));
  }

  // `count` tokens of one row from `start` on.
  void step(int32_t start, int32_t count, bool wanted) {
    Batch batch;
    RowSlice slice;
    slice.count = count;
    slice.start = start;
    slice.blocks = blocks_.data();
    slice.num_blocks = 40;
    batch.rows = {slice};
    for (int32_t i = 0; i < count; ++i) {
      batch.tokens.push_back(static_cast<int32_t>((static_cast<int64_t>(start + i) * 7919 + 13) % description_.vocab));
      batch.positions.push_back(start + i);
    }
    if (wanted) batch.wanted = {count - 1};
    model_->forward(batch);
    if (wanted) model_->logits(0, 1, logits_.data());
  }

  void rows_step(int32_t rows, int32_t start) {
    Batch batch;
    for (int32_t row = 0; row < rows; ++row) {
      RowSlice slice;
      slice.row = slice.first = row;
      slice.count = 1;
      slice.start = start;
      slice.blocks = blocks_.data() + 3 * row;
      slice.num_blocks = 3;
      batch.rows.push_back(slice);
      batch.tokens.push_back((row * 7919 + start) % description_.vocab);
      batch.positions.push_back(start);
      batch.wanted.push_back(row);
    }
    model_->forward(batch);
    model_->logits(0, rows, logits_.data());
  }

  // The median of `times` runs of `run`, each of which makes `tokens` tokens; before each, `reset` (not timed).
  template <class Run>
  void report(const char* name, int times, int64_t tokens, int64_t read_bytes, int64_t macs, const Run& run) {
    cpu::Profile profile, least;
    profile.cpu_time = cpu_time;
    std::vector<double> all;
    run(0);
    if (options_.profile) model_->set_profile(&profile);
    for (int i = 0; i < times; ++i) {
      const double start = seconds();
      run(i);
      all.push_back(seconds() - start);
      for (size_t j = 0; j < least.ns.size(); ++j) {
        least.ns[j] = i == 0 ? profile.ns[j] : std::min(least.ns[j], profile.ns[j]);
        profile.ns[j] = 0;
      }
    }
    model_->set_profile(nullptr);
    std::sort(all.begin(), all.end());
    const double s = all[all.size() / 2];
    std::printf("%-22s %8.3f ms (best %.3f)  %8.1f tok/s  %6.1f GB/s (%3.0f %%)  %6.1f GMAC/s (%3.0f %%)\n", name,
                s * 1e3, all[0] * 1e3, static_cast<double>(tokens) / s, static_cast<double>(read_bytes) / s * 1e-9,
                static_cast<double>(read_bytes) / s * 1e-7 / ceilings_.read_gbs, static_cast<double>(macs) / s * 1e-9,
                ceilings_.gmacs > 0 ? static_cast<double>(macs) / s * 1e-7 / ceilings_.gmacs : 0.0);
    if (!options_.profile) return;
    // The least of all runs, stage by stage: what the first worker needs when nothing is in its way.
    static const char* const names[] = {"embed",  "norm",   "qkv",  "finish", "attention",
                                        "output", "expand", "down", "head",   "wait"};
    std::printf("    least:");
    for (size_t i = 0; i < least.ns.size(); ++i) {
      if (least.ns[i] > 0) std::printf(" %s %.3f", names[i], static_cast<double>(least.ns[i]) * 1e-6);
    }
    std::printf(" ms\n");
  }

  void decode(int32_t context) {
    for (int32_t at = 0; at < context; at += 512) step(at, std::min(512, context - at), false);
    const std::string name = "decode at " + std::to_string(context);
    report(name.c_str(), options_.quick ? 40 : 150, 1, weight_bytes_ + context * kv_token_bytes_,
           macs_ + int64_t{context} * 2 * 9 * 64 * 30, [&](int) { step(context, 1, true); });
  }

  void prefill(int32_t count) {
    const std::string name = "prefill " + std::to_string(count);
    report(name.c_str(), options_.quick ? 3 : 9, count, weight_bytes_,
           layer_macs_ * count + int64_t{count} * count * 9 * 64 * 30, [&](int) { step(0, count, true); });
  }

  void batch(int32_t rows) {
    for (int32_t at = 0; at < 64; ++at) rows_step(rows, at);
    const std::string name = "decode " + std::to_string(rows) + " rows at 64";
    report(name.c_str(), options_.quick ? 10 : 40, rows, weight_bytes_ + rows * 64 * kv_token_bytes_, macs_ * rows,
           [&](int i) { rows_step(rows, 64 + i % 64); });
  }

  void all() {
    const auto asked = [&](const char* what) { return options_.only.empty() || options_.only == what; };
    for (const int32_t context : {16, 512, 2048}) {
      if (asked("decode")) decode(context);
    }
    for (const int32_t count : {512, 2048}) {
      if (asked("prefill")) prefill(count);
    }
    for (const int32_t rows : {2, 4, 8, 16}) {
      if (asked("rows")) batch(rows);
    }
    std::printf("resident at the end %.1f MB\n", static_cast<double>(resident_bytes()) * 1e-6);
  }

 private:
  Options options_;
  ModelDescription description_;
  std::unique_ptr<cpu::CpuModel> model_;
  Ceilings ceilings_;
  int64_t weight_bytes_ = 0, macs_ = 0, layer_macs_ = 0, kv_token_bytes_ = 0;
  std::vector<int32_t> blocks_;
  std::vector<float> logits_;
};

}  // namespace

int main(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    const std::string value = i + 1 < argc ? argv[i + 1] : "";
    if (arg == "--profile") {
      options.profile = true;
    } else if (arg == "--cpu-time") {
      cpu_time = true;
    } else if (arg == "--quick") {
      options.quick = true;
    } else if (arg == "--threads" && !value.empty()) {
      options.threads = std::stoi(argv[++i]);
    } else if (arg == "--only" && !value.empty()) {
      options.only = argv[++i];
    } else if (arg == "--isa" && !value.empty()) {
      options.isa = argv[++i];
    } else if (arg == "--kv" && (value == "bf16" || value == "int8" || value == "int4")) {
      options.kv = value == "bf16" ? KvType::bf16 : value == "int8" ? KvType::int8 : KvType::int4;
      ++i;
    } else {
      std::printf("bench_model_smol [--threads N] [--isa NAME] [--kv bf16|int8|int4] [--profile] [--quick]\n"
                  "                 [--cpu-time] [--only decode|prefill|rows]\n");
      return 2;
    }
  }
  Bench(options).all();
}
