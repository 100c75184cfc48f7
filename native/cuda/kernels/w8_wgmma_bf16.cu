#include "cuda/kernels/w8_wgmma_kernel.cuh"

namespace deploykit::cuda {

template void w8_wgmma<__nv_bfloat16>(int, const LinearArgs&, const W8Weight&, cudaStream_t);

}  // namespace deploykit::cuda
