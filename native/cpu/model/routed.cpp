// A layer's routed experts, by columns: tokens are gathered expert by expert, and every token's results are added in
// the order of its own ranking.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/model/routes.h"

namespace deploykit::cpu {
namespace {

// The best top_k experts of one token, best first, the lowest index on ties; and their weights.
void choose(const MoeSpec& spec, const float* logits, int32_t* expert, float* weight) {
  for (int32_t rank = 0; rank < spec.top_k; ++rank) {
    int32_t best = -1;
    for (int32_t e = 0; e < spec.experts; ++e) {
      if (std::find(expert, expert + rank, e) != expert + rank) continue;
      if (best < 0 || logits[e] > logits[best]) best = e;
    }
    expert[rank] = best;
  }
  double sum = 0.0;
  const auto chosen = [&](int32_t rank) { return static_cast<double>(logits[expert[rank]]); };
  const double largest = chosen(0);
  for (int32_t rank = 0; rank < spec.top_k; ++rank) {
    const double value = spec.sigmoid ? 1.0 / (1.0 + std::exp(-chosen(rank))) : std::exp(chosen(rank) - largest);
    weight[rank] = static_cast<float>(value);
    sum += value;
  }
  // Of the chosen alone where they are to sum up to one; a softmax is otherwise over all experts.
  double divisor = sum;
  if (!spec.normalize && !spec.softmax_after_topk) {
    divisor = spec.sigmoid ? 1.0 : 0.0;
    for (int32_t e = 0; e < spec.experts && !spec.sigmoid; ++e) {
      divisor += std::exp(static_cast<double>(logits[e]) - largest);
    }
  }
  for (int32_t rank = 0; rank < spec.top_k; ++rank) {
    weight[rank] = static_cast<float>(static_cast<double>(weight[rank]) / divisor);
  }
}

void choose_rows(const Context& c, const MoeSpec& spec, Rows rows) {
  const Routing& r = c.space->routing;
  for (int64_t t = rows.begin; t < rows.end; ++t) {
    choose(spec, r.logits + t * r.logits_stride, r.expert + t * spec.top_k, r.weight + t * spec.top_k);
  }
}

// Slots sorted by expert, then by token.
void sort_slots(const Context& c, const MoeSpec& spec, int64_t tokens) {
  const Routing& r = c.space->routing;
  const int64_t slots = tokens * spec.top_k;
  std::fill_n(r.begin, spec.experts + 1, 0);
  for (int64_t i = 0; i < slots; ++i) ++r.begin[r.expert[i] + 1];
  int32_t active = 0;
  for (int32_t e = 0; e < spec.experts; ++e) {
    if (r.begin[e + 1] > 0) r.active[active++] = e;
    r.begin[e + 1] += r.begin[e];
  }
  r.active[spec.experts] = active;
  for (int64_t i = 0; i < slots; ++i) {
    const int32_t slot = r.begin[r.expert[i]]++;
    r.slot[i] = slot;
    r.token[slot] = static_cast<int32_t>(i / spec.top_k);
  }
  // Every start has moved to its expert's end, which is the next one's start.
  for (int32_t e = spec.experts; e > 0; --e) r.begin[e] = r.begin[e - 1];
  r.begin[0] = 0;
}

// act(gate) * up of all slots, in units of one expert and some of its columns, taken from a counter.
void expand_slots(Context& c, Worker& worker, const Layer& layer, Counter& counter, const Activations& in,
                  const Activations& mid) {
  const Routing& r = c.space->routing;
  const int64_t active = r.active[layer.spec->mlp.moe.experts], tiles = layer.experts[0].up.matrix.tiles();
  // About four units for each worker, so that none waits long for the last one.
  const int64_t wanted = (4 * int64_t{c.pool->threads()} + active - 1) / active;
  const int64_t parts = std::clamp<int64_t>(wanted, 1, (tiles + 1) / 2);
  for (int64_t unit = counter.next.fetch_add(1); unit < active * parts; unit = counter.next.fetch_add(1)) {
    const int32_t e = r.active[unit / parts];
    const Range part = share(tiles, parts, unit % parts, 2);
    expand(c, worker, layer.spec->mlp, layer.experts[static_cast<size_t>(e)], in, mid, {r.begin[e], r.begin[e + 1]},
           part);
  }
}

// This worker's columns of the sum of each token's experts: into y, or added to x.
void sum_slots(Context& c, Worker& worker, const Layer& layer, const Activations& mid, int64_t tokens) {
  const Routing& r = c.space->routing;
  const MlpSpec& spec = layer.spec->mlp;
  const int64_t slots = tokens * spec.moe.top_k, hidden = c.hidden();
  const Range mine = my_tiles(c, worker, layer.experts[0].down.matrix);
  const int64_t step = std::min(r.result_floats / (slots * kTileRows), kOutFloats / kTileRows);
  float* results = r.results + worker.id * r.result_floats;
  for (int64_t t0 = mine.begin; t0 < mine.end; t0 += step) {
    const Range tiles{t0, std::min(t0 + step, mine.end)};
    const int64_t stride = (tiles.end - tiles.begin) * kTileRows, col = tiles.begin * kTileRows;
    const int64_t n = std::min(stride, hidden - col);
    for (int32_t i = 0; i < r.active[spec.moe.experts]; ++i) {
      const int32_t e = r.active[i];
      const Linear& down = layer.experts[static_cast<size_t>(e)].down;
      c.matmul->multiply(down.matrix, mid, r.begin[e], r.begin[e + 1], tiles.begin, tiles.end,
                         results + r.begin[e] * stride, stride, worker.matmul_scratch);
      for (int64_t slot = r.begin[e]; down.bias != nullptr && slot < r.begin[e + 1]; ++slot) {
        c.ops->axpy(1.0f, down.bias + col, results + slot * stride, n);
      }
    }
    for (int64_t t = 0; t < tokens; ++t) {
      std::fill_n(worker.out, n, 0.0f);
      for (int32_t rank = 0; rank < spec.moe.top_k; ++rank) {
        const int64_t at = t * spec.moe.top_k + rank;
        c.ops->axpy(r.weight[at], results + r.slot[at] * stride, worker.out, n);
      }
      if (layer.mlp_post_norm.weight != nullptr) {
        std::memcpy(c.y(t) + col, worker.out, static_cast<size_t>(n) * sizeof(float));
      } else {
        c.ops->axpy(layer.spec->residual_multiplier, worker.out, c.x(t) + col, n);
      }
    }
  }
}

}  // namespace

void columns_routed_mlp(Context& c, Worker& worker, int32_t index, int64_t tokens) {
  const Layer& layer = c.program->layers[static_cast<size_t>(index)];
  const MoeSpec& spec = layer.spec->mlp.moe;
  const Routing& r = c.space->routing;
  const Activations a = shared_normalized(c, worker, layer.mlp_norm, kind_bit(layer.router), tokens);
  const PackedMatrix& router = layer.router.matrix;
  if (tokens <= kPrivateTokens) {
    project(c, worker, layer.router, a, {0, tokens}, my_tiles(c, worker, router), r.logits, r.logits_stride);
    c.meet(worker, Stage::norm);
    if (worker.id == 0) choose_rows(c, spec, {0, tokens});
  } else {
    const Rows rows = my_rows(c, worker, tokens);
    project(c, worker, layer.router, a, rows, {0, router.tiles()}, r.logits, r.logits_stride);
    choose_rows(c, spec, rows);
    c.meet(worker, Stage::norm);
  }
  if (worker.id == 0) sort_slots(c, spec, tokens);
  c.meet(worker, Stage::norm);

  Activations in = r.in, mid = r.mid;
  resize(in, tokens * spec.top_k, c.hidden());
  resize(mid, tokens * spec.top_k, layer.spec->mlp.intermediate);
  const Rows slots = my_rows(c, worker, in.rows);
  for (int64_t slot = slots.begin; slot < slots.end; ++slot) {
    std::memcpy(in.f32 + slot * in.cols, a.f32 + r.token[slot] * in.cols, static_cast<size_t>(in.cols) * sizeof(float));
  }
  prepare(c, in, layer.mlp_kinds, slots, 0, in.cols);
  c.meet(worker, Stage::norm);
  expand_slots(c, worker, layer, c.space->counters[2 * index + 1], in, mid);
  c.meet(worker, Stage::expand);
  sum_slots(c, worker, layer, mid, tokens);
  c.meet(worker, Stage::down);
  if (layer.mlp_post_norm.weight != nullptr) {
    shared_post_norm(c, worker, layer.mlp_post_norm, layer.spec->residual_multiplier, tokens);
  }
}

}  // namespace deploykit::cpu
