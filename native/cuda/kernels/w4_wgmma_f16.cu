// w4_mma on sm_90a for f16 activations.
#include "cuda/kernels/w4_wgmma_kernel.cuh"

namespace deploykit::cuda {

template void w4_wgmma_typed<__half>(const LinearArgs&, const W4Weight&, void*, cudaStream_t);

}  // namespace deploykit::cuda
