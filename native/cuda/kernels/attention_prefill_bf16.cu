// Prefill attention in bf16.
#include "cuda/kernels/attention_prefill.cuh"

namespace deploykit::cuda {

void attention_prefill_bf16(const PrefillMaps& maps, const PrefillArgs& a, cudaStream_t stream) {
  pick_prefill<__nv_bfloat16>(maps, a, stream);
}

}  // namespace deploykit::cuda
