// What the launches of the 4-bit wgmma kernels share: tensor maps and the launch itself.
#pragma once

#include <type_traits>

#include "cuda/kernels/pipeline.cuh"
#include "cuda/kernels/w4.cuh"

namespace deploykit::cuda {
namespace {

template <class T>
constexpr CUtensorMapDataType kW4MapType =
    std::is_same<T, __half>::value ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;

// Boxes: `inputs` (64 or 128) packed weights and their params of `rows` rows; 64 inputs of `tokens` tokens.
struct W4Maps {
  CUtensorMap data, params, tokens;
};
template <class T>
W4Maps w4_maps(const LinearArgs& a, const W4Weight& w, int inputs, int rows, int tokens) {
  const uint64_t pieces = static_cast<uint64_t>(a.n / 16), data_words = static_cast<uint64_t>(a.k * 2);
  const uint64_t param_words = static_cast<uint64_t>(a.k / w.group * 16);
  const uint64_t data_sizes[2] = {data_words, pieces}, data_strides[1] = {data_words * 4};
  const uint64_t param_sizes[2] = {param_words, pieces}, param_strides[1] = {param_words * 4};
  const uint64_t token_sizes[2] = {static_cast<uint64_t>(a.k), static_cast<uint64_t>(a.m)};
  const uint64_t token_strides[1] = {static_cast<uint64_t>(a.x_stride) * 2};
  const uint32_t groups = static_cast<uint32_t>(inputs > w.group ? inputs / w.group : 1);
  const uint32_t high = static_cast<uint32_t>(rows / 16);
  const uint32_t data_box[2] = {static_cast<uint32_t>(inputs * 2), high}, param_box[2] = {groups * 16, high};
  const uint32_t token_box[2] = {64, static_cast<uint32_t>(tokens)};
  return {tensor_map(CU_TENSOR_MAP_DATA_TYPE_UINT32, 2, w.data, data_sizes, data_strides, data_box, 0),
          tensor_map(CU_TENSOR_MAP_DATA_TYPE_UINT32, 2, w.params, param_sizes, param_strides, param_box, 0),
          tensor_map(kW4MapType<T>, 2, a.x, token_sizes, token_strides, token_box, 128)};
}

}  // namespace
}  // namespace deploykit::cuda
