#include "core/sampler_steps.h"

#include <algorithm>
#include <limits>

namespace deploykit {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr std::ptrdiff_t kSmall = 48;  // candidates that are sorted rather than partitioned
constexpr size_t kMany = 2048;         // candidates whose masses are first summed by value
constexpr int kBuckets = 1024;

int64_t position(const Draw& d) { return d.known - d.prompt_len; }

bool counts_outputs(const Draw& d) {
  return (d.params->frequency_penalty != 0 || d.params->presence_penalty != 0) && d.known > d.prompt_len;
}

bool is_id(const Draw& d, int32_t token) { return token >= 0 && token < d.vocab; }

// Whether the row's known tokens end with all of `word` but its last id.
bool ends_with_head(const Draw& d, const std::vector<int32_t>& word) {
  const auto head = static_cast<int64_t>(word.size()) - 1;
  return head <= d.known && std::equal(word.begin(), word.end() - 1, d.tokens + (d.known - head));
}

// Distinct ids of tokens[begin, end) into scratch.touched, how often they stand there into scratch.counts.
void count_tokens(const Draw& d, int64_t begin, int64_t end, SamplerScratch& s) {
  if (static_cast<int64_t>(s.counts.size()) < d.vocab) s.counts.resize(static_cast<size_t>(d.vocab), 0);
  s.touched.clear();
  for (int64_t i = begin; i < end; ++i) {
    const int32_t token = d.tokens[i];
    if (is_id(d, token) && s.counts[static_cast<size_t>(token)]++ == 0) s.touched.push_back(token);
  }
}

void forget_counts(SamplerScratch& s) {
  for (int32_t token : s.touched) s.counts[static_cast<size_t>(token)] = 0;
}

// Whether all of scratch.touched are numbers below +inf.
bool below_inf(const float* x, const SamplerScratch& s) {
  for (int32_t token : s.touched) {
    if (!(x[token] < kInf)) return false;
  }
  return true;
}

// Steps 2 and 3. False where a value overflowed.
bool penalize(const Draw& d, float* x, SamplerScratch& s) {
  const SamplingParams& p = *d.params;
  bool fine = true;
  if (p.repetition_penalty != 1) {
    const float r = p.repetition_penalty;
    count_tokens(d, 0, d.known, s);
    for (int32_t token : s.touched) x[token] = x[token] > 0 ? x[token] / r : x[token] * r;
    fine = below_inf(x, s);
    forget_counts(s);
  }
  if (counts_outputs(d)) {
    count_tokens(d, d.prompt_len, d.known, s);
    for (int32_t token : s.touched) {
      const float frequency = static_cast<float>(s.counts[static_cast<size_t>(token)]) * p.frequency_penalty;
      x[token] = x[token] - frequency;
      x[token] = x[token] - p.presence_penalty;
    }
    fine = below_inf(x, s) && fine;
    forget_counts(s);
  }
  return fine;
}

void apply_mask(const Mask& mask, int64_t vocab, float* x) {
  for (size_t w = 0; w < mask.size(); ++w) {
    const uint32_t word = mask[w];
    if (word == ~uint32_t{0}) continue;
    const int64_t begin = static_cast<int64_t>(w) * 32, end = std::min(vocab, begin + 32);
    for (int64_t i = begin; i < end; ++i) x[i] = (word >> (i - begin) & 1u) != 0 ? x[i] : -kInf;
  }
}

// Of many candidates those whose values are in the bucket where the mass reaches `limit`; returns the mass above it.
double narrow(const std::vector<float>& x, const std::vector<double>& weights, double limit,
              std::vector<int32_t>& order) {
  const auto [min, max] = std::minmax_element(x.begin(), x.end());
  order.clear();
  const double top = *max, scale = (kBuckets - 1) / std::max(top - *min, 1e-300);
  const auto bucket = [&](float value) { return static_cast<int>((top - value) * scale); };
  double masses[kBuckets] = {};
  for (size_t i = 0; i < x.size(); ++i) masses[bucket(x[i])] += weights[i];
  double ahead = 0;
  int chosen = 0;
  const int last = bucket(*min);  // never empty: where rounding keeps the limit away, it is the one
  while (chosen < last && ahead + masses[chosen] < limit) ahead += masses[chosen++];
  for (size_t i = 0; i < x.size(); ++i) {
    if (bucket(x[i]) == chosen) order.push_back(static_cast<int32_t>(i));
  }
  return ahead;
}

}  // namespace

