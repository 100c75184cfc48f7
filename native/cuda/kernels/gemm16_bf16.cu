// gemm16 for bf16 activations and weights.
#include "cuda/kernels/gemm16_launch.cuh"

namespace deploykit::cuda {

template void gemm16_typed<__nv_bfloat16>(const LinearArgs&, DType, const void*, const Gemm16Variant&, cudaStream_t);

}  // namespace deploykit::cuda
