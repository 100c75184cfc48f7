// The route by columns.
#include <algorithm>

#include "cpu/model/routes.h"

namespace deploykit::cpu {
namespace {

// Bytes of the next stage's weights that are asked for before a barrier; the hardware's prefetch goes on from there.
constexpr int64_t kAhead = 2048;

void fetch_ahead(const PackedMatrix& w, Range tiles) {
  if (tiles.empty()) return;
  const uint8_t* start = w.data + tiles.begin * w.tile_bytes;
  const int64_t bytes = std::min(kAhead, (tiles.end - tiles.begin) * w.tile_bytes);
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(start + i);
}

// Attention's output in the kind that the next projection wants.
Activations shared_attended(Context& c, Worker& worker, const Layer& layer, int64_t tokens) {
  const bool own = tokens <= kPrivateTokens;
  Activations a = own ? worker.in : c.space->in;
  a.f32 = c.space->attended;
  resize(a, tokens, layer.q_width());
  const uint32_t kinds = kind_bit(layer.o);
  if (own) {
    prepare(c, a, kinds, {0, tokens}, 0, a.cols);
  } else if (layer.o.matrix.act != ActKind::f32) {
    prepare(c, a, kinds, my_rows(c, worker, tokens), 0, a.cols);
    c.meet(worker, Stage::norm);
  }
  return a;
}

// x += multiplier * (w a + bias) with a post norm where there is one, then a barrier.
void add_projection(Context& c, Worker& worker, const Linear& w, const Activations& a, const NormWeights& post,
                    float multiplier, int64_t tokens, const PackedMatrix* next, Stage stage) {
  const Range tiles = my_tiles(c, worker, w.matrix);
  const bool direct = post.weight == nullptr;
  if (direct) {
    project_add(c, worker, w, a, {0, tokens}, tiles, multiplier, c.x(0));
  } else {
    project(c, worker, w, a, {0, tokens}, tiles, c.y(0), c.hidden());
  }
  if (next != nullptr) fetch_ahead(*next, my_tiles(c, worker, *next));
  c.meet(worker, stage);
  if (!direct) shared_post_norm(c, worker, post, multiplier, tokens);
}

}  // namespace

Rows my_rows(const Context& c, const Worker& worker, int64_t tokens) {
  const Range part = share(tokens, c.pool->threads(), worker.id);
  return {part.begin, part.end};
}

Range my_tiles(const Context& c, const Worker& worker, const PackedMatrix& w) {
  return share(w.tiles(), c.pool->threads(), worker.id, 2);
}

Activations shared_normalized(Context& c, Worker& worker, const NormWeights& norm, uint32_t kinds, int64_t tokens) {
  const bool own = tokens <= kPrivateTokens;
  Activations a = own ? worker.in : c.space->in;
  resize(a, tokens, c.hidden());
  normalize(c, norm, c.x(0), a, own ? Rows{0, tokens} : my_rows(c, worker, tokens), kinds);
  c.lap(worker, Stage::norm);
  if (!own) c.meet(worker, Stage::norm);
  return a;
}

void shared_post_norm(Context& c, Worker& worker, const NormWeights& norm, float multiplier, int64_t tokens) {
  add_normalized(c, norm, multiplier, c.y(0), c.x(0), my_rows(c, worker, tokens));
  c.meet(worker, Stage::norm);
}

void columns_before_attention(Context& c, Worker& worker, int32_t index, int64_t tokens) {
  const Layer& layer = c.program->layers[static_cast<size_t>(index)];
  const QkvShare& mine = layer.shares[static_cast<size_t>(worker.id)];
  const Activations a = shared_normalized(c, worker, layer.attn_norm, layer.qkv_kinds, tokens);
  project_qkv(c, worker, layer, a, {0, tokens}, 0, mine);
  c.lap(worker, Stage::qkv);
  if (layer.whole_heads) {
    finish_qkv(c, layer, index, {0, tokens}, mine.q_heads, mine.kv_heads);
  } else {
    c.meet(worker, Stage::qkv);
    const int64_t threads = c.pool->threads();
    const Range q_heads{0, layer.heads()}, kv_heads{0, layer.kv_heads()};
    if (tokens >= threads || layer.spec->attention.qk_norm == QkNorm::full) {
      const Rows rows = my_rows(c, worker, tokens);
      if (rows.count() > 0) finish_qkv(c, layer, index, rows, q_heads, kv_heads);
    } else {
      finish_qkv(c, layer, index, {0, tokens}, share(q_heads.end, threads, worker.id),
                 share(kv_heads.end, threads, worker.id));
    }
  }
  fetch_ahead(layer.o.matrix, my_tiles(c, worker, layer.o.matrix));
  c.meet(worker, Stage::finish);
}

void columns_after_attention(Context& c, Worker& worker, int32_t index, int64_t tokens) {
  const Layer& layer = c.program->layers[static_cast<size_t>(index)];
  const Activations a = shared_attended(c, worker, layer, tokens);
  const PackedMatrix& next = layer.routed() ? layer.router.matrix : layer.experts[0].up.matrix;
  add_projection(c, worker, layer.o, a, layer.attn_post_norm, layer.spec->residual_multiplier, tokens, &next,
                 Stage::output);
}

void columns_mlp(Context& c, Worker& worker, int32_t index, int64_t tokens) {
  const Layer& layer = c.program->layers[static_cast<size_t>(index)];
  const Expert& mlp = layer.experts[0];
  const Activations a = shared_normalized(c, worker, layer.mlp_norm, layer.mlp_kinds, tokens);
  Activations mid = c.space->mid;
  resize(mid, tokens, layer.spec->mlp.intermediate);
  expand(c, worker, layer.spec->mlp, mlp, a, mid, {0, tokens}, my_tiles(c, worker, mlp.up.matrix));
  fetch_ahead(mlp.down.matrix, my_tiles(c, worker, mlp.down.matrix));
  c.meet(worker, Stage::expand);
  const size_t following = static_cast<size_t>(index) + 1;
  const PackedMatrix* next = following < c.program->layers.size() ? &c.program->layers[following].q.matrix : nullptr;
  add_projection(c, worker, mlp.down, mid, layer.mlp_post_norm, layer.spec->residual_multiplier, tokens, next,
                 Stage::down);
}

}  // namespace deploykit::cpu
