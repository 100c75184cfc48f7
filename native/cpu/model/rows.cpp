// The route by rows.
#include "cpu/model/routes.h"

namespace deploykit::cpu {

void rows_before_attention(Context& c, Worker& worker, int32_t index, Rows tokens) {
  const Layer& layer = c.program->layers[static_cast<size_t>(index)];
  const Rows all{0, tokens.count()};
  Activations a = worker.in;
  resize(a, all.end, c.hidden());
  normalize(c, layer.attn_norm, c.x(tokens.begin), a, all, layer.qkv_kinds);
  QkvShare whole;
  whole.q = {0, layer.q.matrix.tiles()};
  whole.k = {0, layer.k.matrix.tiles()};
  whole.v = {0, layer.v.matrix.tiles()};
  c.lap(worker, Stage::norm);
  project_qkv(c, worker, layer, a, all, tokens.begin, whole);
  c.lap(worker, Stage::qkv);
  finish_qkv(c, layer, index, tokens, {0, layer.heads()}, {0, layer.kv_heads()});
  c.lap(worker, Stage::finish);
}

void rows_after_attention(Context& c, Worker& worker, int32_t index, Rows tokens) {
  const Layer& layer = c.program->layers[static_cast<size_t>(index)];
  const Expert& mlp = layer.experts[0];
  const float multiplier = layer.spec->residual_multiplier;
  const Rows all{0, tokens.count()};
  float* x = c.x(tokens.begin);
  const auto add = [&](const Linear& w, const Activations& a, const NormWeights& post) {
    const Range tiles{0, w.matrix.tiles()};
    if (post.weight == nullptr) {
      project_add(c, worker, w, a, all, tiles, multiplier, x);
      return;
    }
    project(c, worker, w, a, all, tiles, c.y(tokens.begin), c.hidden());
    add_normalized(c, post, multiplier, c.y(tokens.begin), x, all);
  };
  Activations attended = worker.in;
  attended.f32 = c.space->attended + tokens.begin * layer.q_width();
  resize(attended, all.end, layer.q_width());
  prepare(c, attended, kind_bit(layer.o), all, 0, attended.cols);
  c.lap(worker, Stage::norm);
  add(layer.o, attended, layer.attn_post_norm);
  c.lap(worker, Stage::output);

  Activations a = worker.in, mid = worker.mid;
  resize(a, all.end, c.hidden());
  resize(mid, all.end, layer.spec->mlp.intermediate);
  normalize(c, layer.mlp_norm, x, a, all, layer.mlp_kinds);
  c.lap(worker, Stage::norm);
  expand(c, worker, layer.spec->mlp, mlp, a, mid, all, {0, mlp.up.matrix.tiles()});
  c.lap(worker, Stage::expand);
  add(mlp.down, mid, layer.mlp_post_norm);
  c.lap(worker, Stage::down);
}

}  // namespace deploykit::cpu
