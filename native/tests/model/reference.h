// Tiny random models and what they should compute: a transformer in float64 and plain loops, written from model.h.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "core/forward.h"
#include "deploykit/engine.h"

namespace reference {

using namespace deploykit;
using Vec = std::vector<double>;

struct Stored {
  WeightSpec spec;
  std::vector<uint8_t> bytes;
  Vec values;  // [rows * cols], as the bytes say
};

struct Model {
  ModelDescription description;
  std::vector<Stored> weights;

  std::vector<WeightSpec> manifest() const {
    std::vector<WeightSpec> specs;
    for (const Stored& stored : weights) specs.push_back(stored.spec);
    return specs;
  }
  const Vec& operator[](const std::string& name) const {
    for (const Stored& stored : weights) {
      if (stored.spec.name == name) return stored.values;
    }
    throw std::runtime_error("the reference has no " + name);
  }
};

inline WeightTensor tensor(const Stored& stored) {
  WeightTensor t;
  t.spec = stored.spec;
  t.data = stored.bytes.data();
  t.data_bytes = static_cast<int64_t>(stored.bytes.size());
  return t;
}

inline void load(ForwardModel& target, const Model& model) {
  for (const Stored& stored : model.weights) target.load_weight(tensor(stored));
  target.finish_loading();
}

inline float half(uint16_t bits) {  // of normal numbers
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16, exponent = (bits >> 10 & 31u) + 112;
  const uint32_t word = sign | exponent << 23 | (bits & 1023u) << 13;
  float value;
  std::memcpy(&value, &word, 4);
  return value;
}

// Random values of about `spread`, as the format stores them: f32, bf16, q8_0 or q4_1.
inline void fill(Stored& stored, double spread, double mean, std::mt19937& random) {
  std::normal_distribution<double> normal(mean, spread);
  const auto n = static_cast<size_t>(stored.spec.rows * stored.spec.cols);
  stored.values.resize(n);
  const auto put = [&](const void* data, size_t bytes) {
    const auto* from = static_cast<const uint8_t*>(data);
    stored.bytes.insert(stored.bytes.end(), from, from + bytes);
  };
  const WeightFormat format = stored.spec.format;
  if (format == WeightFormat::f32 || format == WeightFormat::bf16) {
    for (double& value : stored.values) {
      const auto single = static_cast<float>(normal(random));
      uint32_t word;
      std::memcpy(&word, &single, 4);
      if (format == WeightFormat::bf16) word &= 0xffff0000u;
      float kept;
      std::memcpy(&kept, &word, 4);
      value = kept;
      const auto top = static_cast<uint16_t>(word >> 16);
      format == WeightFormat::bf16 ? put(&top, 2) : put(&kept, 4);
    }
    return;
  }
  // A scale of about `spread` / levels: exponents of half precision around it, random mantissas.
  const bool q8 = format == WeightFormat::q8_0;
  const int exponent = static_cast<int>(std::floor(std::log2(spread / (q8 ? 64 : 4)))) + 15;
  for (size_t block = 0; block < n; block += 32) {
    const auto d = static_cast<uint16_t>(std::clamp(exponent, 1, 30) << 10 | (random() & 1023u));
    put(&d, 2);
    uint16_t m = 0;
    if (!q8) {
      const auto above = static_cast<uint32_t>(std::clamp(exponent + 3, 1, 30));
      m = static_cast<uint16_t>(0x8000u | above << 10 | (random() & 1023u));
      put(&m, 2);
    }
    uint8_t quants[32];
    for (int i = 0; i < (q8 ? 32 : 16); ++i) quants[i] = static_cast<uint8_t>(random() & 255u);
    put(quants, q8 ? 32 : 16);
    for (size_t i = 0; i < 32; ++i) {
      const int q = q8 ? static_cast<int8_t>(quants[i]) : i < 16 ? quants[i] & 15 : quants[i - 16] >> 4;
      stored.values[block + i] = static_cast<double>(half(d)) * q + (q8 ? 0.0 : static_cast<double>(half(m)));
    }
  }
}

inline bool is_vector(const std::string& name) {
  return name.find("norm.weight") != std::string::npos || name.find(".bias") != std::string::npos ||
         name.find(".sinks") != std::string::npos;
}

inline Model random_model(const ModelDescription& description, WeightFormat format, uint32_t seed,
                          WeightFormat table = WeightFormat::f32) {
  std::mt19937 random(seed);
  Model model;
  model.description = description;
  for (const WeightSpec& spec : required_weights(description)) {
    Stored stored;
    stored.spec = spec;
    const bool vector = is_vector(spec.name), bias = spec.name.find(".bias") != std::string::npos;
    if (!vector) stored.spec.format = spec.name.rfind("embed", 0) == 0 && table != WeightFormat::f32 ? table : format;
    const bool norm = vector && !bias && spec.name.find("sinks") == std::string::npos;
    const bool embedding = spec.name.rfind("embed", 0) == 0;
    const double spread = vector ? 0.2 : embedding ? 0.5 : 1.2 / std::sqrt(static_cast<double>(spec.cols));
    fill(stored, spread, norm ? 1.0 - static_cast<double>(description.norm.weight_offset) : 0.0, random);
    model.weights.push_back(std::move(stored));
  }
  return model;
}

inline Vec linear(const Model& model, const std::string& name, const Vec& x, bool bias) {
  const Vec& w = model[name + ".weight"];
  const size_t rows = w.size() / x.size();
  Vec y(rows, 0.0);
  for (size_t r = 0; r < rows; ++r) {
    for (size_t i = 0; i < x.size(); ++i) y[r] += w[r * x.size() + i] * x[i];
    if (bias) y[r] += model[name + ".bias"][r];
  }
  return y;
}

inline Vec norm(const Norm& kind, const Vec& x, const Vec& weight, const Vec* bias) {
  const auto n = static_cast<double>(x.size());
  double mean = 0, square = 0;
  for (double value : x) mean += value / n;
  if (kind.kind == NormKind::rms) mean = 0;
  for (double value : x) square += (value - mean) * (value - mean) / n;
  Vec y(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    y[i] = (x[i] - mean) / std::sqrt(square + kind.eps) * (weight[i] + kind.weight_offset) + (bias ? (*bias)[i] : 0.0);
  }
  return y;
}

inline Vec norm(const Model& model, const std::string& name, const Vec& x) {
  const Vec* bias = model.description.norm_bias ? &model[name + ".bias"] : nullptr;
  return norm(model.description.norm, x, model[name + ".weight"], bias);
}

inline double activate(Activation kind, double x) {
  switch (kind) {
    case Activation::silu: return x / (1 + std::exp(-x));
    case Activation::gelu: return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case Activation::gelu_tanh: return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::relu: return std::max(x, 0.0);
  }
  return 0;
}

inline void rotate(const Rope& rope, Vec& head, int32_t position) {
  const size_t half = rope.inv_freq.size();
  for (size_t i = 0; i < half; ++i) {
    const double angle = static_cast<double>(static_cast<float>(position) * rope.inv_freq[i]);
    const double cos = std::cos(angle) * rope.attention_factor, sin = std::sin(angle) * rope.attention_factor;
    const size_t a = rope.interleaved ? 2 * i : i, b = rope.interleaved ? 2 * i + 1 : i + half;
    const double u = head[a], w = head[b];
    head[a] = u * cos - w * sin;
    head[b] = w * cos + u * sin;
  }
}

// Heads of a projection, normalized and rotated.
inline std::vector<Vec> heads_of(const Model& model, const AttentionSpec& spec, Vec all, const std::string& norm_name,
                                 int32_t position) {
  const auto dim = static_cast<size_t>(spec.head_dim);
  if (spec.qk_norm == QkNorm::full) all = norm(model.description.norm, all, model[norm_name], nullptr);
  std::vector<Vec> heads;
  for (size_t h = 0; h * dim < all.size(); ++h) {
    const auto begin = all.begin() + static_cast<std::ptrdiff_t>(h * dim);
    Vec head(begin, begin + spec.head_dim);
    if (spec.qk_norm == QkNorm::head) head = norm(model.description.norm, head, model[norm_name], nullptr);
    if (spec.rope >= 0) rotate(model.description.ropes[static_cast<size_t>(spec.rope)], head, position);
    heads.push_back(std::move(head));
  }
  return heads;
}

inline Vec mlp(const Model& model, const std::string& at, const MlpSpec& spec, const Vec& x) {
  Vec up = linear(model, at + "up", x, spec.bias);
  if (spec.gated) {
    const Vec gate = linear(model, at + "gate", x, spec.bias);
    for (size_t i = 0; i < up.size(); ++i) up[i] *= activate(spec.activation, gate[i]);
  } else {
    for (double& value : up) value = activate(spec.activation, value);
  }
  return linear(model, at + "down", up, spec.bias);
}

inline Vec routed(const Model& model, const std::string& at, const MlpSpec& spec, const Vec& x) {
  const MoeSpec& moe = spec.moe;
  const Vec logits = linear(model, at + "router", x, spec.bias);
  Vec weights(logits.size());
  double sum = 0;
  for (double logit : logits) sum += std::exp(logit);
  for (size_t e = 0; e < logits.size(); ++e) {
    weights[e] = moe.sigmoid ? 1 / (1 + std::exp(-logits[e])) : std::exp(logits[e]) / sum;
  }
  std::vector<size_t> order(logits.size());
  for (size_t e = 0; e < order.size(); ++e) order[e] = e;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  order.resize(static_cast<size_t>(moe.top_k));
  double chosen = 0;
  for (size_t e : order) chosen += weights[e];
  if (!moe.normalize && !moe.softmax_after_topk) chosen = 1;
  Vec out(x.size(), 0.0);
  for (size_t e : order) {
    const Vec part = mlp(model, at + "experts." + std::to_string(e) + ".", spec, x);
    for (size_t i = 0; i < out.size(); ++i) out[i] += weights[e] / chosen * part[i];
  }
  return out;
}

// Attention of the last token of `keys` and `values` ([token][kv_head][dim]).
inline Vec attend(const Model& model, const AttentionSpec& spec, const std::string& at, const std::vector<Vec>& q,
                  const std::vector<std::vector<Vec>>& keys, const std::vector<std::vector<Vec>>& values) {
  const size_t last = keys.size() - 1, dim = static_cast<size_t>(spec.head_dim);
  const size_t first = spec.window > 0 && keys.size() > static_cast<size_t>(spec.window)
                           ? keys.size() - static_cast<size_t>(spec.window) : 0;
  Vec out;
  for (size_t h = 0; h < q.size(); ++h) {
    const size_t kv = h / (q.size() / static_cast<size_t>(spec.kv_heads));
    Vec weights, sums(dim, 0.0);
    double total = spec.sinks ? std::exp(model[at + "sinks"][h]) : 0.0;
    for (size_t t = first; t <= last; ++t) {
      double score = 0;
      for (size_t i = 0; i < dim; ++i) score += q[h][i] * keys[t][kv][i];
      score *= static_cast<double>(spec.scale);
      if (spec.softcap > 0) score = spec.softcap * std::tanh(score / spec.softcap);
      weights.push_back(std::exp(score));
      total += weights.back();
    }
    for (size_t t = first; t <= last; ++t) {
      for (size_t i = 0; i < dim; ++i) sums[i] += weights[t - first] / total * values[t][kv][i];
    }
    out.insert(out.end(), sums.begin(), sums.end());
  }
  return out;
}

struct Result {
  std::vector<Vec> hidden, logits;  // of every token
};

// A whole sequence; `given` replaces the embeddings of tokens.
inline Result run(const Model& model, const std::vector<int32_t>& tokens, const std::map<size_t, Vec>& given = {}) {
  const ModelDescription& d = model.description;
  const auto hidden = static_cast<size_t>(d.hidden);
  std::vector<std::vector<std::vector<Vec>>> keys(d.layers.size()), values(d.layers.size());  // [layer][token][head]
  Result result;
  for (size_t t = 0; t < tokens.size(); ++t) {
    Vec x(hidden);
    for (size_t i = 0; i < hidden; ++i) {
      x[i] = model["embed.weight"][static_cast<size_t>(tokens[t]) * hidden + i] * d.embedding_multiplier;
    }
    if (given.count(t) > 0) x = given.at(t);
    for (size_t l = 0; l < d.layers.size(); ++l) {
      const LayerSpec& layer = d.layers[l];
      const AttentionSpec& spec = layer.attention;
      const std::string at = "layers." + std::to_string(l) + ".";
      const auto position = static_cast<int32_t>(t);
      const auto add = [&](Vec y, bool post, const std::string& name) {
        if (post) y = norm(model, at + name, y);
        for (size_t i = 0; i < hidden; ++i) x[i] += layer.residual_multiplier * y[i];
      };
      Vec a = layer.attn_norm ? norm(model, at + "attn_norm", x) : x;
      const auto projected = [&](const char* name) { return linear(model, at + name, a, spec.qkv_bias); };
      std::vector<Vec> q = heads_of(model, spec, projected("q"), at + "q_norm.weight", position);
      keys[l].push_back(heads_of(model, spec, projected("k"), at + "k_norm.weight", position));
      AttentionSpec plain = spec;
      plain.rope = -1;
      plain.qk_norm = QkNorm::none;
      values[l].push_back(heads_of(model, plain, projected("v"), "", position));
      if (spec.logn_trained_len > 0) {
        const double trained = std::log(static_cast<double>(spec.logn_trained_len));
        const double factor = std::max(1.0, std::log(static_cast<double>(t) + 1) / trained);
        for (Vec& head : q) {
          for (double& value : head) value *= factor;
        }
      }
      add(linear(model, at + "o", attend(model, spec, at, q, keys[l], values[l]), spec.o_bias), layer.attn_post_norm,
          "attn_post_norm");
      const Vec b = layer.mlp_norm ? norm(model, at + "mlp_norm", x) : x;
      add(layer.mlp.moe.experts > 0 ? routed(model, at, layer.mlp, b) : mlp(model, at, layer.mlp, b),
          layer.mlp_post_norm, "mlp_post_norm");
    }
    const Vec last = norm(model, "final_norm", x);
    Vec logits = linear(model, d.tied ? "embed" : "head", last, d.head_bias);
    for (double& value : logits) {
      value *= d.logits_multiplier;
      if (d.logits_softcap > 0) value = d.logits_softcap * std::tanh(value / d.logits_softcap);
    }
    result.hidden.push_back(last);
    result.logits.push_back(std::move(logits));
  }
  return result;
}

}  // namespace reference
