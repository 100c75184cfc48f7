// Every operation against float64, on every instruction set that this CPU runs.
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "check.h"
#include "cpu/ops/ops.h"
#include "deploykit/error.h"

using namespace deploykit;
using namespace deploykit::cpu;

namespace {

const float kNan = std::numeric_limits<float>::quiet_NaN();
const float kInf = std::numeric_limits<float>::infinity();

std::vector<float> normal(int64_t n, uint32_t seed, float scale = 1.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> gauss(0.0f, scale);
  std::vector<float> x(static_cast<size_t>(n));
  for (float& v : x) v = gauss(random);
  return x;
}

// Distance in units of the last place of the float32 nearest to `exact`.
double ulps(float got, double exact) {
  const float nearest = static_cast<float>(exact);
  const double unit = std::max(std::fabs(static_cast<double>(std::nextafter(nearest, kInf)) - nearest), 1.5e-45);
  return std::fabs(got - exact) / unit;
}

template <class F>
void on_every_isa(F f) {
  for (Isa isa : available_isas()) f(ops_kernels(isa));
}

double act64(Activation act, double x) {
  switch (act) {
    case Activation::silu: return x / (1 + std::exp(-x));
    case Activation::gelu: return x * 0.5 * std::erfc(-x / std::sqrt(2.0));
    case Activation::gelu_tanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::relu: return x > 0 ? x : 0;
  }
  return 0;
}

}  // namespace

TEST(norms_are_within_float32_noise) {
  on_every_isa([](const OpsKernels& ops) {
    for (int64_t n : {1, 7, 16, 63, 64, 576, 1000, 8192}) {
      for (NormKind kind : {NormKind::rms, NormKind::layer}) {
        if (kind == NormKind::layer && n == 1) continue;
        const std::vector<float> x = normal(n, 1, 3.0f), w = normal(n, 2), b = normal(n, 3);
        Norm norm;
        norm.kind = kind;
        norm.weight_offset = 1.0f;
        std::vector<float> y(static_cast<size_t>(n) + 1, kNan);
        ops.norm(norm, x.data(), w.data(), b.data(), n, y.data());
        double mean = 0, squares = 0;
        if (kind == NormKind::layer) {
          for (float v : x) mean += v / static_cast<double>(n);
        }
        for (float v : x) squares += (v - mean) * (v - mean) / static_cast<double>(n);
        for (size_t i = 0; i < x.size(); ++i) {
          const double exact = (x[i] - mean) / std::sqrt(squares + norm.eps) * (w[i] + 1.0) + b[i];
          CHECK_NEAR(y[i], exact, 4e-6 * (std::fabs(exact) + 1));
        }
        CHECK(std::isnan(y[x.size()]));
        // In place, and without a bias.
        std::vector<float> z(static_cast<size_t>(n)), inplace = x;
        ops.norm(norm, x.data(), w.data(), nullptr, n, z.data());
        ops.norm(norm, inplace.data(), w.data(), nullptr, n, inplace.data());
        CHECK(z == inplace);
      }
    }
  });
}

TEST(rope_rotates_pairs_and_leaves_the_rest) {
  on_every_isa([](const OpsKernels& ops) {
    for (bool interleaved : {false, true}) {
      for (int32_t half : {4, 20, 32, 64}) {
        const int32_t heads = 3, head_dim = 2 * half + 8;
        Rope rope;
        for (int32_t i = 0; i < half; ++i) {
          rope.inv_freq.push_back(std::pow(10000.0f, -static_cast<float>(i) / static_cast<float>(half)));
        }
        rope.attention_factor = 1.25f;
        rope.interleaved = interleaved;
        RopeCache cache;
        cache.init(rope, 5000);
        cache.reach(10);
        const float* early = cache.cos(3);
        cache.reach(4322);
        CHECK(early == cache.cos(3));
        CHECK_EQ(cache.half(), half);
        CHECK_EQ(cache.interleaved(), interleaved);
        CHECK_THROWS(cache.reach(5001), "invalid");
        const int32_t position = 4321;
        const std::vector<float> before = normal(heads * head_dim, 5);
        std::vector<float> x = before;
        ops.rope(x.data(), heads, head_dim, cache.cos(position), cache.sin(position), half, interleaved);
        for (int32_t h = 0; h < heads; ++h) {
          for (int32_t i = 0; i < half; ++i) {
            const size_t a = static_cast<size_t>(h * head_dim + (interleaved ? 2 * i : i));
            const size_t b = interleaved ? a + 1 : a + static_cast<size_t>(half);
            const float angle = static_cast<float>(position) * rope.inv_freq[static_cast<size_t>(i)];
            const double c = std::cos(static_cast<double>(angle)) * 1.25;
            const double s = std::sin(static_cast<double>(angle)) * 1.25;
            CHECK_NEAR(x[a], before[a] * c - before[b] * s, 2e-6);
            CHECK_NEAR(x[b], before[b] * c + before[a] * s, 2e-6);
          }
          for (int32_t i = 2 * half; i < head_dim; ++i) {
            CHECK_EQ(x[static_cast<size_t>(h * head_dim + i)], before[static_cast<size_t>(h * head_dim + i)]);
          }
        }
      }
    }
  });
}

