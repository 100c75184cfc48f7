// From a checkpoint's bytes on the device to the engine's layout.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/kernels/kernels.h"

namespace deploykit::cuda {

// Rows [row0, row0 + rows) of a tensor, given as `src` [rows, cols] of `from`, to T rows of dst [*, cols] in the order of
// `map`: plain rows go to row_offset + row, gate and up rows to where RowMap says.
void place_rows(DType from, const void* src, int64_t row0, int64_t rows, int64_t cols, DType to, void* dst,
                int64_t row_offset, RowMap map, cudaStream_t stream);

// out[i] = x[index[i]], rows of n elements of 16 bits; n % 8 == 0.
void take_rows(const void* x, int64_t x_stride, const int32_t* index, int32_t count, int64_t n, void* out,
               cudaStream_t stream);

}  // namespace deploykit::cuda
