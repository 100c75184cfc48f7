// The stages of a layer, each over some rows and some tiles: whoever calls them decides how the work is shared out.
//
// Every output is one sum in the order that the kernels fix, and what follows is done token by token, so the bits of a
// token depend neither on the rows nor on the tiles that a call is given.
#pragma once

#include <cstdint>

#include "cpu/model/pass.h"

namespace deploykit::cpu {

struct Rows {
  int64_t begin = 0, end = 0;
  int64_t count() const { return end - begin; }
};

// `rows` and `cols` of activations from here on.
void resize(Activations& a, int64_t rows, int64_t cols);
void prepare(const Context& c, const Activations& a, uint32_t kinds, Rows rows, int64_t col0, int64_t col1);

// x[t] = embedding of token t.
void embed(const Context& c, Rows tokens);
// Rows of x, normalized, into the same rows of `a`, in these kinds.
void normalize(const Context& c, const NormWeights& norm, const float* x, const Activations& a, Rows rows,
               uint32_t kinds);
// Q, K and V of rows of `a`, row 0 being token `first`, in the tiles of `part`.
void project_qkv(const Context& c, const Worker& worker, const Layer& layer, const Activations& a, Rows rows,
                 int64_t first, const QkvShare& part);
// Biases, norms, the rotation and log-n scaling of these heads, then the store of K and V.
void finish_qkv(const Context& c, const Layer& layer, int32_t index, Rows tokens, Range q_heads, Range kv_heads);
// Units of a layer's attention until none is left.
void attend(const Context& c, const Worker& worker, const Layer& layer, int32_t index, AttentionPlan& plan,
            Counter& counter);
// out += multiplier * (w a + bias), rows of `out` being [hidden] floats apart.
void project_add(const Context& c, const Worker& worker, const Linear& w, const Activations& a, Rows rows, Range tiles,
                 float multiplier, float* out);
// out = w a + bias, rows `stride` floats apart.
void project(const Context& c, const Worker& worker, const Linear& w, const Activations& a, Rows rows, Range tiles,
             float* out, int64_t stride);
// act(gate(a)) * up(a) into the same rows of `mid`, in the kind that down wants.
void expand(const Context& c, const Worker& worker, const MlpSpec& spec, const Expert& mlp, const Activations& a,
            const Activations& mid, Rows rows, Range tiles);
// x += multiplier * norm(y); y is spent.
void add_normalized(const Context& c, const NormWeights& norm, float multiplier, float* y, float* x, Rows rows);

}  // namespace deploykit::cpu
