// From a batch to passes.
#pragma once

#include <cstdint>

#include "core/forward.h"
#include "cpu/model/pass.h"

namespace deploykit::cpu {

// Throws Error("invalid") where a batch names tokens, positions, blocks or slices that can't be: nothing that it says
// may lead outside of memory.
void check_batch(const Batch& batch, const ModelDescription& model, const EngineOptions& options);

// Tokens [first, first + count) of a batch; the pass's vectors are used again.
void make_pass(const Batch& batch, int64_t first, int64_t count, Pass& pass);

}  // namespace deploykit::cpu
