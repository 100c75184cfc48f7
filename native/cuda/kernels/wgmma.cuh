// wgmma (sm_90a): a warpgroup's products m64 nN k16 with float32 accumulators, written out for the sizes in use.
//
// Operands in shared memory are described by matrix descriptors with the 128-byte swizzle: rows of 64 16-bit elements,
// the 16-byte unit u of row r at u ^ (r % 8), tiles aligned to 1,024 bytes.
#pragma once

#include "cuda/kernels/common.cuh"

namespace deploykit::cuda {

#if defined(__CUDACC__) && (!defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL))
#define DEPLOYKIT_WGMMA 1
// K-major (rows are M or N, elements along K): `leading` unused, `stride` = bytes between groups of 8 rows.
// MN-major (rows are K, elements along N): `leading` = bytes between groups of 64 elements, `stride` = of 8 rows.
__device__ __forceinline__ uint64_t matrix_descriptor(uint32_t address, uint32_t leading, uint32_t stride) {
  return static_cast<uint64_t>((address & 0x3ffffu) >> 4) | static_cast<uint64_t>(leading >> 4) << 16 |
         static_cast<uint64_t>(stride >> 4) << 32 | 1ull << 62;
}
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kLeft>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kLeft) : "memory");
}
__device__ __forceinline__ void async_proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Products m64 nN k16 of a warpgroup. Lane (r = lane / 4, t = lane % 4) of warp w holds, for columns 8j + 2t + {0, 1}:
// d[4j + {0, 1}] of row 16w + r and d[4j + {2, 3}] of row 16w + r + 8.
//
// d (+)= a b^T, both K-major in shared memory; `add` false starts from zero.
template <class T, int N>
__device__ __forceinline__ void wgmma_shared(float (&d)[N / 2], uint64_t a, uint64_t b, bool add);
// d += a b, a in registers, b MN-major in shared memory.
template <class T, int N>
__device__ __forceinline__ void wgmma_registers(float (&d)[N / 2], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                                uint64_t b);
// d (+)= a b^T, a in registers, b K-major in shared memory.
template <class T, int N>
__device__ __forceinline__ void wgmma_rows(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool add);

// The accumulators as operands, and their names in the instruction.
#define DK_OUT4(i) "+f"(d[(i)]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3])
#define DK_OUT8(i) DK_OUT4(i), DK_OUT4((i) + 4)
#define DK_OUT16(i) DK_OUT8(i), DK_OUT8((i) + 8)
#define DK_OUT32(i) DK_OUT16(i), DK_OUT16((i) + 16)
#define DK_OUT64(i) DK_OUT32(i), DK_OUT32((i) + 32)
#define DK_OUT128(i) DK_OUT64(i), DK_OUT64((i) + 64)
#define DK_OUT48(i) DK_OUT32(i), DK_OUT16((i) + 32)
#define DK_OUT80(i) DK_OUT64(i), DK_OUT16((i) + 64)
#define DK_OUT96(i) DK_OUT64(i), DK_OUT32((i) + 64)
#define DK_OUT112(i) DK_OUT96(i), DK_OUT16((i) + 96)
#define DK_LIST8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define DK_LIST16 DK_LIST8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define DK_LIST32 DK_LIST16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define DK_LIST64                                                                                 \
  DK_LIST32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
            "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define DK_LIST128                                                                                \
  DK_LIST64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
            "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "    \
            "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
            "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define DK_LIST48 DK_LIST32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define DK_LIST80 DK_LIST64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define DK_LIST96 DK_LIST80 ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define DK_LIST112 DK_LIST96 ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"
#define DK_WGMMA(N, NAME) "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." NAME "." NAME " {"

// SUMS = N / 2 accumulators; P0 .. P5: the names of the operands behind them, %SUMS and on.
#define DK_WGMMA_SHARED(TYPE, NAME, N, SUMS, P0, P1, P2)                                                              \
  template <>                                                                                                         \
  __device__ __forceinline__ void wgmma_shared<TYPE, N>(float (&d)[SUMS], uint64_t a, uint64_t b, bool add) {         \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " P2 ", 0;\n" DK_WGMMA(N, NAME) DK_LIST##SUMS "}, " P0 ", " P1    \
                 ", p, 1, 1, 0, 0;\n}\n"                                                                              \
                 : DK_OUT##SUMS(0)                                                                                    \
                 : "l"(a), "l"(b), "r"(static_cast<int>(add)));                                                       \
  }
