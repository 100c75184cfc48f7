// Rows of random Q, K and V, KV memory full of NaN around them, and float64 references of the same quantization.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "cpu/attention/attention.h"

namespace fixture {

using namespace deploykit;
using namespace deploykit::cpu;

struct Shape {
  KvType type = KvType::bf16;
  int32_t heads = 3, kv_heads = 1, head_dim = 64, block_len = 64;
  int32_t window = 0;
  float softcap = 0.0f;
  bool sinks = false;
};

struct Free {
  void operator()(void* p) const { std::free(p); }
};
using Bytes = std::unique_ptr<uint8_t, Free>;
inline Bytes aligned(int64_t bytes) {
  return Bytes(static_cast<uint8_t*>(std::aligned_alloc(64, static_cast<size_t>((bytes + 63) / 64 * 64))));
}

// float32 to f16 and back without the code under test, to the nearest and ties to even; `up` takes the next above.
inline double f16(double x) {
  if (x == 0) return 0;
  int exponent = 0;
  std::frexp(x, &exponent);
  const double unit = std::ldexp(1.0, std::max(exponent - 11, -24));
  return std::nearbyint(x / unit) * unit;
}
inline double f16_above(double x) {
  const double h = f16(x);
  int exponent = 0;
  if (h >= x) return h;
  std::frexp(h, &exponent);
  return f16(h + std::ldexp(1.0, std::max(exponent - 11, -24)));
}
inline double bf16(double x) {
  if (x == 0) return 0;
  int exponent = 0;
  std::frexp(x, &exponent);
  const double unit = std::ldexp(1.0, exponent - 8);
  return std::nearbyint(x / unit) * unit;
}

// x as KV memory of `levels` steps gives it back.
inline std::vector<double> quantized(const float* x, int32_t n, int levels) {
  const float low = *std::min_element(x, x + n), high = *std::max_element(x, x + n);
  const float zero = static_cast<float>(-f16_above(-static_cast<double>(low)));
  const float scale = static_cast<float>(f16_above((high - zero) / static_cast<float>(levels)));
  const float inverse = scale > 0 ? 1.0f / scale : 0.0f;
  std::vector<double> y(static_cast<size_t>(n));
  for (int32_t i = 0; i < n; ++i) {
    const double q = std::nearbyint(std::min(std::max((x[i] - zero) * inverse, 0.0f), static_cast<float>(levels)));
    y[static_cast<size_t>(i)] = static_cast<double>(zero) + scale * q;
  }
  return y;
}
// M x: geometry.h's transform of 4-bit keys, by its definition.
template <class T>
std::vector<double> mixed(const T* x, int32_t n) {
  const int32_t block = n & -n, blocks = n / block;
  std::vector<double> y(static_cast<size_t>(n), 0.0);
  for (int32_t i = 0; i < n; ++i) {
    for (int32_t j = 0; j < n; ++j) {
      const double across = blocks == 1 ? 1.0 : (i / block == j / block ? 1.0 : 0.0) - 2.0 / blocks;
      const double sign = __builtin_popcount(static_cast<unsigned>(i % block & j % block)) % 2 != 0 ? -1.0 : 1.0;
      y[static_cast<size_t>(i)] += across * sign / std::sqrt(static_cast<double>(block)) * static_cast<double>(x[j]);
    }
  }
  return y;
}
// A key or value as KV memory gives it back; a 4-bit key out of the transform again, which is its own inverse.
inline std::vector<double> as_stored(const float* x, int32_t n, KvType type, bool value) {
  if (type == KvType::int4 && !value) {
    const std::vector<double> key = mixed(x, n);
    const std::vector<float> rounded(key.begin(), key.end());
    return mixed(quantized(rounded.data(), n, 15).data(), n);
  }
  if (type == KvType::int8 || (type == KvType::k8v4 && !value)) return quantized(x, n, 255);
  if (type == KvType::int4 || type == KvType::k8v4) return quantized(x, n, 15);
  std::vector<double> y(x, x + n);
  for (double& v : y) v = type == KvType::f16 ? f16(v) : type == KvType::bf16 ? bf16(v) : v;
  return y;
}

class Rows {
 public:
  Rows(const Shape& shape, std::vector<int32_t> lengths, uint32_t seed) : shape_(shape), lengths_(lengths) {
    std::mt19937 random(seed);
    std::normal_distribution<float> gauss;
    const int32_t qn = shape.heads * shape.head_dim, kn = shape.kv_heads * shape.head_dim;
    int32_t blocks = 3;
    for (int32_t n : lengths) {
      q_.emplace_back(static_cast<size_t>(n) * qn);
      k_.emplace_back(static_cast<size_t>(n) * kn);
      v_.emplace_back(static_cast<size_t>(n) * kn);
      for (float& x : q_.back()) x = 1.5f * gauss(random);
      for (float& x : k_.back()) x = gauss(random) + 0.3f;
      for (float& x : v_.back()) x = gauss(random) - 0.2f;
      tables_.emplace_back();
      blocks += (n + shape.block_len - 1) / shape.block_len;
    }
    // Blocks in random order, with some that nobody owns.
    std::vector<int32_t> ids(static_cast<size_t>(blocks));
    for (int32_t i = 0; i < blocks; ++i) ids[static_cast<size_t>(i)] = i;
    std::shuffle(ids.begin(), ids.end(), random);
    size_t next = 0;
    for (size_t row = 0; row < lengths.size(); ++row) {
      for (int32_t i = 0; i < lengths[row]; i += shape.block_len) tables_[row].push_back(ids[next++]);
    }
    model_.hidden = 8;
    model_.vocab = 8;
    model_.layers.resize(2);  // what is used is the second one
    for (LayerSpec& layer : model_.layers) {
      AttentionSpec& spec = layer.attention;
      spec.heads = shape.heads;
      spec.kv_heads = shape.kv_heads;
      spec.head_dim = shape.head_dim;
      spec.scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
      spec.window = shape.window;
      spec.softcap = shape.softcap;
      spec.sinks = shape.sinks;
    }
    for (int32_t h = 0; h < shape.heads; ++h) sinks_.push_back(gauss(random) + 1.0f);
    layout_ = make_kv_layout(model_, shape.type, shape.block_len);
    pool_bytes_ = layout_.block_bytes * blocks;
    pool_ = aligned(pool_bytes_);
    scratch_ = aligned(attention_scratch_bytes(model_, 4096));
    poison();
  }

