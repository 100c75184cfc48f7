#include "cuda/kernels/w8_wgmma_kernel.cuh"

namespace deploykit::cuda {

template void w8_wgmma<__half>(int, const LinearArgs&, const W8Weight&, cudaStream_t);

}  // namespace deploykit::cuda
