// The door to gemm16: checks, the kernel for a number of tokens, and the workspace's size.
#include "cuda/kernels/gemm16.cuh"

namespace deploykit::cuda {

template <class T>
void gemm16_typed(const LinearArgs& a, DType dtype, const void* w, Gemm16Variant v, void* workspace,
                  cudaStream_t stream);
extern template void gemm16_typed<__half>(const LinearArgs&, DType, const void*, Gemm16Variant, void*,
                                          cudaStream_t);
extern template void gemm16_typed<__nv_bfloat16>(const LinearArgs&, DType, const void*, Gemm16Variant, void*,
                                                 cudaStream_t);

// Two parts of a multiprocessor's 128 rows and 256 tokens.
int64_t gemm16_workspace_bytes() {
  return kGemm16Counters * 4 + int64_t{2} * multiprocessors() * 128 * 256 * static_cast<int64_t>(sizeof(float));
}

void gemm16_variant(const Gemm16Variant& variant, const LinearCall& call, const void* w, int64_t n, int64_t k,
                    cudaStream_t stream) {
  require(has_wgmma(), "gemm16", "the device has wgmma");
  const LinearArgs a = linear_args("gemm16", call, n, k, INT32_MAX);
  require(k >= 64 && k % 8 == 0, "gemm16", "k >= 64 and k % 8 == 0");
  require(call.norm_weight == nullptr, "gemm16", "no norm on the way in");
  require(call.workspace != nullptr, "gemm16", "a workspace is given");
  if (call.dtype == DType::f16) {
    gemm16_typed<__half>(a, call.dtype, w, variant, call.workspace, stream);
  } else {
    gemm16_typed<__nv_bfloat16>(a, call.dtype, w, variant, call.workspace, stream);
  }
}

void gemm16(const LinearCall& call, const void* w, int64_t n, int64_t k, cudaStream_t stream) {
  gemm16_variant({}, call, w, n, k, stream);
}

}  // namespace deploykit::cuda