  bool run_in_threads = false;  // else one thread runs the units of a plan for several

  void poison() { std::memset(pool_.get(), 0xff, static_cast<size_t>(pool_bytes_)); }
  // Let the pointers of blocks that lie before every window go wild.
  void lose_block(size_t row, size_t index) { tables_[row][index] = -1000000; }

  // One step: row, first token, count. Returns the outputs [T, heads * head_dim].
  struct Piece {
    int32_t row, start, count;
  };
  std::vector<float> step(const AttentionKernels& kernels, const std::vector<Piece>& pieces, int32_t threads = 1,
                          bool backwards = false) {
    const size_t qn = static_cast<size_t>(shape_.heads * shape_.head_dim);
    const size_t kn = static_cast<size_t>(shape_.kv_heads * shape_.head_dim);
    std::vector<float> q, k, v;
    slices_.clear();
    int32_t first = 0;
    for (const Piece& piece : pieces) {
      const size_t row = static_cast<size_t>(piece.row), a = static_cast<size_t>(piece.start);
      const size_t b = a + static_cast<size_t>(piece.count);
      q.insert(q.end(), q_[row].begin() + static_cast<long>(a * qn), q_[row].begin() + static_cast<long>(b * qn));
      k.insert(k.end(), k_[row].begin() + static_cast<long>(a * kn), k_[row].begin() + static_cast<long>(b * kn));
      v.insert(v.end(), v_[row].begin() + static_cast<long>(a * kn), v_[row].begin() + static_cast<long>(b * kn));
      slices_.push_back({piece.row, first, piece.count, piece.start, tables_[row].data(),
                         static_cast<int32_t>(tables_[row].size())});
      first += piece.count;
    }
    std::vector<float> out(static_cast<size_t>(first) * qn, std::nanf(""));
    AttentionCall call;
    call.layout = &layout_;
    call.spec = &model_.layers[1].attention;
    call.layer = 1;
    call.pool = pool_.get();
    call.q = q.data();
    call.k = k.data();
    call.v = v.data();
    call.q_stride = call.out_stride = static_cast<int64_t>(qn);
    call.kv_stride = static_cast<int64_t>(kn);
    call.out = out.data();
    call.sinks = shape_.sinks ? sinks_.data() : nullptr;
    for (const RowSlice& slice : slices_) {
      const int32_t half = slice.count / 2;
      kernels.store(call, slice, half, slice.count, 0, shape_.kv_heads);
      kernels.store(call, slice, 0, half, 0, shape_.kv_heads);
    }
    plan_.build(slices_, *call.spec, shape_.block_len, threads);
    plan_.reset();
    if (run_in_threads) {
      std::atomic<int64_t> next{0};
      std::vector<std::thread> workers;
      for (int32_t t = 0; t < threads; ++t) {
        workers.emplace_back([&] {
          const Bytes scratch = aligned(attention_scratch_bytes(model_, 4096));
          for (int64_t i = next++; i < plan_.units(); i = next++) kernels.run(call, plan_, i, scratch.get());
        });
      }
      for (std::thread& worker : workers) worker.join();
      return out;
    }
    for (int64_t i = 0; i < plan_.units(); ++i) {
      kernels.run(call, plan_, backwards ? plan_.units() - 1 - i : i, scratch_.get());
    }
    return out;
  }

