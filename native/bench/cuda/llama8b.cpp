// Decode and prefill of a Llama-3-8B-shaped model with random weights, through the engine's step API on one GPU:
// tokens a second, milliseconds a step, and the share of what the card's memory or matrix units would allow.
//   llama8b bf16|w4 [kv16|int8|k8v4|int4]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "cuda/create.h"
#include "cuda/engine/device.h"

using namespace deploykit;
using Clock = std::chrono::steady_clock;

namespace {

double seconds(Clock::time_point from) { return std::chrono::duration<double>(Clock::now() - from).count(); }

constexpr int32_t kHidden = 4096, kInner = 14336, kHeads = 32, kKvHeads = 8, kHeadDim = 128, kVocab = 128256;

ModelDescription llama(int32_t layers) {
  ModelDescription model;
  model.hidden = kHidden;
  model.vocab = kVocab;
  Rope rope;
  for (int i = 0; i < kHeadDim / 2; ++i) rope.inv_freq.push_back(std::pow(500000.0f, -2.0f * static_cast<float>(i) / kHeadDim));
  model.ropes.push_back(rope);
  LayerSpec layer;
  layer.attention.heads = kHeads;
  layer.attention.kv_heads = kKvHeads;
  layer.attention.head_dim = kHeadDim;
  layer.attention.scale = 1.0f / std::sqrt(static_cast<float>(kHeadDim));
  layer.attention.rope = 0;
  layer.mlp.intermediate = kInner;
  model.layers.assign(static_cast<size_t>(layers), layer);
  return model;
}

// Random bytes of every kind that a weight may need, shared by all weights of a kind.
struct Noise {
  std::vector<uint16_t> bf16;   // normal, 0.02
  std::vector<uint16_t> ones;   // bf16 1.0
  std::vector<uint32_t> words;  // 4-bit values
  std::vector<uint16_t> scales;  // f16, about 0.02 / 4.6

