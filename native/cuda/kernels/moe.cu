// The doors to the products of a mixture of experts: checks, and the choice of the kernel.
#include "cuda/kernels/moe.cuh"

#include "cuda/kernels/w4.cuh"

namespace deploykit::cuda {

extern template void moe_mma_typed<__half>(int32_t, int32_t, ExpertArgs, cudaStream_t);
extern template void moe_mma_typed<__nv_bfloat16>(int32_t, int32_t, ExpertArgs, cudaStream_t);
extern template void moe_wgmma_typed<__half>(int32_t, const ExpertArgs&, int64_t, int64_t, int32_t, cudaStream_t);
extern template void moe_wgmma_typed<__nv_bfloat16>(int32_t, const ExpertArgs&, int64_t, int64_t, int32_t, cudaStream_t);

namespace {

// Variants, for bench/cuda/moe.cu: moe_few's shapes, the heights of moe_mma's tiles, wgmma for prompts and for batches.
constexpr int kFewVariants = 4, kWgmmaVariant = 8, kBatchVariant = 9;

// The tier by the slots an expert gets if all get the same.
int choose_variant(const MoeSpec& spec, const ExpertCall& call, const ExpertMatrix& w, bool expands) {
  const double slots = static_cast<double>(call.tokens) * spec.top_k / spec.experts;
  const bool packed = w.dense == nullptr;
  const bool wgmma = has_wgmma() && (!expands || (call.gathered != nullptr && call.gated)) && w.k >= 64;
  if (slots <= (packed ? 6.0 : 5.0)) {
    if (packed) return w.k <= 1024 ? 3 : w.k <= 8192 ? 0 : 1;
    return w.k <= 1024 ? 3 : 2;
  }
  if (wgmma) return slots <= 40.0 ? kBatchVariant : kWgmmaVariant;
  if (slots <= 16.0) return kFewVariants;
  if (slots <= 32.0) return kFewVariants + 1;
  return slots <= 64.0 ? kFewVariants + 2 : kFewVariants + 3;
}

// Rows of x in the order of the slots, a warp each.
__global__ void __launch_bounds__(256)
    gather_rows(const char* x, int64_t x_bytes, const int32_t* token, const int32_t* slots, int64_t row_bytes, char* out) {
  wait_prior_grid();
  allow_next_grid();
  const int64_t slot = blockIdx.x * 8ll + threadIdx.x / 32;
  if (slot >= *slots) return;
  const char* from = x + token[slot] * x_bytes;
  char* to = out + slot * row_bytes;
  constexpr int kTogether = 4;
  for (int64_t base = threadIdx.x % 32 * 16; base < row_bytes; base += kTogether * 512) {
    uint4 v[kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      if (base + i * 512 < row_bytes) v[i] = load16(from + base + i * 512);
    }
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      if (base + i * 512 < row_bytes) *reinterpret_cast<uint4*>(to + base + i * 512) = v[i];
    }
  }
}

void run_experts(const char* name, int variant, const MoeSpec& spec, const ExpertCall& call, const ExpertMatrix& w,
                 const MoeRoutes& routes, bool expands, cudaStream_t stream) {
  require(call.dtype == DType::f16 || call.dtype == DType::bf16, name, "dtype is f16 or bf16");
  require_moe(name, spec);
  require(w.experts == spec.experts, name, "the matrix has the layer's experts");
  require(call.tokens >= 1 && call.tokens <= routes.capacity, name, "1 <= tokens <= the routes' capacity");
  require(call.x_stride % 8 == 0 && call.y_stride % 8 == 0, name, "strides are multiples of 8");
  ExpertArgs a = {};
  int32_t group = 0;
  if (w.dense != nullptr) {
    require(w.n >= 16 && w.n % 16 == 0 && w.k >= 32 && w.k % 32 == 0, name, "n % 16 == 0 and k % 32 == 0");
    a.weights = static_cast<const char*>(w.dense);
    a.weight_stride = w.n * w.k * 2;
  } else {
    require_w4(name, w.w4);
    require(w.w4.n == w.n && w.w4.k == w.k, name, "an expert's W4Weight has n and k of the matrix");
    require(w.w4_data_stride % 16 == 0 && w.w4_param_stride % 16 == 0, name, "strides are multiples of 16");
    group = w.w4.group;
    a.weights = static_cast<const char*>(w.w4.data);
    a.params = reinterpret_cast<const char*>(w.w4.params);
    a.weight_stride = w.w4_data_stride != 0 ? w.w4_data_stride : w4_data_bytes(w.n, w.k);
    a.param_stride = w.w4_param_stride != 0 ? w.w4_param_stride : w4_param_bytes(w.n, w.k, group);
  }
  a.bias = w.bias;
  a.n = w.n, a.k = w.k;
  a.x = call.x, a.x_stride = call.x_stride;
  a.y = call.y, a.y_stride = call.y_stride;
  a.token = expands ? routes.token : nullptr;
  a.end = !expands ? ExpertEnd::plain : call.gated ? ExpertEnd::gated : ExpertEnd::activated;
  a.activation = call.activation;
  a.reads_routes_early = !expands;
  int height = variant < kFewVariants ? 0 : variant - kFewVariants + 1;
  if (variant == kBatchVariant) height = 3;
  a.tiles = routes.tiles + moe_tile_offset(spec, routes.capacity, height);
  a.tile_count = routes.tile_counts + height;
  a.tiles_bound = static_cast<int32_t>(moe_tile_bound(spec, call.tokens, kMoeHeight[height]));
  if (height == 0) return moe_few(call.dtype, group, variant, a, stream);
  if (variant >= kWgmmaVariant) {
    const int64_t slots = static_cast<int64_t>(call.tokens) * spec.top_k;
    if (expands) {
      launch(name, gather_rows, dim3(static_cast<unsigned>(ceil_div(slots, 8))), dim3(256), 0, stream,
             static_cast<const char*>(call.x), call.x_stride * 2, routes.token, routes.begin + spec.experts, w.k * 2,
             static_cast<char*>(call.gathered));
      a.x = call.gathered, a.x_stride = w.k, a.token = nullptr;
    }
    const auto run = call.dtype == DType::f16 ? moe_wgmma_typed<__half> : moe_wgmma_typed<__nv_bfloat16>;
    return run(kMoeHeight[height], a, spec.experts, slots, group, stream);
  }
  if (call.dtype == DType::f16) return moe_mma_typed<__half>(group, kMoeHeight[height], a, stream);
  moe_mma_typed<__nv_bfloat16>(group, kMoeHeight[height], a, stream);
}

}  // namespace

bool moe_variant_fits(int variant, const ExpertCall& call, bool expands) {
  if (variant < kWgmmaVariant) return true;
  return has_wgmma() && (!expands || (call.gathered != nullptr && call.gated));
}

void moe_product_variant(int variant, const MoeSpec& spec, const ExpertCall& call, const ExpertMatrix& w,
                         const MoeRoutes& routes, bool expands, cudaStream_t stream) {
  if (variant < 0) variant = choose_variant(spec, call, w, expands);
  run_experts(expands ? "moe_expand" : "moe_contract", variant, spec, call, w, routes, expands, stream);
}

void moe_expand(const MoeSpec& spec, const ExpertCall& call, const ExpertMatrix& w, const MoeRoutes& routes,
                cudaStream_t stream) {
  moe_product_variant(-1, spec, call, w, routes, true, stream);
}

void moe_contract(const MoeSpec& spec, const ExpertCall& call, const ExpertMatrix& w, const MoeRoutes& routes,
                  cudaStream_t stream) {
  moe_product_variant(-1, spec, call, w, routes, false, stream);
}

}  // namespace deploykit::cuda
