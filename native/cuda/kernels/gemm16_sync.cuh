// Between the blocks of a cluster: arrivals and sums sent into another block's shared memory (sm_90 on).
#pragma once

#include "cuda/kernels/pipeline.cuh"

namespace deploykit::cuda {

#ifdef __CUDACC__
// The same place of shared memory in block `rank` of the cluster.
__device__ __forceinline__ uint32_t address_at(uint32_t address, uint32_t rank) {
  uint32_t there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
  return there;
}
// Arrive at a barrier of block `rank`. What was read before has been used, so this needs no fence over the cluster,
// which would cost a round trip to L2.
__device__ __forceinline__ void release_at(uint64_t* barrier, uint32_t rank) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(address_at(shared_address(barrier), rank))
               : "memory");
}
// 16 bytes into another block's shared memory; completes them at a barrier there.
__device__ __forceinline__ void send16(uint32_t address, uint32_t barrier, float a, float b, float c, float d) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(address),
      "f"(a), "f"(b), "f"(c), "f"(d), "r"(barrier)
      : "memory");
}
__device__ __forceinline__ float4 load_shared16(uint32_t address) {
  float4 v;
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(address)
               : "memory");
  return v;
}
// Meet without ordering memory (the barriers' inits have a fence of their own).
__device__ __forceinline__ void cluster_meet_relaxed() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}
#endif

}  // namespace deploykit::cuda
