// The door to w4_mma: checks, and the workspace's size.
#include "cuda/kernels/w4_mma_kernel.cuh"

namespace deploykit::cuda {

extern template void w4_mma_typed<__half>(int, const LinearArgs&, const W4Weight&, void*, cudaStream_t);
extern template void w4_mma_typed<__nv_bfloat16>(int, const LinearArgs&, const W4Weight&, void*, cudaStream_t);
template <class T>
void w4_wgmma_typed(const LinearArgs& a, const W4Weight& w, void* workspace, cudaStream_t stream);
extern template void w4_wgmma_typed<__half>(const LinearArgs&, const W4Weight&, void*, cudaStream_t);
extern template void w4_wgmma_typed<__nv_bfloat16>(const LinearArgs&, const W4Weight&, void*, cudaStream_t);

int64_t w4_mma_workspace_bytes() { return kCounters * 4 + 2 * kMaxSms * 256 * kW4MmaMaxM * 4; }

void w4_mma_variant(int variant, const LinearCall& call, const W4Weight& w, cudaStream_t stream) {
  require_w4("w4_mma", w);
  const LinearArgs a = linear_args("w4_mma", call, w.n, w.k, kW4MmaMaxM);
  require(call.norm_weight == nullptr, "w4_mma", "no norm on the way in");
  require(call.workspace != nullptr, "w4_mma", "a workspace is given");
  if (variant == 1 && w.group == 128 && compute_capability() == 90) {
    if (call.dtype == DType::f16) {
      w4_wgmma_typed<__half>(a, w, call.workspace, stream);
    } else {
      w4_wgmma_typed<__nv_bfloat16>(a, w, call.workspace, stream);
    }
  } else if (call.dtype == DType::f16) {
    w4_mma_typed<__half>(variant, a, w, call.workspace, stream);
  } else {
    w4_mma_typed<__nv_bfloat16>(variant, a, w, call.workspace, stream);
  }
}

// Measured on an H100 (bench/cuda/NOTES.md): wgmma is ahead for 9 to 32 tokens, level beyond.
void w4_mma(const LinearCall& call, const W4Weight& w, cudaStream_t stream) {
  w4_mma_variant(call.m > 8 && call.m <= 32 ? 1 : 0, call, w, stream);
}

}  // namespace deploykit::cuda
