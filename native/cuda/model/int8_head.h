// What rounding does to the rows of an int8 output head (core/int8_head.h), summed on the device.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "deploykit/weights.h"

namespace deploykit::cuda {

// Of rows [row0, row0 + rows), given as `src` [rows, cols] of `from`, with their scales[row0 + i]: sums[2 * row] is the
// sum of (w - q * scale)^2 with q the nearest integer to w / scale, sums[2 * row + 1] that of w^2. Neither is finite
// where a weight isn't.
void rounding_sums(DType from, const void* src, int64_t row0, int64_t rows, int64_t cols, const float* scales,
                   double* sums, cudaStream_t stream);

}  // namespace deploykit::cuda
