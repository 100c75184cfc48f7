#include "core/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/philox.h"
#include "core/sampler_steps.h"

namespace deploykit {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

// Step 11 over candidates: ids ascending with their weights.
int32_t draw_candidate(const std::vector<int32_t>& ids, const std::vector<double>& weights, double u) {
  double total = 0;
  for (double w : weights) total += w;
  const double target = u * total;
  double edge = 0;
  size_t last = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (weights[i] <= 0) continue;
    last = i;
    edge += weights[i];
    if (edge > target) return ids[i];
  }
  return ids[last];  // u * total was rounded up to the total
}

// Step 11 over all tokens: the block first, then the token in it.
int32_t draw_block(const LogitRow& row, double temperature, double total, const std::vector<double>& sums, double u) {
  const double target = u * total;
  const int64_t blocks = logit_blocks(row.vocab);
  double edge = 0;
  int64_t chosen = 0;
  double before = 0;
  for (int64_t b = 0; b < blocks; ++b) {
    if (sums[static_cast<size_t>(b)] <= 0) continue;
    chosen = b;
    before = edge;
    edge += sums[static_cast<size_t>(b)];
    if (edge > target) break;
  }
  double weights[kLogitBlock];
  const int64_t begin = chosen * kLogitBlock, count = std::min(kLogitBlock, row.vocab - begin);
  exp_weights(row.x + begin, count, row.max, temperature, weights);
  int64_t last = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (weights[i] <= 0) continue;
    last = i;
    before += weights[i];
    if (before > target) break;
  }
  return static_cast<int32_t>(begin + last);
}

// A value that every token with a weight of at least `weight` reaches; a little low, so that rounding loses none.
float value_of_weight(const LogitRow& row, double weight, double temperature) {
  const double value = row.max + temperature * (std::log(weight) - 1e-9);
  const double low = value - 1e-6 * (std::fabs(value) + std::fabs(static_cast<double>(row.max)));
  return static_cast<float>(std::max<double>(low, std::numeric_limits<float>::lowest()));
}

// Steps 6 to 11 on processed logits.
int32_t draw_token(const LogitRow& row, const SamplingParams& p, double u, SamplerScratch& s) {
  if (p.temperature == 0) return first_maximum(row);
  const bool top_k = p.top_k > 0 && p.top_k < row.vocab;
  if (!top_k && p.top_p >= 1 && p.min_p <= 0) {
    s.sums.resize(static_cast<size_t>(logit_blocks(row.vocab)));
    const double total = exp_sums(row, p.temperature, s.sums.data());
    return draw_block(row, p.temperature, total, s.sums, u);
  }
  double total = 0;
  if (top_k) {
    collect_at_least(row, kth_highest(row, p.top_k, s.buffer), s.ids);
  } else {
    double lightest = p.min_p;
    if (p.top_p < 1) {
      // Tokens lighter than (1 - top_p) * total / vocab weigh less than 1 - top_p together: without them the mass
      // of top_p is still there, so none of them is kept.
      s.sums.resize(static_cast<size_t>(logit_blocks(row.vocab)));
      total = exp_sums(row, p.temperature, s.sums.data());
      lightest = std::max(lightest, 0.99 * (1 - p.top_p) * total / static_cast<double>(row.vocab));
    }
    collect_at_least(row, value_of_weight(row, std::min(lightest, 1.0), p.temperature), s.ids);
  }
  const size_t count = s.ids.size();
  s.candidate_x.resize(count);
  s.weights.resize(count);
  for (size_t i = 0; i < count; ++i) s.candidate_x[i] = row.x[s.ids[i]];
  exp_weights(s.candidate_x.data(), static_cast<int64_t>(count), row.max, p.temperature, s.weights.data());
  float lowest = -kInf;
  if (p.top_p < 1) {
    if (top_k) {
      for (double w : s.weights) total += w;
    }
    lowest = top_p_value(s.candidate_x, s.weights, p.top_p * total, s.order);
  }
  size_t kept = 0;
  for (size_t i = 0; i < count; ++i) {
    const bool stays = s.candidate_x[i] >= lowest && (p.min_p <= 0 || s.weights[i] >= p.min_p);
    s.ids[kept] = s.ids[i];
    s.weights[kept] = s.weights[i];
    kept += stays;
  }
  s.ids.resize(kept);
  s.weights.resize(kept);
  return draw_candidate(s.ids, s.weights, u);
}

