// Prefill attention in f16.
#include "cuda/kernels/attention_prefill.cuh"

namespace deploykit::cuda {

void attention_prefill_f16(const PrefillMaps& maps, const PrefillArgs& a, cudaStream_t stream) {
  pick_prefill<__half>(maps, a, stream);
}

}  // namespace deploykit::cuda
