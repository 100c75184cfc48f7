#include "core/null_model.h"

#include <algorithm>
#include <cstring>

namespace deploykit {
namespace {

// The finalizer of splitmix64: every bit of the input reaches every bit of the output.
uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

uint64_t token_bits(const Batch& batch, int32_t index, int32_t hidden) {
  for (const EmbeddingSlice& slice : batch.embeddings) {
    if (index < slice.first || index >= slice.first + slice.count) continue;
    uint64_t bits = 0x51a9;
    for (int32_t i = 0; i < hidden; ++i) {
      uint32_t word;
      std::memcpy(&word, slice.data + int64_t{index - slice.first} * hidden + i, sizeof word);
      bits = mix(bits ^ word);
    }
    return bits;
  }
  return static_cast<uint32_t>(batch.tokens[static_cast<size_t>(index)]);
}

}  // namespace

NullModel::NullModel(int32_t hidden, int32_t vocab, int32_t block_len, int64_t num_blocks)
    : hidden_(hidden),
      vocab_(vocab),
      block_len_(block_len),
      num_blocks_(num_blocks),
      kv_(static_cast<size_t>(num_blocks * block_len)) {}

Capacity NullModel::capacity() const {
  Capacity c;
  c.block_bytes = block_bytes(block_len_);
  c.kv_bytes = num_blocks_ * c.block_bytes;
  return c;
}

void NullModel::forward(const Batch& batch) {
  states_.clear();
  size_t next = 0;  // of batch.wanted
  for (const RowSlice& slice : batch.rows) {
    uint64_t state = 0;
    if (slice.start > 0) {
      const int32_t before = slice.start - 1;
      state = block(slice.blocks[before / block_len_])[before % block_len_];
    }
    for (int32_t i = 0; i < slice.count; ++i) {
      const int32_t index = slice.first + i, at = slice.start + i;
      const uint64_t position = static_cast<uint32_t>(batch.positions[static_cast<size_t>(index)]);
      state = mix(state ^ (token_bits(batch, index, hidden_) << 1)) + mix(position);
      block(slice.blocks[at / block_len_])[at % block_len_] = state;
      if (next < batch.wanted.size() && batch.wanted[next] == index) {
        states_.push_back(state);
        ++next;
      }
    }
  }
}

void NullModel::logits(int64_t first, int64_t count, float* out) {
  const auto vocab = static_cast<uint64_t>(vocab_);
  for (int64_t i = 0; i < count; ++i, out += vocab_) {
    std::fill(out, out + vocab_, 0.0f);
    uint64_t bits = states_[static_cast<size_t>(first + i)];
    for (float value : {7.0f, 8.0f, 9.0f, 10.0f}) {
      bits = mix(bits);
      out[bits % vocab] = value;
    }
  }
}

const float* NullModel::hidden(int64_t index) const {
  hidden_state_.resize(static_cast<size_t>(hidden_));
  uint64_t bits = states_[static_cast<size_t>(index)];
  for (float& value : hidden_state_) {
    bits = mix(bits);
    value = static_cast<float>(static_cast<int64_t>(bits) >> 40) * 0x1p-23f;
  }
  return hidden_state_.data();
}

void NullModel::copy_block(int32_t src, int32_t dst) {
  if (src != dst) std::copy_n(block(src), block_len_, block(dst));
}

void NullModel::scrub_block(int32_t index) { std::fill_n(block(index), block_len_, 0); }

void NullModel::parallel_for(int64_t n, const std::function<void(int64_t)>& fn) {
  for (int64_t i = 0; i < n; ++i) fn(i);
}

std::vector<std::pair<std::string, std::string>> NullModel::info() const { return {{"device", "null"}}; }

}  // namespace deploykit
