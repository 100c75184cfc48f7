// What a device must be able to do for HostEngine: one forward over a batch of row slices, and logits of chosen tokens.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "deploykit/engine.h"

namespace deploykit {

// `count` new tokens of one row, from position `start` (tokens computed before) on; `first` is the index of the first
// in the batch. `blocks` covers start + count tokens.
struct RowSlice {
  int32_t row = 0;
  int32_t first = 0;
  int32_t count = 0;
  int32_t start = 0;
  const int32_t* blocks = nullptr;
  int32_t num_blocks = 0;
};

// Tokens [first, first + count) of the batch take these embeddings instead of the table's.
struct EmbeddingSlice {
  int32_t first = 0;
  int32_t count = 0;
  const float* data = nullptr;  // [count, hidden]
};

struct Batch {
  std::vector<RowSlice> rows;
  std::vector<int32_t> tokens;     // [T]
  std::vector<int32_t> positions;  // [T], for the rotation
  std::vector<EmbeddingSlice> embeddings;
  std::vector<int32_t> wanted;  // indexes of tokens whose final hidden state is kept, ascending
};

// Weights, KV memory and kernels of one device, synchronous. A result of a token is the same bits whatever else is in
// the batch and however its row was cut into chunks.
class ForwardModel {
 public:
  virtual ~ForwardModel() = default;
  virtual void load_weight(const WeightTensor& tensor) = 0;
  virtual void finish_loading() = 0;
  virtual Capacity capacity() const = 0;

  virtual void forward(const Batch& batch) = 0;
  // Logits of wanted[first .. first + count) of the last forward: float32 [count, vocab] into `out`.
  virtual void logits(int64_t first, int64_t count, float* out) = 0;
  // Final hidden state (after the last norm) of wanted[index]: float32 [hidden].
  virtual const float* hidden(int64_t index) const = 0;

  virtual void copy_block(int32_t src, int32_t dst) = 0;
  // Overwrite a block so that nothing of it (a NaN, say) can reach whoever gets it next.
  virtual void scrub_block(int32_t block) = 0;
  // Run fn(0) .. fn(n - 1) on the device's host threads.
  virtual void parallel_for(int64_t n, const std::function<void(int64_t)>& fn) = 0;
  virtual std::vector<std::pair<std::string, std::string>> info() const = 0;
};

}  // namespace deploykit