#define DK_WGMMA_REGISTERS(TYPE, NAME, N, SUMS, P0, P1, P2, P3, P4)                                                   \
  template <>                                                                                                         \
  __device__ __forceinline__ void wgmma_registers<TYPE, N>(float (&d)[SUMS], uint32_t a0, uint32_t a1, uint32_t a2,   \
                                                           uint32_t a3, uint64_t b) {                                 \
    asm volatile(DK_WGMMA(N, NAME) DK_LIST##SUMS "}, {" P0 ", " P1 ", " P2 ", " P3 "}, " P4 ", 1, 1, 1, 1;\n"         \
                 : DK_OUT##SUMS(0)                                                                                    \
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b));                                                       \
  }
#define DK_WGMMA_ROWS(TYPE, NAME, N, SUMS, P0, P1, P2, P3, P4, P5)                                                    \
  template <>                                                                                                         \
  __device__ __forceinline__ void wgmma_rows<TYPE, N>(float (&d)[SUMS], const uint32_t (&a)[4], uint64_t b,           \
                                                      bool add) {                                                     \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " P5 ", 0;\n" DK_WGMMA(N, NAME) DK_LIST##SUMS "}, {" P0 ", " P1   \
                 ", " P2 ", " P3 "}, " P4 ", p, 1, 1, 0;\n}\n"                                                        \
                 : DK_OUT##SUMS(0)                                                                                    \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)));                   \
  }
#define DK_BOTH(MACRO, ...)              \
  MACRO(__half, "f16", __VA_ARGS__)      \
  MACRO(__nv_bfloat16, "bf16", __VA_ARGS__)

DK_BOTH(DK_WGMMA_SHARED, 16, 8, "%8", "%9", "%10")
DK_BOTH(DK_WGMMA_SHARED, 32, 16, "%16", "%17", "%18")
DK_BOTH(DK_WGMMA_SHARED, 64, 32, "%32", "%33", "%34")
DK_BOTH(DK_WGMMA_SHARED, 128, 64, "%64", "%65", "%66")
DK_BOTH(DK_WGMMA_SHARED, 256, 128, "%128", "%129", "%130")
DK_BOTH(DK_WGMMA_SHARED, 96, 48, "%48", "%49", "%50")
DK_BOTH(DK_WGMMA_SHARED, 160, 80, "%80", "%81", "%82")
DK_BOTH(DK_WGMMA_SHARED, 192, 96, "%96", "%97", "%98")
DK_BOTH(DK_WGMMA_SHARED, 224, 112, "%112", "%113", "%114")
DK_BOTH(DK_WGMMA_REGISTERS, 64, 32, "%32", "%33", "%34", "%35", "%36")
DK_BOTH(DK_WGMMA_REGISTERS, 128, 64, "%64", "%65", "%66", "%67", "%68")
DK_BOTH(DK_WGMMA_REGISTERS, 256, 128, "%128", "%129", "%130", "%131", "%132")
DK_BOTH(DK_WGMMA_ROWS, 16, 8, "%8", "%9", "%10", "%11", "%12", "%13")
DK_BOTH(DK_WGMMA_ROWS, 32, 16, "%16", "%17", "%18", "%19", "%20", "%21")
DK_BOTH(DK_WGMMA_ROWS, 64, 32, "%32", "%33", "%34", "%35", "%36", "%37")
DK_BOTH(DK_WGMMA_ROWS, 128, 64, "%64", "%65", "%66", "%67", "%68", "%69")
DK_BOTH(DK_WGMMA_ROWS, 256, 128, "%128", "%129", "%130", "%131", "%132", "%133")
DK_BOTH(DK_WGMMA_ROWS, 96, 48, "%48", "%49", "%50", "%51", "%52", "%53")
DK_BOTH(DK_WGMMA_ROWS, 160, 80, "%80", "%81", "%82", "%83", "%84", "%85")
DK_BOTH(DK_WGMMA_ROWS, 192, 96, "%96", "%97", "%98", "%99", "%100", "%101")
DK_BOTH(DK_WGMMA_ROWS, 224, 112, "%112", "%113", "%114", "%115", "%116", "%117")

#undef DK_BOTH
#undef DK_WGMMA_ROWS
#undef DK_WGMMA_REGISTERS
#undef DK_WGMMA_SHARED
#undef DK_WGMMA
#endif

}  // namespace deploykit::cuda
