#include "cpu/model/cpu_model.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "cpu/model/batch.h"
#include "cpu/model/model.h"
#include "cpu/model/routes.h"
#include "deploykit/error.h"

namespace deploykit::cpu {
namespace {

EngineOptions checked(const EngineOptions& options) {
  const auto at_least = [](const char* name, int64_t value, int64_t least) {
    if (value >= least) return;
    throw Error("invalid", std::string("engine option ") + name + " is " + std::to_string(value) + "; it is at least " +
                               std::to_string(least));
  };
  at_least("threads", options.threads, 1);
  at_least("block_len", options.block_len, 1);
  at_least("num_blocks", options.num_blocks, 1);
  at_least("max_rows", options.max_rows, 1);
  at_least("session_len", options.session_len, 1);
  at_least("max_step_tokens", options.max_step_tokens, 1);
  if (options.kv == KvType::fp8) throw Error("unsupported", "KV in fp8 is for GPUs; a CPU stores bf16, int8 or int4");
  return options;
}

Mapping reserve_kv(const KvLayout& layout, int64_t num_blocks) {
  int64_t bytes = 0;
  if (__builtin_mul_overflow(layout.block_bytes, num_blocks, &bytes)) {
    throw Error("memory", "no memory for KV: " + std::to_string(num_blocks) + " blocks of " +
                              std::to_string(layout.block_bytes) + " bytes asked for");
  }
  return Mapping(bytes, "KV");
}

const char* dtype_name(DType dtype) { return dtype == DType::f32 ? "f32" : dtype == DType::f16 ? "f16" : "bf16"; }

}  // namespace

CpuModel::CpuModel(const ModelDescription& model, const std::vector<WeightSpec>& manifest, const EngineOptions& options)
    : model_(model),
      options_(checked(options)),
      isa_(choose_isa(options.isa)),
      pool_(options.threads),
      weights_(model_, manifest, options.dtype, isa_, options.int8_head),
      program_(model_, weights_, options.threads),
      space_(program_, options_),
      layout_(make_kv_layout(model_, options.kv, options.block_len)),
      kv_(reserve_kv(layout_, options.num_blocks)) {
  context_.program = &program_;
  context_.matmul = &matmul_kernels(isa_);
  // On ARM the products have NEON kernels; attention and the elementwise operations take the scalar ones there.
  const Isa rest = isa_ == Isa::neon ? Isa::scalar : isa_;
  context_.ops = &ops_kernels(rest);
  context_.attention = &attention_kernels(rest);
  context_.layout = &layout_;
  context_.kv = kv_.data();
  context_.pool = &pool_;
  context_.space = &space_;
  context_.plans.resize(program_.plans.size());
  context_.ropes.resize(model_.ropes.size());
  for (size_t i = 0; i < model_.ropes.size(); ++i) context_.ropes[i].init(model_.ropes[i], options.session_len);
  context_.pass.hidden = model_.hidden;
}

void CpuModel::load_weight(const WeightTensor& tensor) { weights_.load(tensor, pool_); }

void CpuModel::finish_loading() {
  weights_.check_complete();
  loaded_ = true;
}

Capacity CpuModel::capacity() const {
  Capacity capacity;
  capacity.max_rows = options_.max_rows;
  capacity.overlap_depth = 0;
  capacity.block_len = options_.block_len;
  capacity.block_bytes = layout_.block_bytes;
  capacity.num_blocks = options_.num_blocks;
  capacity.session_len = options_.session_len;
  capacity.vocab = model_.vocab;
  capacity.max_step_tokens = options_.max_step_tokens;
  capacity.weight_bytes = weights_.bytes();
  capacity.kv_bytes = kv_.bytes();
  capacity.scratch_bytes = space_.bytes();
  return capacity;
}

void CpuModel::forward(const Batch& batch) {
  if (!loaded_) throw Error("invalid", "forward before all weights are loaded: call finish_loading first");
  check_batch(batch, model_, options_);
  wanted_ = 0;
  // Passes of even length.
  const auto tokens = static_cast<int64_t>(batch.tokens.size());
  const int64_t passes = (tokens + space_.pass_tokens - 1) / space_.pass_tokens;
  for (int64_t i = 0; i < passes; ++i) {
    const Range part = share(tokens, passes, i);
    make_pass(batch, part.begin, part.end - part.begin, context_.pass);
    run_pass();
  }
  wanted_ = static_cast<int64_t>(batch.wanted.size());
}

void CpuModel::run_pass() {
  Pass& pass = context_.pass;
  const int32_t positions = *std::max_element(pass.positions.begin(), pass.positions.end()) + 1;
  for (RopeCache& rope : context_.ropes) rope.reach(positions);
  for (size_t i = 0; i < context_.plans.size(); ++i) {
    context_.plans[i].build(pass.rows, *program_.plans[i], options_.block_len, options_.threads);
    context_.plans[i].reset();
  }
  if (pass.compacts() && !pass.wanted.empty()) {
    const AttentionSpec& last = model_.layers.back().attention;
    context_.last_plan.build(pass.last_rows, last, options_.block_len, options_.threads);
    context_.last_plan.reset();
  }
  for (size_t i = 0; i < 2 * program_.layers.size(); ++i) space_.counters[i].next.store(0, std::memory_order_relaxed);
  if (context_.profile != nullptr) context_.profile->start();
  pool_.run([this](int32_t worker) { layers(space_.workers[static_cast<size_t>(worker)]); });
}

// One pass through all layers, by every worker at once.
void CpuModel::layers(Worker& worker) {
  Context& c = context_;
  const Pass& pass = c.pass;
  const auto count = static_cast<int32_t>(program_.layers.size());
  int64_t tokens = pass.count();
  bool by_rows = space_.by_rows(tokens);
  const int64_t threads = pool_.threads();
  if (by_rows) {
    const int64_t blocks = space_.blocks_of(tokens);
    for (int64_t i = worker.id; i < blocks; i += threads) {
      const Range part = Workspace::block(tokens, blocks, i);
      embed(c, {part.begin, part.end});
      rows_before_attention(c, worker, 0, {part.begin, part.end});
    }
    c.meet(worker, Stage::finish);
  } else {
    embed(c, my_rows(c, worker, tokens));
    c.meet(worker, Stage::embed);
    columns_before_attention(c, worker, 0, tokens);
  }
  for (int32_t l = 0; l < count; ++l) {
    const Layer& layer = program_.layers[static_cast<size_t>(l)];
    const bool last = l + 1 == count;
    AttentionPlan* plan = &c.plans[static_cast<size_t>(layer.plan)];
    if (last && pass.compacts()) {
      if (pass.wanted.empty()) return;
      if (worker.id == 0) compact();
      c.meet(worker, Stage::norm);
      plan = &c.last_plan;
      tokens = static_cast<int64_t>(pass.wanted.size());
      by_rows = space_.by_rows(tokens);
    }
    attend(c, worker, layer, l, *plan, space_.counters[2 * l]);
    c.meet(worker, Stage::attention);
    if (!last && worker.id == 0) c.plans[static_cast<size_t>(program_.layers[static_cast<size_t>(l) + 1].plan)].reset();
    if (by_rows) {
      const int64_t blocks = space_.blocks_of(tokens);
      std::atomic<int64_t>& next = space_.counters[2 * l + 1].next;
      for (int64_t i = next.fetch_add(1); i < blocks; i = next.fetch_add(1)) {
        const Range part = Workspace::block(tokens, blocks, i);
        rows_after_attention(c, worker, l, {part.begin, part.end});
        if (!last) rows_before_attention(c, worker, l + 1, {part.begin, part.end});
      }
      c.meet(worker, Stage::down);
      continue;
    }
    columns_after_attention(c, worker, l, tokens);
    layer.routed() ? columns_routed_mlp(c, worker, l, tokens) : columns_mlp(c, worker, l, tokens);
    if (!last) columns_before_attention(c, worker, l + 1, tokens);
  }
  Activations finals;
  finals.f32 = space_.finals + pass.first_wanted * c.hidden();
  resize(finals, tokens, c.hidden());
  normalize(c, program_.final_norm, c.x(0), finals, my_rows(c, worker, tokens), 0);
  c.lap(worker, Stage::norm);
}

// Move the wanted tokens to the front: nobody reads what the others get from here on.
void CpuModel::compact() {
  const std::vector<int32_t>& wanted = context_.pass.wanted;
  const auto hidden = static_cast<size_t>(model_.hidden), q = static_cast<size_t>(program_.widths.q);
  for (size_t i = 0; i < wanted.size(); ++i) {
    const auto from = static_cast<size_t>(wanted[i]);
    std::memmove(space_.x + i * hidden, space_.x + from * hidden, hidden * sizeof(float));
    std::memmove(space_.q + i * q, space_.q + from * q, q * sizeof(float));
  }
}

void CpuModel::logits(int64_t first, int64_t count, float* out) {
  if (first < 0 || count < 0 || first + count > wanted_) {
    throw Error("invalid", "logits of wanted tokens [" + std::to_string(first) + ", +" + std::to_string(count) +
                               "); the last forward kept " + std::to_string(wanted_));
  }
  if (context_.profile != nullptr) context_.profile->start();
  for (int64_t done = 0; done < count; done += kHeadRows) {
    const int64_t rows = std::min(kHeadRows, count - done);
    pool_.run([&](int32_t id) {
      Worker& worker = space_.workers[static_cast<size_t>(id)];
      const bool own = rows <= kPrivateTokens;
      Activations a = own ? worker.in : space_.head;
      a.f32 = space_.finals + (first + done) * model_.hidden;
      resize(a, rows, model_.hidden);
      const Rows mine = own ? Rows{0, rows} : my_rows(context_, worker, rows);
      prepare(context_, a, kind_bit(program_.head), mine, 0, a.cols);
      if (!own) context_.meet(worker, Stage::norm);
      head_rows(worker, a, out + done * model_.vocab);
      context_.lap(worker, Stage::head);
    });
  }
}

// This worker's columns of the logits of all rows of `a`.
void CpuModel::head_rows(Worker& worker, const Activations& a, float* out) {
  const Linear& head = program_.head;
  const int64_t vocab = model_.vocab;
  const Range mine = my_tiles(context_, worker, head.matrix);
  // Whole tiles go where they belong; a last one that is cut short would be written past its row's end.
  const int64_t whole = std::min(mine.end, vocab / kTileRows);
  constexpr int64_t kStep = 64;
  const auto finish = [&](float* row, int64_t col, int64_t n) {
    if (head.bias != nullptr) context_.ops->axpy(1.0f, head.bias + col, row, n);
    if (model_.logits_multiplier != 1.0f) context_.ops->scale(model_.logits_multiplier, row, n);
    if (model_.logits_softcap > 0.0f) context_.ops->softcap(model_.logits_softcap, row, n);
  };
  for (int64_t t = mine.begin; t < whole; t += kStep) {
    const int64_t end = std::min(t + kStep, whole), col = t * kTileRows;
    context_.matmul->multiply(head.matrix, a, 0, a.rows, t, end, out + col, vocab, worker.matmul_scratch);
    for (int64_t m = 0; m < a.rows; ++m) finish(out + m * vocab + col, col, (end - t) * kTileRows);
  }
  if (whole >= mine.end || mine.empty()) return;
  const int64_t col = whole * kTileRows, n = vocab - col;
  context_.matmul->multiply(head.matrix, a, 0, a.rows, whole, whole + 1, worker.out, kTileRows, worker.matmul_scratch);
  for (int64_t m = 0; m < a.rows; ++m) {
    finish(worker.out + m * kTileRows, col, n);
    std::memcpy(out + m * vocab + col, worker.out + m * kTileRows, static_cast<size_t>(n) * sizeof(float));
  }
}

const float* CpuModel::hidden(int64_t index) const {
  if (index < 0 || index >= wanted_) {
    throw Error("invalid", "hidden state of wanted token " + std::to_string(index) + "; the last forward kept " +
                               std::to_string(wanted_));
  }
  return space_.finals + index * model_.hidden;
}

uint8_t* CpuModel::block(int32_t index) const {
  if (index < 0 || index >= options_.num_blocks) {
    throw Error("invalid", "KV block " + std::to_string(index) + " of " + std::to_string(options_.num_blocks));
  }
  return kv_.data() + index * layout_.block_bytes;
}

void CpuModel::copy_block(int32_t src, int32_t dst) {
  uint8_t* to = block(dst);
  const uint8_t* from = block(src);
  if (src != dst) std::memcpy(to, from, static_cast<size_t>(layout_.block_bytes));
}

void CpuModel::scrub_block(int32_t index) { std::memset(block(index), 0, static_cast<size_t>(layout_.block_bytes)); }

void CpuModel::parallel_for(int64_t n, const std::function<void(int64_t)>& fn) { pool_.parallel_for(n, fn); }

std::vector<std::pair<std::string, std::string>> CpuModel::info() const {
  std::string formats;
  for (const auto& [format, count] : weights_.formats()) {
    formats += (formats.empty() ? "" : ", ") + std::to_string(count) + " x " + format_name(format);
  }
  std::vector<std::pair<std::string, std::string>> facts = {
      {"isa", isa_name(isa_)},
      {"threads", std::to_string(pool_.threads()) + (pool_.pinned() ? ", pinned" : "")},
      {"dtype", dtype_name(options_.dtype)},
      {"weights", formats}};
  if (weights_.int8_head()) facts.emplace_back("int8_head_error", weights_.rounding().relative());
  return facts;
}

std::unique_ptr<ForwardModel> create_cpu_model(const ModelDescription& model, const std::vector<WeightSpec>& manifest,
                                               const EngineOptions& options) {
  try {
    return std::make_unique<CpuModel>(model, manifest, options);
  } catch (const std::bad_alloc&) {
    const std::string layers = std::to_string(model.layers.size());
    throw Error("memory", "no memory for the tables of a model with " + layers + " layers");
  }
}

}  // namespace deploykit::cpu
