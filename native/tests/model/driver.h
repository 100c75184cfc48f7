// Feeds a ForwardModel: rows with their blocks, and batches of any cut.
#pragma once

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <vector>

#include "cpu/model/model.h"
#include "reference.h"

namespace driver {

using namespace deploykit;

inline EngineOptions options(DType dtype = DType::f32, KvType kv = KvType::f32, int32_t threads = 2) {
  EngineOptions o;
  o.dtype = dtype;
  o.kv = kv;
  o.block_len = 16;
  o.num_blocks = 96;
  o.max_rows = 16;
  o.session_len = 1024;
  o.max_step_tokens = 1024;
  o.threads = threads;
  return o;
}

inline std::unique_ptr<ForwardModel> create(const reference::Model& model, const EngineOptions& o) {
  auto forward = cpu::create_cpu_model(model.description, model.manifest(), o);
  reference::load(*forward, model);
  return forward;
}

// Rows of one ForwardModel; every row has the blocks [first_block, first_block + blocks), in descending order, so that
// neighbours in a row aren't neighbours in memory.
class Rows {
 public:
  Rows(ForwardModel& model, int32_t blocks_each, int32_t first_block = 0)
      : model_(model), vocab_(model.capacity().vocab), blocks_each_(blocks_each), first_block_(first_block) {}

  struct Part {
    int32_t row = 0;
    std::vector<int32_t> tokens;
    bool all = true;  // logits of every token, or of the last alone
  };
  // One step. Logits of the wanted tokens, one after the other.
  std::vector<std::vector<float>> step(const std::vector<Part>& parts, const std::vector<EmbeddingSlice>& given = {}) {
    Batch batch;
    batch.embeddings = given;
    for (const Part& part : parts) {
      auto& blocks = blocks_[part.row];
      for (auto i = static_cast<int32_t>(blocks.size()); i < blocks_each_; ++i) {
        blocks.push_back(first_block_ + (part.row + 1) * blocks_each_ - 1 - i);
      }
    }
    for (const Part& part : parts) {
      RowSlice slice;
      slice.row = part.row;
      slice.first = static_cast<int32_t>(batch.tokens.size());
      slice.count = static_cast<int32_t>(part.tokens.size());
      slice.start = computed_[part.row];
      slice.blocks = blocks_[part.row].data();
      slice.num_blocks = blocks_each_;
      for (int32_t i = 0; i < slice.count; ++i) {
        if (part.all || i + 1 == slice.count) batch.wanted.push_back(slice.first + i);
        batch.positions.push_back(slice.start + i);
      }
      batch.tokens.insert(batch.tokens.end(), part.tokens.begin(), part.tokens.end());
      computed_[part.row] += slice.count;
      batch.rows.push_back(slice);
    }
    model_.forward(batch);
    std::vector<std::vector<float>> out(batch.wanted.size());
    const auto vocab = static_cast<size_t>(vocab_);
    std::vector<float> flat(out.size() * vocab + 1, -1.0f);
    // In two parts, as a sampler may ask for them.
    const auto half = static_cast<int64_t>(out.size() / 2);
    model_.logits(0, half, flat.data());
    model_.logits(half, static_cast<int64_t>(out.size()) - half, flat.data() + half * vocab_);
    for (size_t i = 0; i < out.size(); ++i) out[i].assign(flat.begin() + static_cast<std::ptrdiff_t>(i * vocab),
                                                          flat.begin() + static_cast<std::ptrdiff_t>((i + 1) * vocab));
    if (flat.back() != -1.0f) throw std::runtime_error("logits were written past their end");
    return out;
  }

 private:
  ForwardModel& model_;
  int32_t vocab_ = 0, blocks_each_ = 0, first_block_ = 0;
  std::map<int32_t, std::vector<int32_t>> blocks_;
  std::map<int32_t, int32_t> computed_;
};

inline std::vector<int32_t> tokens(int32_t count, int32_t vocab, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> out;
  for (int32_t i = 0; i < count; ++i) out.push_back(static_cast<int32_t>(random() % static_cast<uint32_t>(vocab)));
  return out;
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// Root of the mean square of the difference, over that of the reference.
inline double distance(const std::vector<float>& is, const reference::Vec& should) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < is.size(); ++i) {
    difference += (is[i] - should[i]) * (is[i] - should[i]);
    size += should[i] * should[i];
  }
  return std::sqrt(difference / size);
}

}  // namespace driver
