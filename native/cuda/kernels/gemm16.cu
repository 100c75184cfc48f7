// The door to gemm16: checks and the number type.
#include "cuda/kernels/gemm16.cuh"

namespace deploykit::cuda {

template <class T>
void gemm16_typed(const LinearArgs& a, DType dtype, const void* w, const Gemm16Variant& v, cudaStream_t stream);
extern template void gemm16_typed<__half>(const LinearArgs&, DType, const void*, const Gemm16Variant&, cudaStream_t);
extern template void gemm16_typed<__nv_bfloat16>(const LinearArgs&, DType, const void*, const Gemm16Variant&,
                                                 cudaStream_t);

void gemm16_variant(const Gemm16Variant& variant, const LinearCall& call, const void* w, int64_t n, int64_t k,
                    cudaStream_t stream) {
  require(has_wgmma(), "gemm16", "the device has wgmma");
  const LinearArgs a = linear_args("gemm16", call, n, k, INT32_MAX);
  require(k >= 64 && k % 64 == 0, "gemm16", "k % 64 == 0");
  require(call.norm_weight == nullptr, "gemm16", "no norm on the way in");
  if (call.dtype == DType::f16) {
    gemm16_typed<__half>(a, call.dtype, w, variant, stream);
  } else {
    gemm16_typed<__nv_bfloat16>(a, call.dtype, w, variant, stream);
  }
}

void gemm16(const LinearCall& call, const void* w, int64_t n, int64_t k, cudaStream_t stream) {
  gemm16_variant({}, call, w, n, k, stream);
}

}  // namespace deploykit::cuda
