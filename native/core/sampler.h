// The next token of a row from its logits, as docs/sampling.md says.
#pragma once

#include <cstdint>
#include <vector>

#include "core/logits.h"
#include "deploykit/sampling.h"

namespace deploykit {

// Memory that sampling uses again from row to row; one row at a time.
struct SamplerScratch {
  std::vector<float> raw_maxima, maxima, processed, buffer, candidate_x;
  std::vector<double> sums, weights;
  std::vector<int32_t> ids, touched, counts;  // counts [vocab]: all zeros between rows
  std::vector<int32_t> order;
};

struct Draw {
  const float* logits = nullptr;  // [vocab], not changed
  int64_t vocab = 0;
  const SamplingParams* params = nullptr;
  uint64_t seed = 0;
  const int32_t* tokens = nullptr;  // [known]: the prompt, then the outputs
  int64_t known = 0;
  int64_t prompt_len = 0;
  const std::vector<int32_t>* eos = nullptr;
  const Mask* mask = nullptr;  // may be null
};

// Greedy, with nothing that changes the logits or asks for log probabilities: the argmax of the raw logits.
bool is_plain(const SamplingParams& params);
// Empty, or what no row can be sampled with (a NaN temperature, say).
std::string params_problem(const SamplingParams& params);

// Requires params_problem to be empty.
SampledToken sample_token(const Draw& draw, SamplerScratch& scratch);
// Log probability and rank of `token` (within the vocabulary) under raw logits, with the k best. False where a logit is
// not finite.
bool token_logprob(const float* logits, int64_t vocab, int32_t token, int32_t k, SamplerScratch& scratch,
                   TokenLogprob& out);

}  // namespace deploykit
