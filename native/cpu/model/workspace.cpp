#include "cpu/model/workspace.h"

#include <algorithm>

#include "cpu/attention/attention.h"

namespace deploykit::cpu {

Workspace::Workspace(const Program& program, const EngineOptions& options) {
  const Widths& widths = program.widths;
  const int64_t threads = std::max(options.threads, 1), hidden = program.model->hidden;
  const int64_t step_tokens = std::max(options.max_step_tokens, 1);
  pass_tokens = std::min(step_tokens, std::max(kPassTokens, kBlockTokens * threads));
  has_blocks = !widths.routed && pass_tokens >= kRowRouteTokens * threads;
  const int64_t shared_rows = has_blocks ? std::min(pass_tokens, kRowRouteTokens * threads) : pass_tokens;
  const int64_t own_rows = std::min(pass_tokens, has_blocks ? kBlockTokens : kPrivateTokens);
  const int64_t in_cols = std::max(hidden, widths.attention);
  const int64_t max_cols = std::max(in_cols, widths.intermediate);
  const int64_t slots = pass_tokens * widths.top_k;

  // First the plan of it all, as offsets, then the memory.
  struct Piece {
    int64_t offset = 0;
  };
  const auto floats = [&](int64_t rows, int64_t cols) { return Piece{arena_.reserve(rows * cols, sizeof(float))}; };
  const auto activations = [&](int64_t rows, int64_t cols) {
    return Piece{arena_.reserve(activation_bytes(rows, cols))};
  };

  const Piece x_at = floats(pass_tokens, hidden), q_at = floats(pass_tokens, widths.q);
  const Piece k_at = floats(pass_tokens, widths.kv), v_at = floats(pass_tokens, widths.kv);
  const Piece attended_at = floats(pass_tokens, widths.attention);
  const Piece y_at = floats(widths.post_norm ? pass_tokens : 0, hidden);
  const Piece in_at = activations(shared_rows, in_cols), mid_at = activations(shared_rows, widths.intermediate);
  struct WorkerAt {
    Piece in, mid, out, out2, matmul, attention;
  };
  std::vector<WorkerAt> workers_at(static_cast<size_t>(threads));
  for (WorkerAt& at : workers_at) {
    at.in = activations(own_rows, in_cols);
    at.mid = activations(has_blocks ? own_rows : 0, widths.intermediate);
    at.out = floats(1, kOutFloats);
    at.out2 = floats(1, kOutFloats);
    at.matmul = {arena_.reserve(matmul_scratch_bytes(max_cols))};
    at.attention = {arena_.reserve(attention_scratch_bytes(*program.model, static_cast<int32_t>(pass_tokens)))};
  }
  const int64_t routed_tokens = widths.routed ? pass_tokens : 0;
  routing.logits_stride = (widths.experts + kTileRows - 1) / kTileRows * kTileRows;
  routing.result_floats = slots * kTileRows;
  const Piece logits_at = floats(routed_tokens, routing.logits_stride);
  const Piece expert_at = floats(slots, 1), weight_at = floats(slots, 1), slot_at = floats(slots, 1);
  const Piece token_at = floats(slots, 1), begin_at = floats(widths.experts + 1, 1);
  const Piece active_at = floats(widths.experts + 1, 1);
  const Piece results_at = floats(threads, routing.result_floats);
  const Piece slots_in_at = activations(slots, hidden), slots_mid_at = activations(slots, widths.intermediate);
  const Piece head_at = activations(std::min(step_tokens, kHeadRows), hidden);
  const Piece finals_at = floats(step_tokens, hidden);

  arena_.allocate();
  const auto as_floats = [&](Piece piece) { return arena_.floats(piece.offset); };
  const auto as_ints = [&](Piece piece) { return reinterpret_cast<int32_t*>(arena_.at(piece.offset)); };
  const auto bind = [&](Activations& a, int64_t rows, int64_t cols, Piece piece) {
    bind_activations(a, rows, cols, arena_.at(piece.offset));
  };
  x = as_floats(x_at);
  q = as_floats(q_at);
  k = as_floats(k_at);
  v = as_floats(v_at);
  attended = as_floats(attended_at);
  y = as_floats(y_at);
  finals = as_floats(finals_at);
  bind(in, shared_rows, in_cols, in_at);
  bind(mid, shared_rows, widths.intermediate, mid_at);
  bind(head, std::min(step_tokens, kHeadRows), hidden, head_at);
  for (const WorkerAt& at : workers_at) {
    Worker worker;
    worker.id = static_cast<int32_t>(workers.size());
    bind(worker.in, own_rows, in_cols, at.in);
    bind(worker.mid, has_blocks ? own_rows : 0, widths.intermediate, at.mid);
    worker.out = as_floats(at.out);
    worker.out2 = as_floats(at.out2);
    worker.matmul_scratch = arena_.at(at.matmul.offset);
    worker.attention_scratch = arena_.at(at.attention.offset);
    workers.push_back(worker);
  }
  routing.logits = as_floats(logits_at);
  routing.expert = as_ints(expert_at);
  routing.weight = as_floats(weight_at);
  routing.slot = as_ints(slot_at);
  routing.token = as_ints(token_at);
  routing.begin = as_ints(begin_at);
  routing.active = as_ints(active_at);
  routing.results = as_floats(results_at);
  bind(routing.in, slots, hidden, slots_in_at);
  bind(routing.mid, slots, widths.intermediate, slots_mid_at);
  counters = std::make_unique<Counter[]>(2 * program.layers.size());
}

}  // namespace deploykit::cpu
