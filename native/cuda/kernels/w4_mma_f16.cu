// w4_mma for f16 activations.
#include "cuda/kernels/w4_mma_kernel.cuh"

namespace deploykit::cuda {

template void w4_mma_typed<__half>(int, const LinearArgs&, const W4Weight&, void*, cudaStream_t);

}  // namespace deploykit::cuda
