#include "cpu/model/stages.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace deploykit::cpu {
namespace {

// Calls fn(rows, tiles) for pieces whose product fits a worker's buffer.
template <class Fn>
void for_pieces(Rows rows, Range tiles, const Fn& fn) {
  for (int64_t m = rows.begin; m < rows.end; m += kBlockTokens) {
    const Rows some{m, std::min(m + kBlockTokens, rows.end)};
    // Whole pairs of tiles: groups of 32 columns.
    const int64_t step = std::max<int64_t>(kOutFloats / kTileRows / some.count() / 2 * 2, 2);
    for (int64_t t = tiles.begin; t < tiles.end; t += step) fn(some, Range{t, std::min(t + step, tiles.end)});
  }
}

int64_t columns(const PackedMatrix& w, Range tiles) {
  return std::min(tiles.end * kTileRows, w.rows) - tiles.begin * kTileRows;
}

// Product of a piece in the worker's buffer `out`, with the bias added; the floats between its rows.
int64_t product(const Context& c, const Worker& worker, const Linear& w, const Activations& a, Rows rows, Range tiles,
                float* out) {
  const int64_t stride = (tiles.end - tiles.begin) * kTileRows;
  c.matmul->multiply(w.matrix, a, rows.begin, rows.end, tiles.begin, tiles.end, out, stride, worker.matmul_scratch);
  if (w.bias != nullptr) {
    const int64_t n = columns(w.matrix, tiles);
    for (int64_t i = 0; i < rows.count(); ++i) {
      c.ops->axpy(1.0f, w.bias + tiles.begin * kTileRows, out + i * stride, n);
    }
  }
  return stride;
}

// Bias, norm and rotation of heads [begin, end) of one token's Q or K.
void finish_heads(const Context& c, const AttentionSpec& spec, float* heads, Range which, int64_t all_heads,
                  const float* bias, const float* norm, int32_t position) {
  if (which.empty()) return;
  const Norm& kind = c.program->model->norm;
  const int64_t dim = spec.head_dim;
  float* first = heads + which.begin * dim;
  const int64_t count = which.end - which.begin;
  if (bias != nullptr) c.ops->axpy(1.0f, bias + which.begin * dim, first, count * dim);
  if (norm != nullptr && spec.qk_norm == QkNorm::full) {
    c.ops->norm(kind, heads, norm, nullptr, all_heads * dim, heads);  // only ever called with all heads
  } else if (norm != nullptr) {
    for (int64_t h = 0; h < count; ++h) c.ops->norm(kind, first + h * dim, norm, nullptr, dim, first + h * dim);
  }
  if (spec.rope < 0) return;
  const RopeCache& rope = c.ropes[static_cast<size_t>(spec.rope)];
  c.ops->rope(first, static_cast<int32_t>(count), spec.head_dim, rope.cos(position), rope.sin(position), rope.half(),
              rope.interleaved());
}

AttentionCall attention_call(const Context& c, const Layer& layer, int32_t index) {
  const Workspace& space = *c.space;
  AttentionCall call;
  call.layout = c.layout;
  call.spec = &layer.spec->attention;
  call.layer = index;
  call.pool = c.kv;
  call.q = space.q;
  call.q_stride = c.program->widths.q;
  call.k = space.k;
  call.v = space.v;
  call.kv_stride = c.program->widths.kv;
  call.out = space.attended;
  call.out_stride = layer.q_width();
  call.sinks = layer.sinks;
  return call;
}

}  // namespace

void resize(Activations& a, int64_t rows, int64_t cols) {
  a.rows = rows;
  a.cols = cols;
}

void prepare(const Context& c, const Activations& a, uint32_t kinds, Rows rows, int64_t col0, int64_t col1) {
  for (ActKind kind : {ActKind::bf16, ActKind::int8}) {
    if ((kinds >> static_cast<int32_t>(kind) & 1) == 0) continue;
    c.matmul->prepare(a, kind, rows.begin, rows.end, col0, col1);
  }
}

void embed(const Context& c, Rows tokens) {
  const int64_t hidden = c.hidden();
  const float multiplier = c.program->model->embedding_multiplier;
  for (int64_t t = tokens.begin; t < tokens.end; ++t) {
    const auto at = static_cast<size_t>(t);
    if (const float* given = c.pass.embeddings[at]) {
      std::memcpy(c.x(t), given, static_cast<size_t>(hidden) * sizeof(float));
      continue;
    }
    unpack_row(c.program->embed, c.pass.tokens[at], c.x(t));
    if (multiplier != 1.0f) c.ops->scale(multiplier, c.x(t), hidden);
  }
}

void normalize(const Context& c, const NormWeights& norm, const float* x, const Activations& a, Rows rows,
               uint32_t kinds) {
  const int64_t hidden = c.hidden();
  for (int64_t m = rows.begin; m < rows.end; ++m) {
    float* out = a.f32 + m * hidden;
    if (norm.weight != nullptr) {
      c.ops->norm(c.program->model->norm, x + m * hidden, norm.weight, norm.bias, hidden, out);
    } else {
      std::memcpy(out, x + m * hidden, static_cast<size_t>(hidden) * sizeof(float));
    }
  }
  prepare(c, a, kinds, rows, 0, hidden);
}

