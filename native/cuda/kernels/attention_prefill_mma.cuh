// The prefill attention of GPUs without wgmma; attention_prefill() chooses.
#pragma once

#include "cuda/kernels/kernels.h"

namespace deploykit::cuda {

// As attention_prefill() says, without fresh keys and values: everything is read from the KV memory.
void attention_prefill_mma(const AttentionCall& call, const KvView& kv, int32_t sequences, const int32_t* q_start,
                           const int32_t* index0, const int32_t* row, int32_t max_queries, cudaStream_t stream);

}  // namespace deploykit::cuda