TEST(activations_match_float64) {
  on_every_isa([](const OpsKernels& ops) {
    for (Activation act : {Activation::silu, Activation::gelu, Activation::gelu_tanh, Activation::relu}) {
      std::vector<float> x = normal(1021, 7, 4.0f);
      for (float v : {0.0f, -0.0f, 1e-30f, -1e-30f, 60.0f, -60.0f, 300.0f, -300.0f}) x.push_back(v);
      const std::vector<float> up = normal(static_cast<int64_t>(x.size()), 8);
      std::vector<float> alone = x, gated = x;
      ops.activate(act, alone.data(), nullptr, static_cast<int64_t>(x.size()));
      ops.activate(act, gated.data(), up.data(), static_cast<int64_t>(x.size()));
      for (size_t i = 0; i < x.size(); ++i) {
        const double exact = act64(act, x[i]);
        CHECK_NEAR(alone[i], exact, 4e-6 * std::fabs(exact) + 1e-10);
        CHECK_NEAR(gated[i], exact * up[i], 4e-6 * std::fabs(exact * up[i]) + 1e-10);
      }
      float bad[3] = {kNan, 1.0f, kNan};
      ops.activate(act, bad, nullptr, 3);
      CHECK(std::isnan(bad[0]) && !std::isnan(bad[1]) && std::isnan(bad[2]));
    }
  });
}

TEST(the_exponential_is_within_two_ulp) {
  // Seen through silu(x) = x / (1 + e^-x), which is x e^x where x is far below zero.
  on_every_isa([](const OpsKernels& ops) {
    double worst = 0;
    for (float x = -86.0f; x < -20.0f; x += 0.00371f) {
      float y = x;
      ops.activate(Activation::silu, &y, nullptr, 1);
      worst = std::max(worst, ulps(y, x / (1 + std::exp(-static_cast<double>(x)))));
    }
    CHECK(worst < 3.0);  // two of the exponential, one of the division
  });
}

TEST(axpy_scale_and_softcap) {
  on_every_isa([](const OpsKernels& ops) {
    for (int64_t n : {1, 15, 16, 17, 100}) {
      const std::vector<float> x = normal(n, 9), before = normal(n, 10);
      std::vector<float> y = before, z = before, capped = normal(n, 11, 60.0f), small = normal(n, 12, 0.01f);
      const std::vector<float> capped_before = capped, small_before = small;
      ops.axpy(0.37f, x.data(), y.data(), n);
      ops.scale(1.7f, z.data(), n);
      ops.softcap(30.0f, capped.data(), n);
      ops.softcap(30.0f, small.data(), n);
      for (size_t i = 0; i < x.size(); ++i) {
        CHECK_NEAR(y[i], before[i] + 0.37f * static_cast<double>(x[i]), 5e-7);
        CHECK_EQ(z[i], 1.7f * before[i]);
        CHECK_NEAR(capped[i], 30 * std::tanh(capped_before[i] / 30.0), 3e-6 * 30);
        CHECK_NEAR(small[i], 30 * std::tanh(small_before[i] / 30.0), 3e-7 * std::fabs(small_before[i]) + 1e-12);
      }
    }
  });
}

TEST(argmax_takes_the_lowest_index_and_refuses_what_is_not_finite) {
  on_every_isa([](const OpsKernels& ops) {
    for (int64_t n : {1, 5, 16, 31, 32, 2047, 2048, 2049, 6000, 49152}) {
      std::vector<float> x = normal(n, 13);
      int64_t expected = 0;
      for (int64_t i = 1; i < n; ++i) {
        if (x[static_cast<size_t>(i)] > x[static_cast<size_t>(expected)]) expected = i;
      }
      CHECK_EQ(ops.argmax(x.data(), n), expected);
      for (int64_t at : {int64_t{0}, n / 3, n - 1}) {
        std::vector<float> y = x;
        y[static_cast<size_t>(at)] = 100.0f;
        y[static_cast<size_t>(n - 1)] = 100.0f;
        CHECK_EQ(ops.argmax(y.data(), n), at);
        for (float bad : {kNan, kInf, -kInf}) {
          std::vector<float> z = x;
          z[static_cast<size_t>(at)] = bad;
          CHECK_EQ(ops.argmax(z.data(), n), -1);
        }
      }
      std::vector<float> same(static_cast<size_t>(n), -2.0f);
      CHECK_EQ(ops.argmax(same.data(), n), 0);
    }
  });
}

TEST(what_has_no_path_is_refused_by_name) {
#if defined(__x86_64__)
  CHECK_THROWS(ops_kernels(Isa::neon), "unsupported");
#endif
}

CHECK_MAIN
