// What kernels with producers and consumers share (sm_90 on): mbarriers, tensor-map copies into shared memory, named
// barriers and the registers of a warpgroup.
//
// A stage of shared memory has two mbarriers: `full` (the producer expects bytes, the copies complete them) and `empty`
// (consumers arrive when they have read it). Waits name the parity of the phase that must have ended: a fresh barrier's
// phase 0 has not ended, and its phase -1 (parity 1) has, so a producer starts with wait(empty, 1).
#pragma once

#include <cuda.h>

#include "cuda/kernels/common.cuh"

namespace deploykit::cuda {

#ifdef __CUDACC__
__device__ __forceinline__ void barrier_init(uint64_t* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
// After the inits, by the thread that did them, before the block (or cluster) meets.
__device__ __forceinline__ void barrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

__device__ __forceinline__ void barrier_arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// An arrival without a branch: between products in flight the compiler needs straight code.
__device__ __forceinline__ void arrive_if(bool on, uint32_t barrier) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %0, 0;\n@p mbarrier.arrive.shared::cta.b64 _, [%1];\n}\n" ::"r"(
                   static_cast<int>(on)),
               "r"(barrier)
               : "memory");
}
// The same at a barrier of a block of the cluster (address_at). No fence over the cluster: what was read has been used.
__device__ __forceinline__ void arrive_in_cluster_if(bool on, uint32_t barrier) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %0, 0;\n@p mbarrier.arrive.shared::cluster.b64 _, [%1];\n}\n" ::"r"(
                   static_cast<int>(on)),
               "r"(barrier)
               : "memory");
}
// One arrival, and `bytes` that copies will complete.
__device__ __forceinline__ void barrier_expect(uint64_t* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}
// By its address, which a loop may keep: a pointer's is worked out anew at every use.
__device__ __forceinline__ void barrier_wait_at(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "again_%=:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again_%=;\n}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
__device__ __forceinline__ void barrier_wait(uint64_t* barrier, uint32_t parity) {
  barrier_wait_at(shared_address(barrier), parity);
}
// The barriers of kStages stages, by one thread; `readers` arrivals empty a stage.
template <int kStages>
__device__ __forceinline__ void stage_barriers_init(uint64_t (&full)[kStages], uint64_t (&empty)[kStages], uint32_t readers) {
#pragma unroll
  for (int i = 0; i < kStages; ++i) {
    barrier_init(full + i, 1);
    barrier_init(empty + i, readers);
  }
}

// Shared memory by its address: 16 and 8 bytes.
__device__ __forceinline__ void load_shared(uint32_t address, uint32_t (&v)[4]) {
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void load_shared(uint32_t address, uint32_t (&v)[2]) {
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(v[0]), "=r"(v[1]) : "r"(address) : "memory");
}

// `bytes` (a multiple of 16) from memory into shared memory; completes them at `barrier`. One thread calls it.
__device__ __forceinline__ void bulk_copy(void* shared, const void* global, uint32_t bytes, uint64_t* barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(shared)),
               "l"(global), "r"(bytes), "r"(shared_address(barrier))
               : "memory");
}

// A box of a tensor map at the coordinates (c0 is the innermost) into shared memory; completes its bytes at `barrier`.
// One thread calls it. The box's bytes count whole, also where it hangs over the tensor's end (zeros there).
__device__ __forceinline__ void tensor_copy(void* shared, const CUtensorMap* map, uint64_t* barrier, int32_t c0,
                                            int32_t c1) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
          shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "r"(c0), "r"(c1)
      : "memory");
}
__device__ __forceinline__ void tensor_copy(void* shared, const CUtensorMap* map, uint64_t* barrier, int32_t c0,
                                            int32_t c1, int32_t c2) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(
          shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "r"(c0), "r"(c1), "r"(c2)
      : "memory");
}
__device__ __forceinline__ void tensor_copy(void* shared, const CUtensorMap* map, uint64_t* barrier, int32_t c0,
                                            int32_t c1, int32_t c2, int32_t c3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];" ::
          "r"(shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
      : "memory");
}
__device__ __forceinline__ void tensor_copy(void* shared, const CUtensorMap* map, uint64_t* barrier, int32_t c0,
                                            int32_t c1, int32_t c2, int32_t c3, int32_t c4) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4, %5, %6, %7}], [%2];" ::"r"(shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
      : "memory");
}
// The same to the same place of every block of the cluster that `blocks` (a bit a rank) names, at each one's barrier.
__device__ __forceinline__ void tensor_copy_to_cluster(void* shared, const CUtensorMap* map, uint64_t* barrier,
                                                       uint16_t blocks, int32_t c0, int32_t c1) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster"
      " [%0], [%1, {%4, %5}], [%2], %3;" ::"r"(shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "h"(blocks), "r"(c0), "r"(c1)
      : "memory");
}
// From shared memory to a box of a tensor map, in the order of the copies that one thread commits; what hangs over the
// tensor's end isn't written. What other threads wrote there wants their async_proxy_fence() and a barrier in front.
__device__ __forceinline__ void tensor_store(const CUtensorMap* map, uint32_t shared, int32_t c0, int32_t c1) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];\ncp.async.bulk.commit_group;" ::"l"(map),
      "r"(shared), "r"(c0), "r"(c1)
      : "memory");
}
// The shared memory of all of this thread's stores has been read.
__device__ __forceinline__ void tensor_stores_wait() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
__device__ __forceinline__ void tensor_map_prefetch(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
// Barrier `id` (1 .. 15) of `threads` threads of the block.
__device__ __forceinline__ void named_barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ __forceinline__ void named_barrier_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ __forceinline__ uint32_t cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
__device__ __forceinline__ void cluster_meet() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
// All warps of a warpgroup; kRegisters a thread, a multiple of 8.
template <int kRegisters>
__device__ __forceinline__ void registers_give() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void registers_take() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
#endif
#endif  // __CUDACC__

// A tensor map for tensor_copy(): `rank` dimensions, innermost first; `strides` in bytes of dimensions 1 .. rank - 1,
// multiples of 16; boxes of at most 256 elements a dimension. `swizzle` 0, 32, 64 or 128 bytes (the box's innermost
// dimension is at most that long). The data's address is a multiple of 16. Costs the host a fraction of a microsecond;
// the map is passed to kernels by value as `const __grid_constant__ CUtensorMap`. Throws Error("device").
CUtensorMap tensor_map(CUtensorMapDataType type, int rank, const void* data, const uint64_t* sizes,
                       const uint64_t* strides, const uint32_t* box, int swizzle);

}  // namespace deploykit::cuda
