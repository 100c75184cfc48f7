// What a step costs before any layer is computed: launch, sample and collect of an empty model under CUDA graphs, with
// the tokens kept on the device. Prints host and device microseconds a step, with and without overlap.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "cuda/engine/cuda_engine.h"
#include "cuda/engine/null_forward.h"

using namespace deploykit;
using Clock = std::chrono::steady_clock;

namespace {

uint32_t next_token(uint32_t token, uint32_t position, uint32_t vocab) {
  uint32_t x = token * 2654435761u ^ (position + 1) * 2246822519u;
  x ^= x >> 15;
  x *= 2246822519u;
  x ^= x >> 13;
  return x % vocab;
}

struct Outcome {
  double wall_us = 0, launch_us = 0, collect_us = 0, device_us = 0;
  bool right = true;
};

Outcome run(Engine& engine, int32_t rows, int32_t vocab, bool overlap, int32_t steps, int32_t iterations) {
  Step first;
  first.seq = 0;
  const int32_t limit = 16 + (steps + 8) * iterations, blocks = (limit + 63) / 64;
  for (int32_t row = 0; row < rows; ++row) {
    Admit admit;
    admit.row = row;
    admit.epoch = 1;
    for (int32_t i = 0; i < 16; ++i) admit.tokens.push_back((row * 31 + i * 7 + 5) % vocab);
    admit.prompt_len = 16;
    admit.limit = limit;
    admit.sampling.temperature = 0.0;
    first.admits.push_back(admit);
    Extend extend{row, 1, 0, {}};
    for (int32_t i = 0; i < blocks; ++i) extend.blocks.push_back(row * blocks + i);
    first.extends.push_back(extend);
    first.rows.push_back(row);
    first.epochs.push_back(1);
    first.num_tokens.push_back(16);
    first.flags.push_back(kWantSample);
  }
  engine.launch(first);
  StepResult result = engine.collect(0);
  Outcome outcome;
  std::vector<uint32_t> tokens(static_cast<size_t>(rows));
  std::vector<uint32_t> positions(static_cast<size_t>(rows), 15);
  for (int32_t row = 0; row < rows; ++row) tokens[row] = static_cast<uint32_t>((row * 31 + 15 * 7 + 5) % vocab);
  const auto expect = [&](const StepResult& found) {
    for (int32_t row = 0; row < rows; ++row) {
      for (int32_t at = found.offsets[row]; at < found.offsets[row + 1]; ++at) {
        tokens[row] = next_token(tokens[row], positions[row]++, static_cast<uint32_t>(vocab));
        if (static_cast<uint32_t>(found.tokens[at]) != tokens[row]) outcome.right = false;
      }
      if (found.offsets[row + 1] == found.offsets[row]) outcome.right = false;
    }
  };
  expect(result);
  Step step = first;
  step.admits.clear();
  step.extends.clear();
  step.num_tokens.assign(static_cast<size_t>(rows), 1);
  step.iterations = iterations;
  int64_t launched = 0, collected = 0;
  double launch = 0, collect = 0, device = 0;
  const auto begin = Clock::now();
  while (collected < steps) {
    if (launched < steps) {
      step.seq = ++launched;
      const auto from = Clock::now();
      engine.launch(step);
      launch += std::chrono::duration<double>(Clock::now() - from).count();
    }
    if (launched - collected > (overlap ? 1 : 0) || launched == steps) {
      const auto from = Clock::now();
      result = engine.collect(++collected);
      collect += std::chrono::duration<double>(Clock::now() - from).count();
      device += result.forward_s;
      expect(result);
    }
  }
  outcome.wall_us = std::chrono::duration<double>(Clock::now() - begin).count() / steps * 1e6;
  outcome.launch_us = launch / steps * 1e6;
  outcome.collect_us = collect / steps * 1e6;
  outcome.device_us = device / steps * 1e6;
  Step last;
  last.seq = steps + 1;
  for (int32_t row = 0; row < rows; ++row) last.releases.push_back({row, 1});
  engine.launch(last);
  engine.collect(steps + 1);
  return outcome;
}

}  // namespace

int main() {
  cudaDeviceProp card{};
  cudaGetDeviceProperties(&card, 0);
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  std::printf("card %s, driver CUDA %d, runtime %d\n", card.name, driver, runtime);
  ModelDescription model;
  model.hidden = 4096;
  model.vocab = 128256;
  EngineOptions options;
  options.device = DeviceKind::cuda;
  options.max_rows = 256;
  options.session_len = 2048;
  options.max_step_tokens = 8192;
  options.num_blocks = 256 * 32;
  cuda::CudaEngine engine(model, options, std::make_unique<cuda::NullForward>(model, options));
  const auto begin = Clock::now();
  engine.finish_loading();
  std::printf("graphs captured in %.0f ms\n", std::chrono::duration<double>(Clock::now() - begin).count() * 1e3);
  std::printf("%6s %10s %8s | %9s %9s %9s %9s | tokens\n", "rows", "iterations", "overlap", "step us", "launch us",
              "wait us", "device us");
  bool right = true;
  for (int32_t rows : {1, 16, 64, 256}) {
    for (int32_t iterations : {1, 4}) {
      for (bool overlap : {false, true}) {
        run(engine, rows, model.vocab, overlap, 20, iterations);
        const Outcome o = run(engine, rows, model.vocab, overlap, 300 / iterations, iterations);
        std::printf("%6d %10d %8s | %9.1f %9.1f %9.1f %9.1f | %s\n", rows, iterations, overlap ? "on" : "off", o.wall_us,
                    o.launch_us, o.collect_us, o.device_us, o.right ? "right" : "WRONG");
        right = right && o.right;
      }
    }
  }
  return right ? 0 : 1;
}
