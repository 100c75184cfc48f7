// Random 4-bit checkpoint tensors and the matrices they stand for.
#pragma once

#include "w4_common.cuh"

namespace {

// The value of a checkpoint's tensor at (row, column), straight from the format's definition.
__global__ void reference_unpack(bool gptq, const uint32_t* qweight, const uint32_t* qzeros, const __half* scales,
                                 int64_t rows, int64_t k, int group, int zero_offset, float* out, int64_t step,
                                 int64_t half, int64_t row_offset) {
  const int order[8] = {0, 2, 4, 6, 1, 3, 5, 7};
  for (int64_t i = blockIdx.x * 256ll + threadIdx.x; i < rows * k; i += gridDim.x * 256ll) {
    const int64_t row = i / k, column = i % k, g = column / group;
    int nibble = 0;
    for (int j = 0; j < 8; ++j) {
      if (order[j] == row % 8) nibble = j;
    }
    uint32_t q, z;
    if (gptq) {
      q = (qweight[(column / 8) * rows + row] >> (4 * (column % 8))) & 15;
      z = (qzeros[g * (rows / 8) + row / 8] >> (4 * (row % 8))) & 15;
    } else {
      q = (qweight[column * (rows / 8) + row / 8] >> (4 * nibble)) & 15;
      z = (qzeros[g * (rows / 8) + row / 8] >> (4 * nibble)) & 15;
    }
    const int64_t out_row = step == 1 ? row_offset + row : row / 8 * 16 + half * 8 + row % 8;
    out[out_row * k + column] =
        (static_cast<int>(q) - static_cast<int>(z) - zero_offset) * __half2float(scales[g * rows + row]);
  }
}
// A random 4-bit checkpoint tensor, repacked; the matrix it stands for in `values`.
struct W4Random {
  Buffer<char> data, params;
  Buffer<float> values;
  W4Weight w;
  W4Random(int64_t n, int64_t k, int group, bool gptq, bool gated)
      : data(w4_data_bytes(n, k)), params(w4_param_bytes(n, k, group)), values(n * k) {
    w = {data.data, reinterpret_cast<uint32_t*>(params.data), n, k, group};
    const int64_t rows = gated ? n / 2 : n;
    for (int half = 0; half < (gated ? 2 : 1); ++half) {
      Buffer<char> qweight(rows * k / 2), qzeros(k / group * rows / 2), scales(k / group * rows * 2);
      bits(qweight, qweight.count);
      bits(qzeros, qzeros.count);
      uniform(reinterpret_cast<__half*>(scales.data), k / group * rows, 0.005f, 0.02f);
      CU(cudaDeviceSynchronize());
      CU(cudaMemset2D(scales.data, 58, 0, 2, scales.count / 58));  // some groups have weights of zero
      W4Source s;
      s.format = gptq ? WeightFormat::gptq : WeightFormat::awq;
      s.qweight = reinterpret_cast<int32_t*>(qweight.data);
      s.qzeros = reinterpret_cast<int32_t*>(qzeros.data);
      s.scales = scales.data;
      s.rows = rows;
      s.zero_offset = gptq ? 1 : 0;
      w4_repack(s, w, 0, gated ? (half == 0 ? RowMap::gate : RowMap::up) : RowMap::plain, stream);
      CU(cudaStreamSynchronize(stream));
      reference_unpack<<<1024, 256>>>(gptq, reinterpret_cast<uint32_t*>(qweight.data),
                                      reinterpret_cast<uint32_t*>(qzeros.data), reinterpret_cast<__half*>(scales.data),
                                      rows, k, group, s.zero_offset, values, gated ? 2 : 1, half, 0);
      CU(cudaDeviceSynchronize());
    }
  }
};

}  // namespace