  explicit Noise(int64_t elements) : bf16(static_cast<size_t>(elements)), ones(kHidden, 0x3f80) {
    std::vector<std::thread> threads;
    constexpr int kThreads = 16;
    words.resize(static_cast<size_t>(int64_t{kInner} * kHidden / 8));
    scales.resize(static_cast<size_t>(int64_t{kInner} * kHidden / 128));
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([this, t] {
        std::mt19937_64 random(static_cast<uint64_t>(t) + 1);
        const auto part = [t](size_t n) { return std::make_pair(n * t / kThreads, n * (t + 1) / kThreads); };
        auto [begin, end] = part(bf16.size());
        for (size_t i = begin; i < end; ++i) {
          const uint64_t r = random();  // the sum of four uniform numbers is near enough to a normal one
          const float sum = static_cast<float>((r & 65535) + (r >> 16 & 65535) + (r >> 32 & 65535) + (r >> 48)) / 65536.0f;
          const float value = (sum - 2.0f) * 1.732f * 0.02f;
          uint32_t bits;
          std::memcpy(&bits, &value, 4);
          bf16[i] = static_cast<uint16_t>((bits + 0x8000) >> 16);
        }
        std::tie(begin, end) = part(words.size());
        for (size_t i = begin; i < end; ++i) words[i] = static_cast<uint32_t>(random());
        std::tie(begin, end) = part(scales.size());
        for (size_t i = begin; i < end; ++i) scales[i] = static_cast<uint16_t>(0x1c70 + random() % 64);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
};

WeightTensor fill(const WeightSpec& spec, const Noise& noise) {
  WeightTensor tensor;
  tensor.spec = spec;
  const StoredBytes bytes = stored_bytes(spec);
  tensor.data_bytes = bytes.data;
  tensor.scales_bytes = bytes.scales;
  tensor.zeros_bytes = bytes.zeros;
  if (spec.format == WeightFormat::awq) {
    tensor.data = noise.words.data();
    tensor.zeros = noise.words.data() + 1024;
    tensor.scales = noise.scales.data();
  } else {
    tensor.data = spec.rows == 1 ? noise.ones.data() : noise.bf16.data();
  }
  return tensor;
}

struct Run {
  double seconds = 0;
  int64_t tokens = 0;
};

// `rows` prompts of `prompt` tokens, then `output` tokens each, one step launched ahead.
Run decode(Engine& engine, int32_t rows, int32_t prompt, int32_t output, int64_t& seq, double& decode_s, int32_t step_tokens,
           bool greedy = true) {
  static std::mt19937 random(7);
  const int32_t blocks = (prompt + output + 63) / 64;
  Run run;
  const auto begin = Clock::now();
  int32_t row = 0;
  Step step;
  while (row < rows) {  // prompts, as many as a step takes
    step = Step{};
    step.seq = ++seq;
    int32_t tokens = 0;
    for (; row < rows && tokens + prompt <= step_tokens; ++row, tokens += prompt) {
      Admit admit;
      admit.row = row;
      admit.epoch = 1;
      for (int32_t i = 0; i < prompt; ++i) admit.tokens.push_back(static_cast<int32_t>(random() % 48000));
      admit.prompt_len = prompt;
      admit.limit = prompt + output;
      admit.sampling.temperature = greedy ? 0.0 : 1.0;
      admit.sampling.top_p = greedy ? 1.0 : 0.95;
      admit.seed = static_cast<uint64_t>(row);
      step.admits.push_back(admit);
      Extend extend{row, 1, 0, {}};
      for (int32_t i = 0; i < blocks; ++i) extend.blocks.push_back(row * blocks + i);
      step.extends.push_back(extend);
      step.rows.push_back(row);
      step.epochs.push_back(1);
      step.num_tokens.push_back(prompt);
      step.flags.push_back(kWantSample);
    }
    engine.launch(step);
    run.tokens += static_cast<int64_t>(engine.collect(seq).tokens.size());
  }
  const auto from = Clock::now();
  step = Step{};
  for (int32_t i = 0; i < rows; ++i) {
    step.rows.push_back(i);
    step.epochs.push_back(1);
    step.num_tokens.push_back(1);
    step.flags.push_back(kWantSample);
  }
  int64_t collected = seq;
  for (int32_t i = 1; i < output; ++i) {
    step.seq = ++seq;
    engine.launch(step);
    if (i > 1) run.tokens += static_cast<int64_t>(engine.collect(++collected).tokens.size());
  }
  if (output > 1) run.tokens += static_cast<int64_t>(engine.collect(++collected).tokens.size());
  decode_s = seconds(from) / std::max(output - 1, 1);
  run.seconds = seconds(begin);
  Step last;
  last.seq = ++seq;
  for (int32_t i = 0; i < rows; ++i) last.releases.push_back({i, 1});
  engine.launch(last);
  engine.collect(seq);
  return run;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string weights = argc > 1 ? argv[1] : "bf16", kv = argc > 2 ? argv[2] : "kv16";
  const int32_t layers = argc > 3 ? std::atoi(argv[3]) : 32;
  cudaDeviceProp card{};
  cudaGetDeviceProperties(&card, 0);
  std::printf("card %s, weights %s, kv %s, %d layers\n", card.name, weights.c_str(), kv.c_str(), layers);
  const bool w4 = weights == "w4";
  const ModelDescription model = llama(layers);
  std::vector<WeightSpec> manifest = required_weights(model);
  for (WeightSpec& spec : manifest) {
    const bool linear = spec.name.find("layers.") == 0 && spec.rows > 1;
    spec.format = w4 && linear ? WeightFormat::awq : WeightFormat::bf16;
    spec.group = w4 && linear ? 128 : 0;
  }
  EngineOptions options;
  options.device = DeviceKind::cuda;
  options.dtype = w4 ? DType::f16 : DType::bf16;
  options.kv = kv == "int8" ? KvType::int8 : kv == "k8v4" ? KvType::k8v4 : kv == "int4" ? KvType::int4 : w4 ? KvType::f16 : KvType::bf16;
  options.max_rows = 256;
  options.session_len = 8192;
  options.max_step_tokens = 8192;
  options.num_blocks = 2048;
  auto from = Clock::now();
  const Noise noise(int64_t{kVocab} * kHidden);
  std::printf("random bytes %.1f s\n", seconds(from));
  from = Clock::now();
  std::unique_ptr<Engine> engine = cuda::create_cuda_engine(model, manifest, options);
  for (const WeightSpec& spec : manifest) engine->load_weight(fill(spec, noise));
  std::printf("weights on the device after %.1f s\n", seconds(from));
  const Capacity capacity = engine->finish_loading();
  std::printf("ready after %.1f s: weights %.2f GiB, KV %.2f GiB, scratch %.2f GiB\n", seconds(from),
              static_cast<double>(capacity.weight_bytes) / (1 << 30), static_cast<double>(capacity.kv_bytes) / (1 << 30),
              static_cast<double>(capacity.scratch_bytes) / (1 << 30));
  int64_t seq = 0;
  struct Work {
    const char* name;
    int32_t rows, prompt, output;
  };
  std::printf("%-14s %9s %10s %10s %9s\n", "workload", "seconds", "out tok/s", "in tok/s", "step ms");
  for (const Work& work : {Work{"decode_bs1", 1, 128, 512}, Work{"decode_bs4", 4, 128, 256}, Work{"decode_bs8", 8, 128, 256},
                           Work{"decode_bs16", 16, 128, 256}, Work{"decode_bs32", 32, 128, 256},
                           Work{"decode_bs64", 64, 128, 256}, Work{"decode_bs128", 128, 128, 256},
                           Work{"decode_bs256", 256, 128, 128}, Work{"prefill_4k", 8, 4096, 1}}) {
    double step_s = 0, unused = 0;
    decode(*engine, work.rows, work.prompt, std::min(work.output, 16), seq, unused, options.max_step_tokens);
    std::vector<Run> runs;
    std::vector<double> steps;
    for (int i = 0; i < 3; ++i) {
      runs.push_back(decode(*engine, work.rows, work.prompt, work.output, seq, step_s, options.max_step_tokens));
      steps.push_back(step_s);
    }
    std::sort(runs.begin(), runs.end(), [](const Run& a, const Run& b) { return a.seconds < b.seconds; });
    std::sort(steps.begin(), steps.end());
    std::printf("%-14s %9.3f %10.1f %10.1f %9.3f%s\n", work.name, runs[1].seconds,
                static_cast<double>(runs[1].tokens) / runs[1].seconds,
                static_cast<double>(int64_t{work.rows} * work.prompt) / runs[1].seconds, steps[1] * 1e3,
                runs[1].tokens == int64_t{work.rows} * work.output ? "" : "  TOKENS MISSING");
    std::fflush(stdout);
  }
  return 0;
}
