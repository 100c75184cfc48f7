// Decode attention over an e4m3 cache.
#include "cuda/kernels/attention_decode.cuh"

namespace deploykit::cuda {

void attention_decode_fp8(const DecodeArgs& a, const KvArgs& kv, int32_t head_dim, int32_t n, cudaStream_t stream) {
  run_decode<__half, 8, 8, false, true>(a, kv, head_dim, n, stream);
}

}  // namespace deploykit::cuda
