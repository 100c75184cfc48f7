// The step: what the scheduler asks and what the engine answers. The same types as deploykit/engine/types.py, which
// says what each field means; docs/sampling.md fixes sampling.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace deploykit {

struct SamplingParams {
  double temperature = 1.0;  // 0 = greedy
  double top_p = 1.0;
  int32_t top_k = 0;
  double min_p = 0.0;
  float repetition_penalty = 1.0f;
  float frequency_penalty = 0.0f;
  float presence_penalty = 0.0f;
  std::vector<std::pair<int32_t, float>> logit_bias;
  int32_t min_tokens = 0;
  std::vector<int32_t> stop_token_ids;
  std::vector<std::vector<int32_t>> bad_words;
  int32_t logprobs = -1;         // -1 = none
  int32_t prompt_logprobs = -1;  // -1 = none
};

// Step flags: bits of deploykit.engine.types.Want.
enum Want : int32_t {
  kWantNone = 0,
  kWantSample = 1,
  kWantDeferred = 2,
  kWantPromptLogprobs = 4,
  kWantScore = 8,
  kWantPool = 16,
};

// Positions [start, start + length) take embeddings that were given by Engine::put_embeddings under `handle`.
struct Span {
  int32_t start = 0;
  int32_t length = 0;
  std::string handle;
  bool bidirectional = false;
};

struct Admit {
  int32_t row = 0;
  int32_t epoch = 0;
  std::vector<int32_t> tokens;  // prompt, then outputs before a preemption
  int32_t prompt_len = 0;
  int32_t computed = 0;
  int32_t limit = 0;
  SamplingParams sampling;
  uint64_t seed = 0;
  std::vector<int32_t> eos_token_ids;
  std::string adapter;             // empty = none
  int32_t grammar = -1;            // -1 = none
  std::vector<int32_t> positions;  // [axes, tokens]; empty = 0, 1, 2, ...
  std::vector<Span> spans;
};

struct Extend {
  int32_t row = 0, epoch = 0, group = 0;
  std::vector<int32_t> blocks;
};
struct Trim {
  int32_t row = 0, epoch = 0, group = 0, num_blocks = 0;
};
struct Copy {
  int32_t src = 0, dst = 0;
};
struct Release {
  int32_t row = 0, epoch = 0;
};

struct Step {
  int64_t seq = 0;
  std::vector<int32_t> rows, epochs, num_tokens, flags;  // [n] each; rows are distinct
  std::vector<Release> releases;
  std::vector<Admit> admits;
  std::vector<Extend> extends;
  std::vector<Trim> trims;
  std::vector<Copy> copies;
  int32_t iterations = 1;
};

enum Finish : int32_t { kFinishNone = 0, kFinishStop = 1, kFinishLength = 2 };

struct TokenLogprob {
  int32_t token = 0;
  double logprob = 0;
  int32_t rank = 0;
  std::vector<std::pair<int32_t, double>> top;
};

struct RowFailure {
  int32_t row = 0, epoch = 0;
  std::string code, reason;
};

// Ragged, in the order of the step's rows: row i produced tokens[offsets[i] .. offsets[i + 1]).
struct StepResult {
  int64_t seq = 0;
  std::vector<int32_t> rows, epochs, offsets, tokens, finish;
  std::vector<std::pair<int32_t, std::vector<TokenLogprob>>> logprobs;         // by row
  std::vector<std::pair<int32_t, std::vector<TokenLogprob>>> prompt_logprobs;  // by row
  std::vector<std::pair<int32_t, std::vector<float>>> pooled;                  // by row
  std::vector<RowFailure> failures;
  double forward_s = 0, sample_s = 0;
};

// Allowed tokens of a deferred row: bit i % 32 of word i / 32; ceil(vocab / 32) words.
using Mask = std::vector<uint32_t>;

}  // namespace deploykit
