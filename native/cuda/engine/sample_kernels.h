// Drawing tokens on the device as docs/sampling.md specifies it, for rows without biases, penalties and masks.
#pragma once

#include <cuda_runtime.h>

#include "cuda/engine/state.h"

namespace deploykit::cuda {

// sampled[i] from logits float32 [slices, vocab]; -1 = a logit is not finite. Slices that want no token, of the dummy
// row, of finished rows and of rows drawn on the host are skipped (sampled[i] = -1, which finish_step ignores there).
void sample_slices(const StepArrays& step, const Rows& rows, const float* logits, int32_t vocab, int32_t* sampled,
                   int32_t slices, cudaStream_t stream);

}  // namespace deploykit::cuda
