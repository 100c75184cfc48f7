#include "cuda/kernels/moe_wgmma_launch.cuh"

namespace deploykit::cuda {

template void moe_wgmma_typed<__half>(int32_t, const ExpertArgs&, int64_t, int64_t, int32_t, cudaStream_t);

}  // namespace deploykit::cuda