TokenLogprob logprob_of(const LogitRow& row, int32_t token, int32_t k, SamplerScratch& s) {
  s.sums.resize(static_cast<size_t>(logit_blocks(row.vocab)));
  const double log_total = row.max + std::log(exp_sums(row, 1.0, s.sums.data()));
  TokenLogprob out;
  out.token = token;
  out.logprob = row.x[token] - log_total;
  out.rank = rank_of(row, token);
  const size_t width = static_cast<size_t>(std::min<int64_t>(std::max(k, 0), row.vocab));
  if (width == 0) return out;
  collect_at_least(row, kth_highest(row, static_cast<int64_t>(width), s.buffer), s.ids);
  std::partial_sort(s.ids.begin(), s.ids.begin() + static_cast<std::ptrdiff_t>(width), s.ids.end(),
                    [&](int32_t a, int32_t b) { return row.x[a] != row.x[b] ? row.x[a] > row.x[b] : a < b; });
  out.top.reserve(width);
  for (size_t i = 0; i < width; ++i) out.top.emplace_back(s.ids[i], row.x[s.ids[i]] - log_total);
  return out;
}

}  // namespace

bool is_plain(const SamplingParams& p) {
  return p.temperature == 0 && p.repetition_penalty == 1 && p.frequency_penalty == 0 && p.presence_penalty == 0 &&
         p.min_tokens <= 0 && p.logit_bias.empty() && p.bad_words.empty() && p.logprobs < 0;
}

std::string params_problem(const SamplingParams& p) {
  // Written so that a NaN is a problem too.
  if (!(p.temperature >= 0) || std::isinf(p.temperature)) return "temperature is not a finite number of at least 0";
  if (!(p.top_p > 0)) return "top_p is not above 0";
  if (!(p.min_p >= 0 && p.min_p <= 1)) return "min_p is not between 0 and 1";
  if (!(p.repetition_penalty > 0) || std::isinf(p.repetition_penalty)) return "repetition_penalty is not above 0";
  if (!std::isfinite(p.frequency_penalty)) return "frequency_penalty is not finite";
  if (!std::isfinite(p.presence_penalty)) return "presence_penalty is not finite";
  if (p.top_k < 0) return "top_k is negative";
  return {};
}

SampledToken sample_token(const Draw& d, SamplerScratch& s) {
  SampledToken out;
  const auto blocks = static_cast<size_t>(logit_blocks(d.vocab));
  s.raw_maxima.resize(blocks);
  if (!block_maxima(d.logits, d.vocab, s.raw_maxima.data())) {
    out.code = "nonfinite_logits";
    out.reason = "the model gave a logit that is not a finite number";
    return out;
  }
  const LogitRow raw = logit_row(d.logits, d.vocab, s.raw_maxima.data());
  LogitRow row = raw;
  const SamplingParams& p = *d.params;
  if (changes_logits(d)) {
    s.processed.assign(d.logits, d.logits + d.vocab);
    if (!process_logits(d, s.processed.data(), s, out)) return out;
    s.maxima.resize(blocks);
    block_maxima(s.processed.data(), d.vocab, s.maxima.data());
    row = logit_row(s.processed.data(), d.vocab, s.maxima.data());
    if (row.max == -kInf) {
      out.code = "no_token";
      out.reason = "every token of the vocabulary is masked";
      return out;
    }
  }
  const double u = p.temperature == 0 ? 0 : philox_uniform(d.seed, static_cast<uint32_t>(d.known - d.prompt_len));
  out.token = draw_token(row, p, u, s);
  if (p.logprobs >= 0) {
    out.logprob = logprob_of(raw, out.token, p.logprobs, s);
    out.has_logprob = true;
  }
  return out;
}

bool token_logprob(const float* logits, int64_t vocab, int32_t token, int32_t k, SamplerScratch& s,
                   TokenLogprob& out) {
  s.raw_maxima.resize(static_cast<size_t>(logit_blocks(vocab)));
  if (!block_maxima(logits, vocab, s.raw_maxima.data())) return false;
  out = logprob_of(logit_row(logits, vocab, s.raw_maxima.data()), token, k, s);
  return true;
}

SampledToken sample_logits(const float* logits, int64_t vocab, const SamplingParams& params, uint64_t seed,
                           const std::vector<int32_t>& tokens, int32_t prompt_len, const std::vector<int32_t>& eos,
                           const Mask* mask) {
  SampledToken out;
  out.reason = params_problem(params);
  if (vocab <= 0) out.reason = "there are no logits";
  if (prompt_len < 0 || static_cast<size_t>(prompt_len) > tokens.size()) {
    out.reason = "a prompt of " + std::to_string(prompt_len) + " of " + std::to_string(tokens.size()) + " tokens";
  }
  if (!out.reason.empty()) {
    out.code = "invalid";
    return out;
  }
  SamplerScratch scratch;
  Draw draw;
  draw.logits = logits;
  draw.vocab = vocab;
  draw.params = &params;
  draw.seed = seed;
  draw.tokens = tokens.data();
  draw.known = static_cast<int64_t>(tokens.size());
  draw.prompt_len = prompt_len;
  draw.eos = &eos;
  draw.mask = mask;
  return sample_token(draw, scratch);
}

}  // namespace deploykit
