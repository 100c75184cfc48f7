// The host's view of the device's rows: what was sent, what is bounded by it, and the tokens that came back.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cuda/engine/state.h"
#include "deploykit/step.h"

namespace deploykit::cuda {

struct MirrorRow {
  int32_t epoch = -1;
  bool live = false;
  bool finished = false;  // known once the step that ended it was collected
  int32_t computed = 0;   // exact
  int32_t known = 0;      // upper bound: tokens in flight are counted
  int32_t prompt_len = 0;
  int32_t limit = 0;
  std::vector<int32_t> blocks;
  bool on_host = false;         // drawn by the host's sampler
  int32_t slot = -1;            // of the device's counts and processed logits
  std::vector<int32_t> tokens;  // collected ones: prompt and outputs
  std::vector<int32_t> stops;   // EOS and stop ids
  std::vector<int32_t> eos;
  std::vector<Span> spans;
  SamplingParams sampling;
  uint64_t seed = 0;
  std::string failure_code, failure_reason;  // the row failed: every later step says so
};

// A step's message under construction; see StepHeader.
struct MessageParts {
  std::vector<AdmitRecord> admits;
  std::vector<BlockWrite> block_writes;
  std::vector<TokenWrite> token_writes;
  std::vector<int32_t> tokens;

  bool empty() const { return admits.empty() && block_writes.empty() && token_writes.empty(); }
  void clear();
  int64_t bytes() const;
  // Writes the parts at `out` (bytes() of it) and their places into `header`.
  void write(uint8_t* out, StepHeader& header) const;
};

class Mirror {
 public:
  Mirror(int32_t max_rows, int32_t session_len, int32_t block_len, int64_t num_blocks, int32_t vocab);

  // Apply a step's releases, admits and extends, adding what the device must learn to `parts`.
  // Throws Error("invalid") for what no device memory could take.
  void apply(const Step& step, MessageParts& parts);
  MirrorRow& row(int32_t index) { return rows_[static_cast<size_t>(index)]; }
  bool valid_row(int32_t index) const { return index >= 0 && index < max_rows_; }
  int32_t block_len() const { return block_len_; }

 private:
  void check(const Admit& admit, const Step& step) const;
  void admit(const Admit& admit, MessageParts& parts);
  // Whether the device draws for the row; what it needs goes to `sampling` and `extras`.
  bool draws_on_device(MirrorRow& row, RowSampling& sampling, std::vector<int32_t>& extras);
  void give_slot_back(MirrorRow& row);
  MirrorRow* current(int32_t row, int32_t epoch);

  int32_t max_rows_, session_len_, block_len_, max_blocks_, vocab_;
  int64_t num_blocks_;
  std::vector<MirrorRow> rows_;
  std::vector<int32_t> free_slots_;
};

}  // namespace deploykit::cuda
