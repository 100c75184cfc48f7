// Kernels between the steps' message and the forward, and after the sampling. All are graph-capturable.
#pragma once

#include <cuda_runtime.h>

#include "cuda/engine/state.h"

namespace deploykit::cuda {

// Apply a message's admits, block writes and token writes to the rows.
void apply_message(const uint8_t* message, const StepHeader& header, const Rows& rows, cudaStream_t stream);

// Fill starts, seq_lens, last, token_ids, positions and token_rows from rows, counts and cu for `slices` slices of at most
// `max_count` tokens.
void prepare_step(const StepArrays& step, const Rows& rows, int32_t slices, int32_t max_count, cudaStream_t stream);

// The same where every slice is one token (decode), cu included.
void prepare_decode(const StepArrays& step, const Rows& rows, int32_t slices, cudaStream_t stream);

// Advance the rows by their counts, append the drawn tokens (sampled[i], -1 = error 1, -2 = error 2) of the slices that
// want one, and report. Slices of the dummy row and of finished rows report nothing.
void finish_step(const StepArrays& step, const Rows& rows, const int32_t* sampled, SliceResult* results,
                 int32_t slices, cudaStream_t stream);

}  // namespace deploykit::cuda
