// The vector types that the kernels are written in, one definition an instruction set. kLanes rows of a tile at once.
//
// F: kLanes float32. I: kLanes int32. B: 4 bytes a lane, the four columns that a dot product adds.
// Dot<kBits, kZero>: sums of (q - kZero) * activation over columns, exact in int32 whatever the route.
#pragma once

#include <cstdint>

#include "cpu/matmul/layout.h"

#define DEPLOYKIT_INLINE inline __attribute__((always_inline))

#if defined(DEPLOYKIT_ISA_avx512)
#include "cpu/matmul/isa/simd_avx512.h"
#elif defined(DEPLOYKIT_ISA_avx2) || defined(DEPLOYKIT_ISA_avxvnni)
#include "cpu/matmul/isa/simd_avx2.h"
#elif defined(DEPLOYKIT_ISA_neon)
#include "cpu/matmul/isa/simd_neon.h"
#else
#include "cpu/matmul/isa/simd_scalar.h"
#endif
