// The sampler against plain sorted arithmetic; the golden vectors run through the binding.
#include <algorithm>
#include <numeric>
#include <random>

#include "check.h"
#include "core/philox.h"
#include "core/sampler.h"
#include "core/sampler_steps.h"

using namespace deploykit;

namespace {

constexpr float kInf = INFINITY;

std::vector<float> random_logits(std::mt19937& random, int64_t vocab, float spread, bool ties) {
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> x(static_cast<size_t>(vocab));
  for (float& value : x) {
    value = normal(random);
    if (ties) value = std::round(value * 4) / 4;
  }
  return x;
}

struct Scanned {
  std::vector<float> maxima;
  LogitRow row;
  explicit Scanned(const std::vector<float>& x)
      : maxima(static_cast<size_t>(logit_blocks(static_cast<int64_t>(x.size())))) {
    block_maxima(x.data(), static_cast<int64_t>(x.size()), maxima.data());
    row = logit_row(x.data(), static_cast<int64_t>(x.size()), maxima.data());
  }
};

// Steps 7 to 11 by a full sort; `margin` is how near a boundary came to another answer.
int32_t reference(const std::vector<float>& x, const SamplingParams& p, double u, double& margin) {
  const auto n = x.size();
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return x[a] > x[b]; });
  std::vector<double> w(n, 0);
  const auto k = static_cast<size_t>(p.top_k);
  const float kth = k > 0 && k < n ? x[order[k - 1]] : -kInf;
  double total = 0;
  for (size_t i : order) {
    if (x[i] < kth || x[i] == -kInf) continue;
    w[i] = std::exp((static_cast<double>(x[i]) - x[order[0]]) / p.temperature);
    total += w[i];
  }
  std::vector<bool> keep(n);
  double ahead = 0;
  for (size_t a = 0; a < n;) {
    size_t b = a;
    double tied = 0;
    while (b < n && x[order[b]] == x[order[a]]) tied += w[order[b++]];
    if (p.top_p < 1) margin = std::min(margin, std::fabs(ahead - p.top_p * total) / total);
    for (size_t i = a; i < b; ++i) {
      keep[order[i]] = (p.top_p >= 1 || ahead < p.top_p * total) && w[order[i]] >= p.min_p && w[order[i]] > 0;
      if (p.min_p > 0) margin = std::min(margin, std::fabs(w[order[i]] - p.min_p));
    }
    ahead += tied;
    a = b;
  }
  double mass = 0, edge = 0;
  for (size_t i = 0; i < n; ++i) mass += keep[i] ? w[i] : 0;
  for (size_t i = 0; i < n; ++i) {
    if (!keep[i]) continue;
    margin = std::min(margin, std::fabs(edge / mass - u));
    edge += w[i];
    if (edge > u * mass) {
      margin = std::min(margin, std::fabs(edge / mass - u));
      return static_cast<int32_t>(i);
    }
  }
  return -1;
}

SampledToken sample(const std::vector<float>& x, const SamplingParams& p, uint64_t seed, SamplerScratch& scratch) {
  static const std::vector<int32_t> none;
  Draw d;
  d.logits = x.data();
  d.vocab = static_cast<int64_t>(x.size());
  d.params = &p;
  d.seed = seed;
  d.eos = &none;
  return sample_token(d, scratch);
}

}  // namespace

TEST(maxima_and_finiteness_at_every_place) {
  for (int64_t vocab : {1, 15, 63, 64, 65, 127, 130, 256}) {
    for (int64_t at = 0; at < vocab; ++at) {
      std::vector<float> x(static_cast<size_t>(vocab), -2.0f);
      x[static_cast<size_t>(at)] = 5.0f;
      Scanned scanned(x);
      CHECK_EQ(first_maximum(scanned.row), static_cast<int32_t>(at));
      for (float bad : {kInf, -kInf, static_cast<float>(NAN)}) {
        x[static_cast<size_t>(at)] = bad;
        CHECK(!block_maxima(x.data(), vocab, scanned.maxima.data()));
      }
      x[static_cast<size_t>(at)] = 3e38f;
      CHECK(block_maxima(x.data(), vocab, scanned.maxima.data()));
    }
  }
}

