// Scratch memory of a forward: sized once, for the largest pass, and shared by all passes.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "cpu/matmul/matmul.h"
#include "cpu/model/arena.h"
#include "cpu/model/program.h"
#include "deploykit/engine.h"

namespace deploykit::cpu {

// Tokens that a forward takes through all layers at once; longer batches are cut, so that activations stay in the
// caches and memory stays small.
inline constexpr int64_t kPassTokens = 512;
// A pass with this many tokens for each thread is shared out by tokens, a shorter one by columns.
inline constexpr int64_t kRowRouteTokens = 32;
// Kernels take rows in blocks of this size or a divisor of it.
inline constexpr int64_t kKernelRows = 12;
// Most tokens of a block that one worker takes through a layer.
inline constexpr int64_t kBlockTokens = 4 * kKernelRows;
// Up to this many tokens every worker normalizes all of them for itself: that costs less than a barrier.
inline constexpr int64_t kPrivateTokens = 4;
// Rows of logits that are made at a time.
inline constexpr int64_t kHeadRows = kBlockTokens;
// Size of a worker's two buffers for tiles of a product.
inline constexpr int64_t kOutFloats = kBlockTokens * 1024;

// What one worker alone writes.
struct Worker {
  int32_t id = 0;
  Activations in, mid;  // of a block of tokens
  float* out = nullptr;
  float* out2 = nullptr;
  uint8_t* matmul_scratch = nullptr;
  uint8_t* attention_scratch = nullptr;
};

// A token's experts in the order of their weights; a slot is one token with one expert, and slots are sorted by expert.
struct Routing {
  int64_t logits_stride = 0;
  float* logits = nullptr;      // [tokens, logits_stride]
  int32_t* expert = nullptr;    // [tokens, top_k]
  float* weight = nullptr;      // [tokens, top_k]
  int32_t* slot = nullptr;      // [tokens, top_k]: where its result stands
  int32_t* token = nullptr;     // [slots]
  int32_t* begin = nullptr;     // [experts + 1]: the first slot of each expert
  int32_t* active = nullptr;    // [experts + 1]: experts that have tokens; at the end, how many
  float* results = nullptr;     // [workers, result_floats]: some tiles of every slot's result
  int64_t result_floats = 0;
  Activations in, mid;          // [slots]
};

// A counter that workers take units from, on a cache line of its own.
struct alignas(64) Counter {
  std::atomic<int64_t> next{0};
};

class Workspace {
 public:
  Workspace(const Program& program, const EngineOptions& options);

  int64_t pass_tokens = 0;
  bool has_blocks = false;    // workers have room for blocks of tokens
  float* x = nullptr;         // [pass_tokens, hidden]: the residual stream
  float* q = nullptr;         // [pass_tokens, q_stride]
  float* k = nullptr;         // [pass_tokens, kv_stride]
  float* v = nullptr;
  float* attended = nullptr;  // [pass_tokens, heads * head_dim]
  float* y = nullptr;         // [pass_tokens, hidden]: what a post norm reads
  float* finals = nullptr;    // [max_step_tokens, hidden]: after the last norm
  Activations in, mid;        // of all workers together, for passes that are shared out by columns
  Activations head;           // of kHeadRows
  Routing routing;
  std::vector<Worker> workers;
  std::unique_ptr<Counter[]> counters;  // two a layer: attention's units, blocks of tokens

  bool by_rows(int64_t tokens) const { return has_blocks && tokens >= kRowRouteTokens * threads(); }
  // Blocks of at most kBlockTokens, as many for every worker; and their tokens, whole blocks of the kernels but for the
  // last.
  int64_t blocks_of(int64_t tokens) const {
    const int64_t needed = (tokens + kBlockTokens - 1) / kBlockTokens;
    return (needed + threads() - 1) / threads() * threads();
  }
  static Range block(int64_t tokens, int64_t blocks, int64_t i) { return share(tokens, blocks, i, kKernelRows); }
  int64_t bytes() const { return arena_.bytes(); }

 private:
  int64_t threads() const { return static_cast<int64_t>(workers.size()); }

  Arena arena_{"activations"};
};

}  // namespace deploykit::cpu
