#include "cuda/kernels/moe_mma.cuh"

namespace deploykit::cuda {

template void moe_mma_typed<__half>(int32_t, int32_t, ExpertArgs, cudaStream_t);

}  // namespace deploykit::cuda
