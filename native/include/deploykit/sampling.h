// Sampling of one token by itself (docs/sampling.md), for whoever has logits of their own and for the golden vectors.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "deploykit/export.h"
#include "deploykit/step.h"

namespace deploykit {

struct SampledToken {
  int32_t token = -1;
  bool has_logprob = false;
  TokenLogprob logprob;
  std::string code, reason;  // a row that can't draw: nonfinite_logits | no_token | invalid; empty = it did
};

// `logits` float32 [vocab]; `tokens` are the prompt and then the outputs so far. `mask` may be null.
DEPLOYKIT_EXPORT SampledToken sample_logits(const float* logits, int64_t vocab, const SamplingParams& params,
                                            uint64_t seed, const std::vector<int32_t>& tokens, int32_t prompt_len,
                                            const std::vector<int32_t>& eos, const Mask* mask);

}  // namespace deploykit
