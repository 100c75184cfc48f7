// KV memory as a whole: quantized tokens unpacked to 16 bits, blocks copied.
#include "cuda/kernels/attention.cuh"

namespace deploykit::cuda {
namespace {

// A warp a token and KV head.
template <class T>
__global__ void __launch_bounds__(256) gather_kernel(const KvArgs in, const KvArgs out, int k_bits, int v_bits,
                                                     int head_dim, const int32_t* row, const int32_t* length) {
  wait_prior_grid();
  allow_next_grid();
  const int sequence = blockIdx.z, head = blockIdx.y, lane = threadIdx.x % 32;
  const int index = static_cast<int>(blockIdx.x) * 8 + threadIdx.x / 32;
  if (index >= length[sequence]) return;
  const char* from = kv_part(in, row[sequence], head, index);
  char* to = kv_part(out, sequence, head, index);
  const int from_place = index % in.block_len, to_place = index % out.block_len;
#pragma unroll
  for (int value = 0; value < 2; ++value) {
    const int bits = value ? v_bits : k_bits;
    const char* data = from + (value ? in.v_offset + static_cast<int64_t>(from_place) * in.v_row
                                     : static_cast<int64_t>(from_place) * in.k_row);
    const float2 p = kv_param(
        *reinterpret_cast<const uint32_t*>(from + (value ? in.v_params_offset : in.k_params_offset) + from_place * 4));
    uint32_t* words =
        reinterpret_cast<uint32_t*>(to + (value ? out.v_offset : 0) + static_cast<int64_t>(to_place) * out.k_row);
    for (int w = lane; w < head_dim / 2; w += 32) {
      uint32_t a, b;
      if (bits == 8) {
        const uint32_t u = reinterpret_cast<const uint16_t*>(data)[w];
        a = u & 255u, b = u >> 8;
      } else {
        const uint32_t u = reinterpret_cast<const uint8_t*>(data)[w];
        a = u & 15u, b = u >> 4;
      }
      words[w] = Num<T>::pack(fmaf(static_cast<float>(a), p.x, p.y), fmaf(static_cast<float>(b), p.x, p.y));
    }
  }
}

__global__ void __launch_bounds__(256)
    copy_kernel(char* base, int64_t block_bytes, const int32_t* pairs, int64_t count) {
  wait_prior_grid();
  allow_next_grid();
  const int64_t units = block_bytes / 16;
  for (int64_t pair = blockIdx.y; pair < count; pair += gridDim.y) {
    const uint4* from = reinterpret_cast<const uint4*>(base + pairs[2 * pair] * block_bytes);
    uint4* to = reinterpret_cast<uint4*>(base + pairs[2 * pair + 1] * block_bytes);
    for (int64_t i = blockIdx.x * 256ll + threadIdx.x; i < units; i += gridDim.x * 256ll) to[i] = from[i];
  }
}

}  // namespace

void kv_gather(DType dtype, const KvView& kv, const KvView& out, int32_t sequences, const int32_t* row,
               const int32_t* length, int32_t max_length, cudaStream_t stream) {
  const char* name = "kv_gather";
  require(kv.type == KvType::int8 || kv.type == KvType::k8v4 || kv.type == KvType::int4, name, "a quantized cache");
  require(out.type == (dtype == DType::bf16 ? KvType::bf16 : KvType::f16), name, "the result has the dtype's type");
  require(out.head_dim == kv.head_dim && out.kv_heads == kv.kv_heads, name, "the result has the same heads");
  if (sequences == 0 || max_length == 0) return;
  const KvArgs in_args = kv_args(name, kv), out_args = kv_args(name, out);
  const auto kernel = dtype == DType::bf16 ? gather_kernel<__nv_bfloat16> : gather_kernel<__half>;
  launch(name, kernel,
         dim3(static_cast<unsigned>(ceil_div(max_length, 8)), static_cast<unsigned>(kv.kv_heads),
              static_cast<unsigned>(sequences)),
         dim3(256), 0, stream, in_args, out_args, kv.type == KvType::int4 ? 4 : 8, kv.type == KvType::int8 ? 8 : 4,
         kv.head_dim, row, length);
}

void copy_blocks(const KvView& kv, const int32_t* pairs, int64_t count, cudaStream_t stream) {
  require(kv.block_bytes % 16 == 0, "copy_blocks", "block_bytes % 16 == 0");
  if (count == 0) return;
  launch("copy_blocks", copy_kernel, dim3(64, static_cast<unsigned>(count < 65535 ? count : 65535)), dim3(256), 0,
         stream, static_cast<char*>(kv.base), kv.block_bytes, pairs, count);
}

}  // namespace deploykit::cuda
