// What the two benchmarks of attention share: a model of one shape, filled KV memory, thread time.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "cpu/attention/attention.h"

namespace bench {

using namespace deploykit;
using namespace deploykit::cpu;

inline double thread_seconds() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

template <class F>
double best_of(int repeats, F f) {
  double best = 1e30;
  for (int i = 0; i < repeats; ++i) {
    const double begin = thread_seconds();
    f();
    best = std::min(best, thread_seconds() - begin);
  }
  return best;
}

struct Free {
  void operator()(void* p) const { std::free(p); }
};

// One row of `tokens` tokens, all stored, in blocks that follow each other; `layers` layers.
class Setup {
 public:
  Setup(KvType type, int32_t layers, int32_t heads, int32_t kv_heads, int32_t head_dim, int32_t block_len,
        int32_t tokens) {
    model.layers.resize(static_cast<size_t>(layers));
    for (LayerSpec& layer : model.layers) {
      layer.attention.heads = heads;
      layer.attention.kv_heads = kv_heads;
      layer.attention.head_dim = head_dim;
      layer.attention.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
    }
    layout = make_kv_layout(model, type, block_len);
    const int32_t blocks = (tokens + block_len - 1) / block_len;
    for (int32_t i = 0; i < blocks; ++i) table.push_back(i);
    pool = allocate(layout.block_bytes * blocks);
    scratch = allocate(attention_scratch_bytes(model, tokens));
    std::mt19937 random(1);
    std::normal_distribution<float> gauss;
    q.resize(static_cast<size_t>(tokens) * heads * head_dim);
    k.resize(static_cast<size_t>(tokens) * kv_heads * head_dim);
    v.resize(k.size());
    out.resize(q.size());
    for (std::vector<float>* each : {&q, &k, &v}) {
      for (float& x : *each) x = gauss(random);
    }
  }

  AttentionCall call(int32_t layer, int64_t token = 0) {
    const AttentionSpec& spec = model.layers[static_cast<size_t>(layer)].attention;
    AttentionCall c;
    c.layout = &layout;
    c.spec = &spec;
    c.layer = layer;
    c.pool = pool.get();
    c.q_stride = c.out_stride = spec.heads * spec.head_dim;
    c.kv_stride = spec.kv_heads * spec.head_dim;
    c.q = q.data() + token * c.q_stride;
    c.k = k.data() + token * c.kv_stride;
    c.v = v.data() + token * c.kv_stride;
    c.out = out.data() + token * c.out_stride;
    return c;
  }
  RowSlice slice(int32_t start, int32_t count) const {
    return {0, 0, count, start, table.data(), static_cast<int32_t>(table.size())};
  }

  ModelDescription model;
  KvLayout layout;
  std::vector<int32_t> table;
  std::unique_ptr<uint8_t, Free> pool, scratch;
  std::vector<float> q, k, v, out;

 private:
  static std::unique_ptr<uint8_t, Free> allocate(int64_t bytes) {
    return std::unique_ptr<uint8_t, Free>(
        static_cast<uint8_t*>(std::aligned_alloc(4096, static_cast<size_t>((bytes + 4095) / 4096 * 4096))));
  }
};

inline const char* kv_name(KvType type) {
  static const char* const names[] = {"f32", "f16", "bf16", "int8", "k8v4", "int4", "fp8"};
  return names[static_cast<int>(type)];
}

// Arguments: an instruction set and a KV type; without them all are measured.
inline std::vector<Isa> isas(int argc, char** argv) {
  return argc > 1 ? std::vector<Isa>{choose_isa(argv[1])} : available_isas();
}
inline std::vector<KvType> kv_types(int argc, char** argv) {
  std::vector<KvType> types;
  for (KvType type : {KvType::f32, KvType::f16, KvType::bf16, KvType::int8, KvType::k8v4, KvType::int4}) {
    if (argc < 3 || std::string(argv[2]) == kv_name(type)) types.push_back(type);
  }
  return types;
}

}  // namespace bench