bool changes_logits(const Draw& d) {
  const SamplingParams& p = *d.params;
  return d.mask != nullptr || !p.logit_bias.empty() || p.repetition_penalty != 1 || counts_outputs(d) ||
         position(d) < p.min_tokens || !p.bad_words.empty();
}

bool process_logits(const Draw& d, float* x, SamplerScratch& s, SampledToken& out) {
  const SamplingParams& p = *d.params;
  bool fine = true;
  for (const auto& [token, bias] : p.logit_bias) {
    if (!is_id(d, token)) {
      out.code = "invalid";
      out.reason =
          "logit_bias names token " + std::to_string(token) + "; the vocabulary has " + std::to_string(d.vocab);
      return false;
    }
    x[token] = x[token] + bias;
  }
  fine = penalize(d, x, s);
  for (const auto& entry : p.logit_bias) fine &= x[entry.first] < kInf;
  if (!fine) {
    out.code = "nonfinite_logits";
    out.reason = "a logit overflowed under a bias or a penalty";
    return false;
  }
  if (position(d) < p.min_tokens) {
    for (int32_t token : *d.eos) {
      if (is_id(d, token)) x[token] = -kInf;
    }
    for (int32_t token : p.stop_token_ids) {
      if (is_id(d, token)) x[token] = -kInf;
    }
  }
  for (const std::vector<int32_t>& word : p.bad_words) {
    if (!word.empty() && is_id(d, word.back()) && ends_with_head(d, word)) x[word.back()] = -kInf;
  }
  if (d.mask != nullptr) {
    const int64_t words = (d.vocab + 31) / 32;
    if (static_cast<int64_t>(d.mask->size()) != words) {
      out.code = "invalid";
      out.reason = "the mask has " + std::to_string(d.mask->size()) + " words; " + std::to_string(d.vocab) +
                   " tokens take " + std::to_string(words);
      return false;
    }
    apply_mask(*d.mask, d.vocab, x);
  }
  return true;
}

float top_p_value(const std::vector<float>& x, const std::vector<double>& weights, double limit,
                  std::vector<int32_t>& order) {
  double ahead = 0;  // mass of what is more likely than [low, high)
  if (x.size() > kMany) {
    ahead = narrow(x, weights, limit, order);
  } else {
    order.resize(x.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
  }
  const auto value = [&](int32_t i) { return x[static_cast<size_t>(i)]; };
  const auto mass = [&](auto begin, auto end) {
    double sum = 0;
    for (auto it = begin; it != end; ++it) sum += weights[static_cast<size_t>(*it)];
    return sum;
  };
  auto low = order.begin(), high = order.end();
  while (high - low > kSmall) {
    const float a = value(*low), b = value(low[(high - low) / 2]), c = value(high[-1]);
    const float pivot = std::max(std::min(a, b), std::min(std::max(a, b), c));
    const auto equal = std::partition(low, high, [&](int32_t i) { return value(i) > pivot; });
    const auto less = std::partition(equal, high, [&](int32_t i) { return value(i) == pivot; });
    const double above = mass(low, equal), tied = mass(equal, less);
    if (ahead + above >= limit) {
      high = equal;
    } else if (ahead + above + tied >= limit || less == high) {
      return pivot;
    } else {
      ahead += above + tied;
      low = less;
    }
  }
  std::sort(low, high, [&](int32_t i, int32_t j) { return value(i) > value(j); });
  while (low != high) {
    const float tie = value(*low);
    while (low != high && value(*low) == tie) ahead += weights[static_cast<size_t>(*low++)];
    if (ahead >= limit || low == high) return tie;
  }
  return x.front();
}

}  // namespace deploykit
