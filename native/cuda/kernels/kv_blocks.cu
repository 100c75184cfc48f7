// KV memory as a whole: quantized tokens unpacked to 16 bits, blocks copied.
#include "cuda/kernels/attention.cuh"

namespace deploykit::cuda {
namespace {

// 16 elements of K and of V of a token a thread. kFp8: they are e4m3 numbers.
template <class T, bool kFp8>
__global__ void __launch_bounds__(256) gather_kernel(const KvArgs in, const KvArgs out, int k_bits, int v_bits,
                                                     int pieces, const int32_t* row, const int32_t* length) {
  const int sequence = blockIdx.z, head = blockIdx.y;
  const int unit = static_cast<int>(blockIdx.x) * 256 + static_cast<int>(threadIdx.x);
  const int index = unit / pieces, piece = unit - index * pieces;
  const bool mine = index < length[sequence];
  wait_prior_grid();
  allow_next_grid();
  if (!mine) return;
  const char* from = kv_part(in, row[sequence], head, index);
  char* to = kv_part(out, sequence, head, index);
  const int from_place = index - kv_slot(in, index) * in.block_len;
  const int to_place = index - kv_slot(out, index) * out.block_len;
  uint32_t packed[2][4];
  float2 param[2];
#pragma unroll
  for (int value = 0; value < 2; ++value) {
    const char* data = from + (value ? in.v_offset + static_cast<int64_t>(from_place) * in.v_row
                                     : static_cast<int64_t>(from_place) * in.k_row);
    if ((value ? v_bits : k_bits) == 8) {
      const uint4 w = reinterpret_cast<const uint4*>(data)[piece];
      packed[value][0] = w.x, packed[value][1] = w.y, packed[value][2] = w.z, packed[value][3] = w.w;
    } else {
      const uint2 w = reinterpret_cast<const uint2*>(data)[piece];
      packed[value][0] = w.x, packed[value][1] = w.y;
    }
    if (kFp8) continue;
    param[value] = kv_param(
        *reinterpret_cast<const uint32_t*>(from + (value ? in.v_params_offset : in.k_params_offset) + from_place * 4));
  }
#pragma unroll
  for (int value = 0; value < 2; ++value) {
    const float2 p = param[value];
    const auto number = [&](uint32_t u) { return fmaf(static_cast<float>(u), p.x, p.y); };
    uint32_t w[8];
    if ((value ? v_bits : k_bits) == 8) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const uint32_t two = packed[value][i / 2] >> (i % 2 * 16);
        if (kFp8) {
          const float2 f = Num<__half>::to_float2(from_fp8(two & 0xffffu));
          w[i] = Num<T>::pack(f.x, f.y);
          continue;
        }
        w[i] = Num<T>::pack(number(two & 255u), number(two >> 8 & 255u));
      }
    } else {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const uint32_t two = packed[value][i / 4] >> (i % 4 * 8);
        w[i] = Num<T>::pack(number(two & 15u), number(two >> 4 & 15u));
      }
    }
    uint4* words = reinterpret_cast<uint4*>(to + (value ? out.v_offset : 0) +
                                            static_cast<int64_t>(to_place) * out.k_row + piece * 32);
    words[0] = make_uint4(w[0], w[1], w[2], w[3]);
    words[1] = make_uint4(w[4], w[5], w[6], w[7]);
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
  const bool fp8 = kv.type == KvType::fp8;
  require(fp8 || has_params(kv.type), name, "a quantized cache");
  require(out.type == (dtype == DType::bf16 ? KvType::bf16 : KvType::f16), name, "the result has the dtype's type");
  require(out.head_dim == kv.head_dim && out.kv_heads == kv.kv_heads, name, "the result has the same heads");
  if (sequences == 0 || max_length == 0) return;
  const KvArgs in_args = kv_args(name, kv), out_args = kv_args(name, out);
  const auto plain = dtype == DType::bf16 ? gather_kernel<__nv_bfloat16, false> : gather_kernel<__half, false>;
  const auto kernel =
      !fp8 ? plain : dtype == DType::bf16 ? gather_kernel<__nv_bfloat16, true> : gather_kernel<__half, true>;
  const int pieces = kv.head_dim / 16;
  launch(name, kernel,
         dim3(static_cast<unsigned>(ceil_div(int64_t{max_length} * pieces, 256)), static_cast<unsigned>(kv.kv_heads),
              static_cast<unsigned>(sequences)),
         dim3(256), 0, stream, in_args, out_args, kv.type == KvType::int4 ? 4 : 8, fp8 || kv.type == KvType::int8 ? 8 : 4,
         pieces, row, length);
}

void copy_blocks(const KvView& kv, const int32_t* pairs, int64_t count, cudaStream_t stream) {
  require(kv.block_bytes % 16 == 0, "copy_blocks", "block_bytes % 16 == 0");
  if (count == 0) return;
  launch("copy_blocks", copy_kernel, dim3(64, static_cast<unsigned>(count < 65535 ? count : 65535)), dim3(256), 0,
         stream, static_cast<char*>(kv.base), kv.block_bytes, pairs, count);
}

}  // namespace deploykit::cuda
