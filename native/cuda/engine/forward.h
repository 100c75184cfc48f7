// What a model must do for CudaEngine: put one forward on a stream.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "cuda/engine/state.h"
#include "deploykit/engine.h"

namespace deploykit::cuda {

// One forward, described by device arrays that were filled by prepare_step or prepare_decode. Everything here is an
// upper bound where `decode` is set, since the work may be replayed as a graph with other lengths.
struct ForwardArgs {
  StepArrays step;
  Rows rows;
  int32_t slices = 0;
  int32_t singles = 0;    // leading slices of one token each
  int32_t tokens = 0;     // sum of counts
  int32_t max_count = 0;  // largest count
  int32_t max_seq = 0;    // largest seq_len
  bool decode = false;    // every slice is one token
  bool every_token = false;  // the final states of all tokens will be asked for, not of each slice's last alone
  int32_t fresh = 0;      // slices behind the singles whose row has no token before this step
  std::vector<int32_t> lengths;  // seq_len of each slice on the host; empty where `decode`
};

class CudaForward {
 public:
  virtual ~CudaForward() = default;
  virtual void load_weight(const WeightTensor& tensor) = 0;
  // Everything is allocated and tuned here: forward() allocates nothing and can be captured where args.decode is set.
  // `pool` is the KV memory: (num_blocks + 1) blocks of block_bytes, the last one for the dummy row.
  virtual void finish_loading(uint8_t* pool, cudaStream_t stream) = 0;
  virtual int64_t weight_bytes() const = 0;
  virtual int64_t scratch_bytes() const = 0;
  virtual int64_t block_bytes() const = 0;

  // Hidden states of all tokens, KV stored; then logits float32 [slices, vocab] of every slice's last token.
  virtual void forward(const ForwardArgs& args, cudaStream_t stream) = 0;
  virtual float* logits() = 0;
  // After a forward: logits of tokens [first, first + count) of the batch into `out` (device, float32 [count, vocab]).
  virtual void logits_of(int32_t first, int32_t count, float* out, cudaStream_t stream) = 0;
  // After a forward: the final hidden state of token `index`, float32 [hidden], into host memory (synchronizes).
  virtual std::vector<float> hidden_of(int32_t index, cudaStream_t stream) = 0;

  // Before a forward: tokens [first, first + count) take these rows (device, float32 [count, hidden]).
  struct Override {
    int32_t first, count;
    const float* data;
  };
  virtual void set_overrides(std::vector<Override> overrides) = 0;
  virtual std::vector<std::pair<std::string, std::string>> info() const = 0;
};

}  // namespace deploykit::cuda
