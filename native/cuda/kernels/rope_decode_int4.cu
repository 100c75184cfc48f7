// Decode attention over int4 caches that rotates and stores the rows' own tokens.
#include "cuda/kernels/attention_decode.cuh"

namespace deploykit::cuda {

void rope_decode_int4(const DecodeArgs& a, const KvArgs& kv, int32_t head_dim, int32_t n, cudaStream_t stream) {
  run_decode<__half, 4, 4, true>(a, kv, head_dim, n, stream);
}

}  // namespace deploykit::cuda
