// The doors to w4_matmul and w4_mma: checks, the choice of the kernel, and the workspace's size.
#include <algorithm>

#include "cuda/kernels/w4_mma_kernel.cuh"

namespace deploykit::cuda {

extern template void w4_mma_typed<__half>(int, const LinearArgs&, const W4Weight&, void*, cudaStream_t);
extern template void w4_mma_typed<__nv_bfloat16>(int, const LinearArgs&, const W4Weight&, void*, cudaStream_t);
template <class T, bool kWide>
void w4_wgmma_typed(int variant, const LinearArgs& a, const W4Weight& w, cudaStream_t stream);
extern template void w4_wgmma_typed<__half, true>(int, const LinearArgs&, const W4Weight&, cudaStream_t);
extern template void w4_wgmma_typed<__half, false>(int, const LinearArgs&, const W4Weight&, cudaStream_t);
extern template void w4_wgmma_typed<__nv_bfloat16, true>(int, const LinearArgs&, const W4Weight&, cudaStream_t);
extern template void w4_wgmma_typed<__nv_bfloat16, false>(int, const LinearArgs&, const W4Weight&, cudaStream_t);

namespace {
// Up to 8 tokens, measured on an H100 (bench/cuda/NOTES.md): w4_gemv is ahead where wgmma's tiles have to share inputs,
// w4_wgmma_kernel.cuh where they fill the device.
bool gemv_wins(const LinearCall& call, const W4Weight& w) {
  return call.m <= 2 || ceil_div(w.n, 128) < multiprocessors();
}
}  // namespace

int64_t w4_mma_workspace_bytes() { return kCounters * 4 + 2 * kMaxSms * 256 * kW4MmaMaxM * 4; }

void w4_mma_variant(int variant, const LinearCall& call, const W4Weight& w, cudaStream_t stream) {
  require_w4("w4_mma", w);
  const LinearArgs a = linear_args("w4_mma", call, w.n, w.k, kW4MmaMaxM);
  require(call.norm_weight == nullptr, "w4_mma", "no norm on the way in");
  require(call.workspace != nullptr, "w4_mma", "a workspace is given");
  if (call.dtype == DType::f16) {
    w4_mma_typed<__half>(variant, a, w, call.workspace, stream);
  } else {
    w4_mma_typed<__nv_bfloat16>(variant, a, w, call.workspace, stream);
  }
}

void w4_mma(const LinearCall& call, const W4Weight& w, cudaStream_t stream) { w4_mma_variant(0, call, w, stream); }

void w4_wgmma_variant(int variant, const LinearCall& call, const W4Weight& w, cudaStream_t stream) {
  require_w4("w4_matmul", w);
  const LinearArgs a = linear_args("w4_matmul", call, w.n, w.k, INT32_MAX);
  require(call.norm_weight == nullptr, "w4_matmul", "no norm on the way in for more than 8 tokens");
  if (call.dtype == DType::f16) {
    w.group == 128 ? w4_wgmma_typed<__half, true>(variant, a, w, stream)
                   : w4_wgmma_typed<__half, false>(variant, a, w, stream);
  } else {
    w.group == 128 ? w4_wgmma_typed<__nv_bfloat16, true>(variant, a, w, stream)
                   : w4_wgmma_typed<__nv_bfloat16, false>(variant, a, w, stream);
  }
}

int64_t w4_matmul_workspace_bytes() { return w4_mma_workspace_bytes(); }

void w4_matmul(const LinearCall& call, const W4Weight& w, cudaStream_t stream) {
  if (call.norm_weight != nullptr || (call.m <= kW4GemvMaxM && (!has_wgmma() || gemv_wins(call, w)))) {
    return w4_gemv(call, w, stream);
  }
  if (has_wgmma()) return w4_wgmma_variant(0, call, w, stream);
  const auto at = [](const void* base, int64_t elements) {
    return base == nullptr ? nullptr : static_cast<const void*>(static_cast<const char*>(base) + elements * 2);
  };
  for (int32_t first = 0; first < call.m; first += kW4MmaMaxM) {
    LinearCall part = call;
    part.m = std::min(call.m - first, kW4MmaMaxM);
    part.x = at(call.x, first * call.x_stride);
    part.y = static_cast<char*>(call.y) + first * call.y_stride * (call.y_f32 ? 4 : 2);
    part.residual = at(call.residual, first * call.residual_stride);
    w4_mma(part, w, stream);
  }
}

}  // namespace deploykit::cuda
