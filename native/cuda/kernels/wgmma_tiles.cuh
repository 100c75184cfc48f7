// wgmma with both operands in shared memory, for tiles of 64 rows and 16 to 256 tokens (sm_90a).
#pragma once

#include "cuda/kernels/wgmma.cuh"

namespace deploykit::cuda {

#ifdef DEPLOYKIT_WGMMA
// d (+)= a b^T: a [64, 16] and b [kTokens, 16], both K-major under the 128-byte swizzle; `add` false starts from zero.
// Lane (r = lane / 4, t = lane % 4) of warp w holds, for tokens 8j + 2t + {0, 1}: d[4j + {0, 1}] of row 16w + r and
// d[4j + {2, 3}] of row 16w + r + 8.
template <class T, int kTokens>
struct TileProduct;

#define DK_OUT4(i) "+f"(d[(i)]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3])
#define DK_OUT8(i) DK_OUT4(i), DK_OUT4((i) + 4)
#define DK_OUT16(i) DK_OUT8(i), DK_OUT8((i) + 8)
#define DK_OUT32(i) DK_OUT16(i), DK_OUT16((i) + 16)
#define DK_OUT64(i) DK_OUT32(i), DK_OUT32((i) + 32)
#define DK_OUT128(i) DK_OUT64(i), DK_OUT64((i) + 64)
// LIST: the accumulators' names; A, B, ADD: the names of the operands that follow them.
#define DK_TILE_PRODUCT(TYPE, NAME, TOKENS, SUMS, LIST, A, B, ADD)                                              \
  template <>                                                                                                  \
  struct TileProduct<TYPE, TOKENS> {                                                                           \
    static __device__ __forceinline__ void run(float (&d)[SUMS], uint64_t a, uint64_t b, bool add) {           \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " ADD                                                     \
                   ", 0;\n"                                                                                    \
                   "wgmma.mma_async.sync.aligned.m64n" #TOKENS "k16.f32." NAME "." NAME " {" LIST "}, " A      \
                   ", " B ", p, 1, 1, 0, 0;\n}\n"                                                              \
                   : DK_OUT##SUMS(0)                                                                           \
                   : "l"(a), "l"(b), "r"(static_cast<int>(add)));                                              \
    }                                                                                                          \
  };

#define DK_LIST8 \
  "%0, %1, %2, %3, %4, %5, %6, %7"
#define DK_LIST16 \
  DK_LIST8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define DK_LIST32 \
  DK_LIST16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define DK_LIST64 \
  DK_LIST32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define DK_LIST128 \
  DK_LIST64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, " \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
  "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
DK_TILE_PRODUCT(__half, "f16", 16, 8, DK_LIST8, "%8", "%9", "%10")
DK_TILE_PRODUCT(__nv_bfloat16, "bf16", 16, 8, DK_LIST8, "%8", "%9", "%10")
DK_TILE_PRODUCT(__half, "f16", 32, 16, DK_LIST16, "%16", "%17", "%18")
DK_TILE_PRODUCT(__nv_bfloat16, "bf16", 32, 16, DK_LIST16, "%16", "%17", "%18")
DK_TILE_PRODUCT(__half, "f16", 64, 32, DK_LIST32, "%32", "%33", "%34")
DK_TILE_PRODUCT(__nv_bfloat16, "bf16", 64, 32, DK_LIST32, "%32", "%33", "%34")
DK_TILE_PRODUCT(__half, "f16", 128, 64, DK_LIST64, "%64", "%65", "%66")
DK_TILE_PRODUCT(__nv_bfloat16, "bf16", 128, 64, DK_LIST64, "%64", "%65", "%66")
DK_TILE_PRODUCT(__half, "f16", 256, 128, DK_LIST128, "%128", "%129", "%130")
DK_TILE_PRODUCT(__nv_bfloat16, "bf16", 256, 128, DK_LIST128, "%128", "%129", "%130")
#endif

}  // namespace deploykit::cuda