TEST(exponentials) {
  std::vector<float> x;
  for (float value = 0; value > -800; value -= 0.37f) x.push_back(value);
  x.push_back(-kInf);
  for (double temperature : {1.0, 0.3, 2.5}) {
    std::vector<double> w(x.size());
    exp_weights(x.data(), static_cast<int64_t>(x.size()), 0.0f, temperature, w.data());
    for (size_t i = 0; i < x.size(); ++i) {
      const double d = static_cast<double>(x[i]) / temperature, exact = d > -700 ? std::exp(d) : 0;
      // the inverse of the temperature is rounded: an error of the exponent, half a unit in its last place
      CHECK_NEAR(w[i], exact, exact * (1e-15 + 2.5e-16 * std::min(700.0, -d)));
    }
    CHECK(w[0] == 1.0);
  }
  double w = 0;
  const float best = 3.0f;
  exp_weights(&best, 1, best, 1e-310, &w);  // a temperature so small that its inverse is infinite
  CHECK(w == 1.0);
}

TEST(every_instruction_set_gives_the_same_bits) {
  std::mt19937 random(2);
  const std::vector<const LogitKernels*> all = logit_kernels();
  for (int64_t vocab : {1, 64, 100, 3001}) {
    const std::vector<float> x = random_logits(random, vocab, 9, false);
    const Scanned scanned(x);
    const auto blocks = scanned.maxima.size();
    std::vector<double> sums(blocks), first_sums(blocks), w(x.size()), first_w(x.size());
    std::vector<float> maxima(blocks);
    all[0]->sums(scanned.row, 0.8, first_sums.data());
    all[0]->weights(x.data(), vocab, scanned.row.max, 0.8, first_w.data());
    for (const LogitKernels* kernels : all) {
      CHECK(kernels->maxima(x.data(), vocab, maxima.data()));
      kernels->sums(scanned.row, 0.8, sums.data());
      kernels->weights(x.data(), vocab, scanned.row.max, 0.8, w.data());
      CHECK(maxima == scanned.maxima && sums == first_sums && w == first_w);
    }
  }
}

TEST(sums_thresholds_and_ranks) {
  std::mt19937 random(7);
  std::vector<float> buffer;
  std::vector<int32_t> ids;
  for (int64_t vocab : {1, 63, 64, 200, 3000, 20001}) {
    for (bool ties : {false, true}) {
      const std::vector<float> x = random_logits(random, vocab, 5, ties);
      const Scanned scanned(x);
      std::vector<double> sums(scanned.maxima.size());
      double exact = 0;
      for (float value : x) exact += std::exp((static_cast<double>(value) - scanned.row.max) / 0.7);
      CHECK_NEAR(exp_sums(scanned.row, 0.7, sums.data()), exact, exact * 1e-13);
      std::vector<float> sorted = x;
      std::sort(sorted.rbegin(), sorted.rend());
      for (int64_t k : {int64_t{1}, int64_t{2}, vocab / 64, vocab / 3, vocab}) {
        if (k < 1 || k > vocab) continue;
        const float value = kth_highest(scanned.row, k, buffer);
        CHECK(value == sorted[static_cast<size_t>(k - 1)]);
        collect_at_least(scanned.row, value, ids);
        CHECK(std::is_sorted(ids.begin(), ids.end()));
        const auto expected = std::count_if(x.begin(), x.end(), [&](float v) { return v >= value; });
        CHECK_EQ(static_cast<int64_t>(ids.size()), static_cast<int64_t>(expected));
      }
      const auto token = static_cast<int32_t>(vocab / 2);
      int32_t rank = 1;
      for (int32_t i = 0; i < vocab; ++i) {
        const float a = x[static_cast<size_t>(i)], own = x[static_cast<size_t>(token)];
        rank += a > own || (a == own && i < token);
      }
      CHECK_EQ(rank_of(scanned.row, token), rank);
    }
  }
}

TEST(masked_tokens_are_never_the_kth) {
  std::vector<float> x(500, -kInf);
  x[10] = 1;
  x[400] = 2;
  const Scanned scanned(x);
  std::vector<float> buffer;
  std::vector<int32_t> ids;
  collect_at_least(scanned.row, kth_highest(scanned.row, 5, buffer), ids);
  CHECK((ids == std::vector<int32_t>{10, 400}));
}

