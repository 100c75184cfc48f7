// Memory and places for a layer's experts: all of one matrix in one piece, expert after expert.
#include "cuda/model/weights.h"

namespace deploykit::cuda {
namespace {

constexpr int32_t kMaxExperts = 512, kMaxTopK = 32;  // of the kernels

}  // namespace

ModelWeights::Parts ModelWeights::up_parts(const std::string& at, const MlpSpec& mlp) {
  if (!mlp.gated) return {{at + "up", RowMap::plain}};
  return {{at + "gate", RowMap::gate}, {at + "up", RowMap::up}};
}

void ModelWeights::plan_experts(Experts& experts, const std::string& at, const MlpSpec& mlp) {
  experts.count = mlp.moe.experts;
  const WeightSpec& router = spec(at + "router.weight");
  if (is_w4(router.format)) throw Error("unsupported", router.name + " can't be 4-bit on the CUDA backend");
  if (mlp.moe.experts > kMaxExperts || mlp.moe.top_k > kMaxTopK) {
    throw Error("unsupported", at + "experts: " + std::to_string(mlp.moe.top_k) + " of " +
                                   std::to_string(mlp.moe.experts) + " a token; the CUDA backend routes up to " +
                                   std::to_string(kMaxTopK) + " of " + std::to_string(kMaxExperts));
  }
  experts.router.n = (router.rows + 15) / 16 * 16;  // what products take: the rows behind stay zero
  experts.router.k = router.cols;
  Place place{&experts.router, nullptr, nullptr, 0, RowMap::plain, false};
  places_[at + "router.weight"] = place;
  place.is_bias = true;
  if (mlp.bias) places_[at + "router.bias"] = place;
  reserve_matrix(experts.router, 1, mlp.bias);
  if (!counting_) {
    DK_CUDA(cudaMemset(experts.router.dense, 0, static_cast<size_t>(experts.router.n * experts.router.k * 2)));
    if (mlp.bias) DK_CUDA(cudaMemset(experts.router.bias, 0, static_cast<size_t>(experts.router.n * 2)));
    DK_CUDA(cudaStreamSynchronize(nullptr));  // weights come on another stream
  }
  experts.each.resize(2 * static_cast<size_t>(experts.count));
  for (const bool up : {true, false}) {
    Matrix& base = up ? experts.up : experts.down;
    for (int32_t e = 0; e < experts.count; ++e) {
      const std::string name = at + "experts." + std::to_string(e) + ".";
      Matrix& one = experts.each[2 * static_cast<size_t>(e) + (up ? 0 : 1)];
      describe_matrix(one, up ? up_parts(name, mlp) : Parts{{name + "down", RowMap::plain}}, mlp.bias);
      if (e == 0) {
        base = one;
        reserve_matrix(base, experts.count, mlp.bias);
      }
      if (one.quantized != base.quantized || one.w4.group != base.w4.group) {
        throw Error("unsupported", name + (up ? "up" : "down") + ".weight is stored otherwise than expert 0's; all experts "
                                                                "of a layer have one format on the CUDA backend");
      }
      const auto behind = [e](const void* first, int64_t bytes) -> void* {
        return first == nullptr ? nullptr : static_cast<uint8_t*>(const_cast<void*>(first)) + e * bytes;
      };
      one.dense = behind(base.dense, base.n * base.k * 2);
      one.bias = behind(base.bias, base.n * 2);
      if (!base.quantized) continue;
      one.w4.data = behind(base.w4.data, w4_data_bytes(base.n, base.k));
      one.w4.params = static_cast<const uint32_t*>(behind(base.w4.params, w4_param_bytes(base.n, base.k, base.w4.group)));
    }
  }
}

}  // namespace deploykit::cuda
