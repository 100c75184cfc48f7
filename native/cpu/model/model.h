// The CPU's forward: a ForwardModel over any ModelDescription.
#pragma once

#include <memory>
#include <vector>

#include "core/forward.h"

namespace deploykit::cpu {

// Reserves all memory (pages become resident as they are used) and starts the threads. Embeddings that a batch gives
// are taken as they are: embedding_multiplier is the table's alone.
// Throws Error("invalid" | "missing" | "unsupported" | "memory").
std::unique_ptr<ForwardModel> create_cpu_model(const ModelDescription& model, const std::vector<WeightSpec>& manifest,
                                               const EngineOptions& options);

}  // namespace deploykit::cpu