TEST(draws_are_those_of_a_full_sort) {
  std::mt19937 random(11);
  SamplerScratch scratch;
  int compared = 0;
  for (int i = 0; i < 3000; ++i) {
    const int64_t vocab = 1 + static_cast<int64_t>(random() % (i % 10 == 0 ? 5000 : 400));
    const float spreads[] = {0.0f, 0.3f, 2.0f, 8.0f};
    const std::vector<float> x = random_logits(random, vocab, spreads[random() % 4], random() % 2 == 0);
    SamplingParams p;
    const double temperatures[] = {1.0, 0.05, 0.7, 3.0}, top_ps[] = {1.0, 0.9, 0.3, 0.999, 1e-6},
                 min_ps[] = {0.0, 0.0, 0.02, 0.5};
    p.temperature = temperatures[random() % 4];
    p.top_p = top_ps[random() % 5];
    p.min_p = min_ps[random() % 4];
    const int32_t top_ks[] = {0, 0, 1, 5, 40, 1000};
    p.top_k = top_ks[random() % 6];
    const uint64_t seed = random();
    double margin = 1;
    const int32_t expected = reference(x, p, philox_uniform(seed, 0), margin);
    const SampledToken drawn = sample(x, p, seed, scratch);
    CHECK(drawn.code.empty());
    if (margin < 1e-9) continue;
    ++compared;
    CHECK_EQ(drawn.token, expected);
  }
  CHECK(compared > 2000);
}

TEST(top_p_of_many_candidates) {
  std::mt19937 random(3);
  std::vector<int32_t> order;
  for (int i = 0; i < 200; ++i) {
    const std::vector<float> x = random_logits(random, 1 + static_cast<int64_t>(random() % 3000), 1, i % 2 == 0);
    std::vector<double> w;
    double total = 0;
    for (float value : x) total += w.emplace_back(std::exp(static_cast<double>(value)));
    const double limit = total * (1 + static_cast<double>(random() % 1000)) / 1001;
    const float value = top_p_value(x, w, limit, order);
    double above = 0, at = 0;
    for (size_t j = 0; j < x.size(); ++j) (x[j] > value ? above : at) += x[j] >= value ? w[j] : 0;
    CHECK(above < limit * (1 + 1e-12));
    CHECK(above + at >= limit * (1 - 1e-12));
  }
}

TEST(log_probabilities) {
  const std::vector<float> x = {1, 3, 3, -2, 0};
  SamplerScratch scratch;
  TokenLogprob out;
  CHECK(token_logprob(x.data(), 5, 2, 3, scratch, out));
  double total = 0;
  for (float value : x) total += std::exp(static_cast<double>(value));
  CHECK_NEAR(out.logprob, 3 - std::log(total), 1e-12);
  CHECK_EQ(out.rank, 2);
  CHECK_EQ(out.top.size(), size_t{3});
  CHECK(out.top[0].first == 1 && out.top[1].first == 2 && out.top[2].first == 0);
  CHECK(token_logprob(x.data(), 5, 3, 99, scratch, out));
  CHECK_EQ(out.top.size(), size_t{5});
  const float bad[] = {1, NAN};
  CHECK(!token_logprob(bad, 2, 0, 0, scratch, out));
}

TEST(scratch_carries_nothing_over) {
  std::mt19937 random(5);
  SamplerScratch used;
  const std::vector<int32_t> tokens = {1, 2, 2, 3, 3, 3, -7, 100000}, none;
  for (int i = 0; i < 200; ++i) {
    const std::vector<float> x = random_logits(random, 70 + static_cast<int64_t>(random() % 200), 3, false);
    SamplingParams p;
    p.temperature = i % 3 == 0 ? 0 : 1;
    p.repetition_penalty = i % 2 == 0 ? 1.3f : 1.0f;
    p.frequency_penalty = i % 5 == 0 ? 0.7f : 0.0f;
    p.top_k = i % 4 == 0 ? 7 : 0;
    p.logprobs = 2;
    Draw d;
    d.logits = x.data();
    d.vocab = static_cast<int64_t>(x.size());
    d.params = &p;
    d.seed = static_cast<uint64_t>(i);
    d.tokens = tokens.data();
    d.known = static_cast<int64_t>(tokens.size());
    d.prompt_len = 3;
    d.eos = &none;
    SamplerScratch fresh;
    const SampledToken a = sample_token(d, used), b = sample_token(d, fresh);
    CHECK_EQ(a.token, b.token);
    CHECK(a.logprob.logprob == b.logprob.logprob && a.logprob.top == b.logprob.top);
  }
}

CHECK_MAIN
