// core/int8_head.h in the arena's layout.
#pragma once

#include "core/int8_head.h"
#include "cpu/matmul/matmul.h"

namespace deploykit::cpu {

// Quantize and pack tiles [t0, t1) of `head` (int8, planned) from `tensor`: all rows, f32, f16 or bf16. Throws
// Error("invalid") that names a row with a value that is not finite. Threads may call it for different tiles at once.
RoundingError pack_int8_head(const PackedMatrix& head, const WeightTensor& tensor, int64_t t0, int64_t t1);

}  // namespace deploykit::cpu