void project_qkv(const Context& c, const Worker& worker, const Layer& layer, const Activations& a, Rows rows,
                 int64_t first, const QkvShare& part) {
  const auto run = [&](const Linear& w, Range tiles, float* out, int64_t stride) {
    if (tiles.empty()) return;
    out += (first + rows.begin) * stride + tiles.begin * kTileRows;
    c.matmul->multiply(w.matrix, a, rows.begin, rows.end, tiles.begin, tiles.end, out, stride, worker.matmul_scratch);
  };
  run(layer.q, part.q, c.space->q, c.program->widths.q);
  run(layer.k, part.k, c.space->k, c.program->widths.kv);
  run(layer.v, part.v, c.space->v, c.program->widths.kv);
}

void finish_qkv(const Context& c, const Layer& layer, int32_t index, Rows tokens, Range q_heads, Range kv_heads) {
  const AttentionSpec& spec = layer.spec->attention;
  const Workspace& space = *c.space;
  const int64_t dim = spec.head_dim;
  for (int64_t t = tokens.begin; t < tokens.end; ++t) {
    const auto at = static_cast<size_t>(t);
    const int32_t position = c.pass.positions[at];
    float* q = space.q + t * c.program->widths.q;
    float* k = space.k + t * c.program->widths.kv;
    finish_heads(c, spec, q, q_heads, spec.heads, layer.q.bias, layer.q_norm, position);
    finish_heads(c, spec, k, kv_heads, spec.kv_heads, layer.k.bias, layer.k_norm, position);
    if (layer.v.bias != nullptr && !kv_heads.empty()) {
      float* v = space.v + t * c.program->widths.kv + kv_heads.begin * dim;
      c.ops->axpy(1.0f, layer.v.bias + kv_heads.begin * dim, v, (kv_heads.end - kv_heads.begin) * dim);
    }
    if (spec.logn_trained_len > 0 && c.pass.indexes[at] >= spec.logn_trained_len && !q_heads.empty()) {
      const double factor = std::log(c.pass.indexes[at] + 1.0) / std::log(static_cast<double>(spec.logn_trained_len));
      c.ops->scale(static_cast<float>(factor), q + q_heads.begin * dim, (q_heads.end - q_heads.begin) * dim);
    }
  }
  if (kv_heads.empty()) return;
  const AttentionCall call = attention_call(c, layer, index);
  for (const RowSlice& slice : c.pass.rows) {
    const int64_t t0 = std::max<int64_t>(tokens.begin - slice.first, 0);
    const int64_t t1 = std::min<int64_t>(tokens.end - slice.first, slice.count);
    if (t0 >= t1) continue;
    c.attention->store(call, slice, static_cast<int32_t>(t0), static_cast<int32_t>(t1),
                       static_cast<int32_t>(kv_heads.begin), static_cast<int32_t>(kv_heads.end));
  }
}

void attend(const Context& c, const Worker& worker, const Layer& layer, int32_t index, AttentionPlan& plan,
            Counter& counter) {
  const AttentionCall call = attention_call(c, layer, index);
  const int64_t units = plan.units();
  for (int64_t unit = counter.next.fetch_add(1); unit < units; unit = counter.next.fetch_add(1)) {
    c.attention->run(call, plan, unit, worker.attention_scratch);
  }
}

void project_add(const Context& c, const Worker& worker, const Linear& w, const Activations& a, Rows rows, Range tiles,
                 float multiplier, float* out) {
  for_pieces(rows, tiles, [&](Rows some, Range part) {
    const int64_t stride = product(c, worker, w, a, some, part, worker.out), n = columns(w.matrix, part);
    for (int64_t m = some.begin; m < some.end; ++m) {
      float* to = out + m * w.matrix.rows + part.begin * kTileRows;
      c.ops->axpy(multiplier, worker.out + (m - some.begin) * stride, to, n);
    }
  });
}

void project(const Context& c, const Worker& worker, const Linear& w, const Activations& a, Rows rows, Range tiles,
             float* out, int64_t stride) {
  for_pieces(rows, tiles, [&](Rows some, Range part) {
    const int64_t from = product(c, worker, w, a, some, part, worker.out);
    const auto bytes = static_cast<size_t>(columns(w.matrix, part)) * sizeof(float);
    for (int64_t m = some.begin; m < some.end; ++m) {
      std::memcpy(out + m * stride + part.begin * kTileRows, worker.out + (m - some.begin) * from, bytes);
    }
  });
}

void expand(const Context& c, const Worker& worker, const MlpSpec& spec, const Expert& mlp, const Activations& a,
            const Activations& mid, Rows rows, Range tiles) {
  for_pieces(rows, tiles, [&](Rows some, Range part) {
    const int64_t n = columns(mlp.up.matrix, part), col = part.begin * kTileRows;
    const int64_t stride = product(c, worker, spec.gated ? mlp.gate : mlp.up, a, some, part, worker.out);
    if (spec.gated) product(c, worker, mlp.up, a, some, part, worker.out2);
    c.ops->activate(spec.activation, worker.out, spec.gated ? worker.out2 : nullptr, some.count() * stride);
    for (int64_t m = some.begin; m < some.end; ++m) {
      std::memcpy(mid.f32 + m * mid.cols + col, worker.out + (m - some.begin) * stride,
                  static_cast<size_t>(n) * sizeof(float));
    }
    prepare(c, mid, kind_bit(mlp.down), some, col, col + n);
  });
}

void add_normalized(const Context& c, const NormWeights& norm, float multiplier, float* y, float* x, Rows rows) {
  const int64_t hidden = c.hidden();
  for (int64_t m = rows.begin; m < rows.end; ++m) {
    c.ops->norm(c.program->model->norm, y + m * hidden, norm.weight, norm.bias, hidden, y + m * hidden);
    c.ops->axpy(multiplier, y + m * hidden, x + m * hidden, hidden);
  }
}

}  // namespace deploykit::cpu
