// How a layer's stages are shared out among the workers.
//
// By columns: every worker makes some of the outputs of each projection, for all tokens, so that the weights are read
// once; workers meet after every stage. For decode and small batches. By rows: every worker takes blocks of tokens
// through whole layers, so that activations stay in its caches; workers meet around attention alone. For prefill.
#pragma once

#include <cstdint>

#include "cpu/model/pass.h"
#include "cpu/model/stages.h"

namespace deploykit::cpu {

// By columns; every worker calls them in the same order, and each ends with a barrier.
void columns_before_attention(Context& c, Worker& worker, int32_t index, int64_t tokens);
void columns_after_attention(Context& c, Worker& worker, int32_t index, int64_t tokens);
void columns_mlp(Context& c, Worker& worker, int32_t index, int64_t tokens);
void columns_routed_mlp(Context& c, Worker& worker, int32_t index, int64_t tokens);

// All tokens normalized, in these kinds, for a worker to read: its own copy where there are few tokens, otherwise the
// common one, after a barrier.
Activations shared_normalized(Context& c, Worker& worker, const NormWeights& norm, uint32_t kinds, int64_t tokens);
// This worker's tokens, and its tiles in pairs, so that its outputs are whole groups of 32 columns.
Rows my_rows(const Context& c, const Worker& worker, int64_t tokens);
Range my_tiles(const Context& c, const Worker& worker, const PackedMatrix& w);
// x += multiplier * post(y) with rows shared out, then a barrier.
void shared_post_norm(Context& c, Worker& worker, const NormWeights& norm, float multiplier, int64_t tokens);

// By rows: one block of tokens, no barriers.
void rows_before_attention(Context& c, Worker& worker, int32_t index, Rows tokens);
void rows_after_attention(Context& c, Worker& worker, int32_t index, Rows tokens);

}  // namespace deploykit::cpu
