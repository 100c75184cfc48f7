// Rotation of Q and K, and the store of K and V into the KV memory, quantized on the way where the cache is.
#include "cuda/kernels/rope.cuh"

namespace deploykit::cuda {
namespace {

constexpr int kWarps = 8;

struct RopeArgs {
  RopeCall call;
  KvArgs kv;
  KvType type;
  int32_t head_dim;
};

template <class T, int D>
__global__ void __launch_bounds__(kWarps * 32) rope_kernel(const RopeArgs a) {
  __shared__ float2 angles[D / 2];
  __shared__ __align__(8) float buffers[kWarps][D];
  const RopeCall& c = a.call;
  const int64_t token = blockIdx.x;
  // Before the wait: the kernel in front wrote q, k and v alone (kernels.h says so).
  const int row = c.row[token];
  const int index = row < 0 ? 0 : c.index[token];
  if (row >= 0) rope_angles<D>(c, token, angles);
  __syncthreads();
  wait_prior_grid();
  allow_next_grid();
  if (row < 0) return;
  const int warp = threadIdx.x / 32, kv_heads = a.kv.kv_heads;
  for (int unit = warp + kWarps * static_cast<int>(blockIdx.y); unit < c.heads + 2 * kv_heads;
       unit += kWarps * static_cast<int>(gridDim.y)) {
    Row<T, D> x;
    if (unit < c.heads) {
      T* q = static_cast<T*>(c.q) + token * c.q_stride + unit * D;
      x.load(q);
      rope_query(x, c, token, buffers[warp], angles);
      if (mixes_keys(a.type)) x.mix();
      x.store(q);
      continue;
    }
    const bool is_value = unit >= c.heads + kv_heads;
    const int head = unit - c.heads - (is_value ? kv_heads : 0);
    const T* from = static_cast<const T*>(is_value ? c.v : c.k) + token * c.kv_stride + head * D;
    x.load(from);
    if (!is_value) {
      rope_key(x, c, buffers[warp], angles);
      if (mixes_keys(a.type)) x.mix();
      if (c.keep_k) x.store(const_cast<T*>(from));
    }
    char* part = kv_part(a.kv, row, head, index);
    const int place = index % a.kv.block_len;
    char* to = part + (is_value ? a.kv.v_offset + static_cast<int64_t>(place) * a.kv.v_row
                                : static_cast<int64_t>(place) * a.kv.k_row);
    char* param = part + (is_value ? a.kv.v_params_offset : a.kv.k_params_offset) + place * 4;
    if (a.type == KvType::f16 || a.type == KvType::bf16) {
      x.store(to);
    } else if (a.type == KvType::fp8) {
      x.store_fp8(to);
    } else {
      x.store_quantized(to, param, a.type == KvType::int8 || (a.type == KvType::k8v4 && !is_value) ? 8 : 4);
    }
  }
}

}  // namespace

void rope_store(const RopeCall& call, const KvView& kv, cudaStream_t stream) {
  const char* name = "rope_store";
  require(call.dtype == DType::f16 || call.dtype == DType::bf16, name, "dtype is f16 or bf16");
  require(call.half >= 0 && 2 * call.half <= kv.head_dim, name, "2 * half <= head_dim");
  require(call.q_stride % 2 == 0 && call.kv_stride % 2 == 0, name, "even strides");
  const bool plain = kv.type == KvType::f16 || kv.type == KvType::bf16;
  require(!plain || kv.type == (call.dtype == DType::bf16 ? KvType::bf16 : KvType::f16), name,
          "a 16-bit cache has the activations' type");
  if (call.tokens == 0) return;
  const RopeArgs a = {call, kv_args(name, kv), kv.type, kv.head_dim};
  const int64_t units = call.heads + 2 * kv.kv_heads;
  const unsigned parts = call.tokens >= 264 ? 1u : static_cast<unsigned>(ceil_div(units, kWarps));
  with_head_dim(name, kv.head_dim, [&](auto d) {
    constexpr int D = decltype(d)::value;
    const auto kernel = call.dtype == DType::bf16 ? rope_kernel<__nv_bfloat16, D> : rope_kernel<__half, D>;
    launch(name, kernel, dim3(static_cast<unsigned>(call.tokens), parts), dim3(kWarps * 32), 0, stream, a);
  });
}

}  // namespace deploykit::cuda
