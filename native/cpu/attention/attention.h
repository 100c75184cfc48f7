// Paged attention over KV memory of every type, and the stores into it.
//
// KV memory: a block is block_bytes consecutive bytes: layer, then KV head, then K, V and scales of block_len tokens.
// Inside a head's part K stands in tiles of 16 keys, transposed so that keys are lanes; geometry.h has the details.
// The order of every sum depends on positions alone: keys are taken in spans of kSpan tokens aligned to position 0,
// each span has its own maximum and sum, and spans are merged in ascending order. So a token's result is the same bits
// in a batch or alone, in a prefill chunk or as a decode step.
#pragma once

#include <cstdint>
#include <vector>

#include "core/forward.h"
#include "cpu/isa.h"
#include "deploykit/engine.h"

namespace deploykit::cpu {

inline constexpr int32_t kSpan = 256;

struct KvLayout {
  struct Layer {
    int32_t kv_heads = 0, head_dim = 0;
    int64_t offset = 0;      // of the layer in a block
    int64_t head_bytes = 0;  // of one KV head in it
  };
  KvType type = KvType::bf16;
  int32_t block_len = 0;
  int64_t block_bytes = 0;  // a multiple of 64
  std::vector<Layer> layers;
};
// block_len is 8 or a multiple of 16; head_dim a multiple of 8 from 32 to 256. Throws Error("invalid") for others and
// Error("unsupported") for fp8.
KvLayout make_kv_layout(const ModelDescription& model, KvType type, int32_t block_len);

// One layer of one step. q, k, v and out are float32 [T, heads * head_dim] with these strides; q and k are rotated.
struct AttentionCall {
  const KvLayout* layout = nullptr;
  const AttentionSpec* spec = nullptr;
  int32_t layer = 0;
  uint8_t* pool = nullptr;  // 64-byte aligned
  const float* q = nullptr;
  int64_t q_stride = 0;
  const float* k = nullptr;
  const float* v = nullptr;
  int64_t kv_stride = 0;
  float* out = nullptr;
  int64_t out_stride = 0;
  const float* sinks = nullptr;  // [heads]
};

// The units of work of a step, the same for all layers with the same heads, KV heads and head_dim (a layer whose
// window is narrower than the plan's skips what it doesn't see). A unit is one KV head of one row with some of its
// queries, over all their keys or over some spans of them; whoever finishes the last unit of a split row merges it.
class AttentionPlan {
 public:
  // `rows` must outlive the plan. Reuses its memory from step to step.
  void build(const std::vector<RowSlice>& rows, const AttentionSpec& spec, int32_t block_len, int32_t threads);
  int64_t units() const { return static_cast<int64_t>(units_.size()); }
  // Must be called by one thread before the units of a layer run (resets the merge counters).
  void reset();

  struct Unit {
    int32_t slice = 0;  // index into rows
    int32_t kv_head = 0;
    int32_t query0 = 0, query1 = 0;  // of the slice's tokens
    int32_t span0 = 0, span1 = 0;    // spans of keys
    int32_t merge = -1;              // index of the merge it belongs to, or -1
  };
  const std::vector<Unit>& list() const { return units_; }

 private:
  friend struct PlanAccess;
  // Units of one KV head and the same queries whose spans are split: partial results of every query head and span.
  struct Merge {
    int32_t slice = 0, kv_head = 0, query0 = 0, query1 = 0, span0 = 0, span1 = 0;
    int32_t parts = 0;
    int64_t offset = 0;  // into partials_, floats
  };
  void add_units(int32_t slice, int32_t kv_heads, int32_t query0, int32_t query1, int32_t window, int64_t target);

  std::vector<Unit> units_;
  std::vector<int64_t> costs_;
  std::vector<int32_t> order_;
  std::vector<Unit> sorted_;
  std::vector<Merge> merges_;
  std::vector<int32_t> left_;  // units of a merge that still run; counted down atomically
  std::vector<float> partials_;
  int64_t partial_stride_ = 0;  // floats of one query head and span
  int64_t partials_used_ = 0;
  int32_t group_ = 0;  // query heads of a KV head
  int32_t head_dim_ = 0;
  int32_t window_ = 0;
  const std::vector<RowSlice>* rows_ = nullptr;
};

struct AttentionKernels {
  // Store K and V of tokens [t0, t1) of the slice, heads [h0, h1). Threads may store different tokens or heads at once.
  void (*store)(const AttentionCall& call, const RowSlice& slice, int32_t t0, int32_t t1, int32_t h0, int32_t h1);
  // Compute unit `index`, after everything of the step's slices was stored. `scratch` has attention_scratch_bytes(),
  // 64-byte aligned.
  void (*run)(const AttentionCall& call, AttentionPlan& plan, int64_t index, uint8_t* scratch);
};
const AttentionKernels& attention_kernels(Isa isa);
int64_t attention_scratch_bytes(const ModelDescription& model, int32_t max_step_tokens);

}  // namespace deploykit::cpu
