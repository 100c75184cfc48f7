// Decode attention over e4m3 caches that rotates and stores the rows' own tokens.
#include "cuda/kernels/attention_decode.cuh"

namespace deploykit::cuda {

void rope_decode_fp8(const DecodeArgs& a, const KvArgs& kv, int32_t head_dim, int32_t n, cudaStream_t stream) {
  run_decode<__half, 8, 8, true, true>(a, kv, head_dim, n, stream);
}

}  // namespace deploykit::cuda
