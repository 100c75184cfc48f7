// gemm16 for f16 activations and weights.
#include "cuda/kernels/gemm16_launch.cuh"

namespace deploykit::cuda {

template void gemm16_typed<__half>(const LinearArgs&, DType, const void*, const Gemm16Variant&, cudaStream_t);

}  // namespace deploykit::cuda