  // float64, for one token; with `bf16_dot` Q and the weights are rounded as the kernels of bf16 pairs do.
  std::vector<double> reference(int32_t row, int32_t token, bool bf16_dot) {
    const int32_t dim = shape_.head_dim, group = shape_.heads / shape_.kv_heads;
    const int32_t lo = shape_.window > 0 ? std::max(0, token - shape_.window + 1) : 0;
    std::vector<double> out;
    const float factor = shape_.softcap > 0 ? spec().scale / shape_.softcap : spec().scale * 1.44269504f;
    for (int32_t h = 0; h < shape_.heads; ++h) {
      const float* q = &q_[static_cast<size_t>(row)][(static_cast<size_t>(token) * shape_.heads + h) * dim];
      std::vector<double> s, v;
      for (int32_t t = lo; t <= token; ++t) {
        const double* key = stored(stored_k_, k_, row, t, h / group, false);
        const double* value = stored(stored_v_, v_, row, t, h / group, true);
        double dot = 0;
        for (int32_t d = 0; d < dim; ++d) {
          const double x = bf16_dot ? bf16(q[d] * factor) : static_cast<double>(q[d]) * factor;
          dot += x * key[d];
        }
        s.push_back(shape_.softcap > 0 ? shape_.softcap * 1.4426950408889634 * std::tanh(dot) : dot);
        v.insert(v.end(), value, value + dim);
      }
      const double top = *std::max_element(s.begin(), s.end());
      double sum = shape_.sinks ? std::exp2(sinks_[static_cast<size_t>(h)] * 1.4426950408889634 - top) : 0;
      std::vector<double> o(static_cast<size_t>(dim), 0.0);
      for (size_t begin = 0; begin < s.size();) {  // span by span
        const size_t span_end = static_cast<size_t>(kSpan) * ((begin + static_cast<size_t>(lo)) / kSpan + 1);
        const size_t end = std::min(s.size(), span_end - static_cast<size_t>(lo));
        double span_top = *std::max_element(&s[begin], &s[begin] + (end - begin));
        if (bf16_dot) span_top = std::ceil(span_top);
        for (size_t t = begin; t < end; ++t) {
          double p = std::exp2(s[t] - span_top);
          if (bf16_dot) p = bf16(p);
          p *= std::exp2(span_top - top);
          sum += p;
          for (size_t d = 0; d < o.size(); ++d) o[d] += p * v[t * o.size() + d];
        }
        begin = end;
      }
      for (double x : o) out.push_back(x / sum);
    }
    return out;
  }

  const AttentionSpec& spec() const { return model_.layers[1].attention; }
  const AttentionPlan& plan() const { return plan_; }
  int32_t length(size_t row) const { return lengths_[row]; }
  size_t width() const { return static_cast<size_t>(shape_.heads * shape_.head_dim); }
  std::vector<float>& keys(size_t row) { return k_[row]; }
  std::vector<float>& values(size_t row) { return v_[row]; }

 private:
  using Stored = std::vector<std::vector<double>>;  // by row, [tokens, KV heads, head_dim]; made when first asked for

  const double* stored(Stored& all, const std::vector<std::vector<float>>& from, int32_t row, int32_t token,
                       int32_t head, bool value) {
    if (all.empty()) {
      for (const std::vector<float>& x : from) {
        all.emplace_back();
        for (size_t i = 0; i < x.size(); i += static_cast<size_t>(shape_.head_dim)) {
          const std::vector<double> y = as_stored(&x[i], shape_.head_dim, shape_.type, value);
          all.back().insert(all.back().end(), y.begin(), y.end());
        }
      }
    }
    return &all[static_cast<size_t>(row)][(static_cast<size_t>(token) * shape_.kv_heads + head) * shape_.head_dim];
  }

  Stored stored_k_, stored_v_;
  Shape shape_;
  std::vector<int32_t> lengths_;
  std::vector<std::vector<float>> q_, k_, v_;
  std::vector<std::vector<int32_t>> tables_;
  std::vector<float> sinks_;
  ModelDescription model_;
  KvLayout layout_;
  int64_t pool_bytes_ = 0;
  Bytes pool_, scratch_;
  AttentionPlan plan_;
  std::vector<RowSlice> slices_;
};

// |got - exact| / |exact| over a vector.
inline double relative_error(const float* got, const std::vector<double>& exact) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    difference += (got[i] - exact[i]) * (got[i] - exact[i]);
    size += exact[i] * exact[i];
  }
  return std::sqrt(difference / size);
}

inline bool rounds_to_bf16(Isa isa, KvType type) {
  return type == KvType::bf16 && isa == Isa::avx512 && has_avx512_bf16();
}

inline const std::vector<KvType>& kv_types() {
  static const std::vector<KvType> all = {KvType::f32,  KvType::f16,  KvType::bf16,
                                           KvType::int8, KvType::k8v4, KvType::int4};
  return all;
}
inline const char* kv_name(KvType type) {
  static const char* const names[] = {"f32", "f16", "bf16", "int8", "k8v4", "int4", "fp8"};
  return names[static_cast<int>(type)];
}

}  // namespace fixture
