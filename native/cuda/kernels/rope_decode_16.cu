// Decode attention over f16 and bf16 caches that rotates and stores the rows' own tokens.
#include "cuda/kernels/attention_decode.cuh"

namespace deploykit::cuda {

void rope_decode_16(const DecodeArgs& a, const KvArgs& kv, int32_t head_dim, int32_t n, cudaStream_t stream) {
  if (a.bf16) {
    run_decode<__nv_bfloat16, 16, 16, true>(a, kv, head_dim, n, stream);
  } else {
    run_decode<__half, 16, 16, true>(a, kv, head_dim, n, stream);
  }
}

}  // namespace deploykit::cuda
