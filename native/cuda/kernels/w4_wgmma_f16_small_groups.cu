// w4_matmul on sm_90a for f16 activations, groups of 32 and 64.
#include "cuda/kernels/w4_wgmma_launch.cuh"

namespace deploykit::cuda {

template void w4_wgmma_typed<__half, false>(int, const LinearArgs&, const W4Weight&, cudaStream_t);

}  // namespace deploykit::cuda
