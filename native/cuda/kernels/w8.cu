// The door of the products with 8-bit weights: which kernel takes a call.
#include "cuda/kernels/w8.cuh"

namespace deploykit::cuda {

constexpr int64_t kGemvMinK = 1024;  // below, its warps have too few inputs each

// `variant`: 0 the choice; the bench's others: 1 + v the GEMV's rungs, 16 mma.sync, 32 + config wgmma.
void w8_matmul_variant(int variant, const LinearCall& call, const W8Weight& w, cudaStream_t stream) {
  require(call.epilogue != Epilogue::gated, "w8_matmul", "the epilogue is none or residual");
  require(call.norm_weight == nullptr, "w8_matmul", "x is normalized in front");
  require(w.k >= 64 && w.k % 64 == 0, "w8_matmul", "k % 64 == 0");
  const LinearArgs a = linear_args("w8_matmul", call, w.n, w.k, INT32_MAX);
  if (variant >= 32 || (variant == 0 && has_wgmma() && !(a.k >= kGemvMinK && a.m <= 8 && w8_gemv_fits(a.m, a.k)))) {
    require(has_wgmma(), "w8_matmul", "the device has wgmma");
    const int config = variant >= 32 ? variant - 32 : 0;
    if (call.dtype == DType::f16) return w8_wgmma<__half>(config, a, w, stream);
    return w8_wgmma<__nv_bfloat16>(config, a, w, stream);
  }
  if (variant == 16 || (variant == 0 && !w8_gemv_fits(a.m, a.k))) return w8_mma(call.dtype, a, w, stream);
  w8_gemv(variant > 0 ? variant - 1 : 0, call.dtype, a, w, stream);
}

void w8_matmul(const LinearCall& call, const W8Weight& w, cudaStream_t stream) { w8_matmul_variant(0, call, w, stream); }

}  // namespace deploykit::cuda
