// The CUDA backend's door.
#pragma once

#include <memory>
#include <vector>

#include "deploykit/engine.h"

namespace deploykit::cuda {

// Throws Error("device") where there is no such GPU, Error("unsupported") that names what this backend can't do.
std::unique_ptr<Engine> create_cuda_engine(const ModelDescription& model, const std::vector<WeightSpec>& manifest,
                                           const EngineOptions& options);
// Bytes of a KV block over all layers, as the CUDA kernels lay it out.
int64_t kv_block_bytes(const ModelDescription& model, KvType kv, int32_t block_len);

}  // namespace deploykit::cuda
