// The door of the products with 8-bit weights: which kernel takes a call.
#include "cuda/kernels/w8.cuh"

namespace deploykit::cuda {

namespace {

constexpr int kGemv = 1, kMma = 2, kWgmma = 3;
constexpr int64_t kGemvMinK = 1024;  // below, its warps have too few inputs each

int choice(const LinearArgs& a) {
  if (a.k >= kGemvMinK && w8_gemv_fits(a.m, a.k)) return kGemv;
  return has_wgmma() ? kWgmma : kMma;
}

}  // namespace

// `variant`: 0 the choice; the bench's others: 1 the GEMV, 2 mma.sync, else wgmma with tiles of that many tokens.
void w8_matmul_variant(int variant, const LinearCall& call, const W8Weight& w, cudaStream_t stream) {
  require(call.epilogue != Epilogue::gated, "w8_matmul", "the epilogue is none or residual");
  require(call.norm_weight == nullptr, "w8_matmul", "x is normalized in front");
  require(w.k >= 64 && w.k % 64 == 0, "w8_matmul", "k % 64 == 0");
  const LinearArgs a = linear_args("w8_matmul", call, w.n, w.k, INT32_MAX);
  const int tier = variant > 0 ? variant : choice(a);
  if (tier == kGemv) return w8_gemv(call.dtype, a, w, stream);
  if (tier == kMma) return w8_mma(call.dtype, a, w, stream);
  const int tokens = tier > kWgmma ? tier : 0;
  if (call.dtype == DType::f16) return w8_wgmma<__half>(tokens, a, w, stream);
  w8_wgmma<__nv_bfloat16>(tokens, a, w, stream);
}

void w8_matmul(const LinearCall& call, const W8Weight& w, cudaStream_t stream) {
  w8_matmul_variant(0, call, w, stream);
}

}  // namespace deploykit::cuda
