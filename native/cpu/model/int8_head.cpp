#include "cpu/model/int8_head.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "cpu/matmul/layout.h"

namespace deploykit::cpu {
namespace {

// Adding it leaves no bits for a fraction: rounding to the nearest, ties to even, without a call.
constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23

// A row of the tensor, which may be unaligned: it comes from a file.
void read_row(const WeightTensor& tensor, int64_t row, float* out) {
  const int64_t n = tensor.spec.cols;
  if (tensor.spec.format == WeightFormat::f32) {
    std::memcpy(out, static_cast<const uint8_t*>(tensor.data) + row * n * 4, static_cast<size_t>(n) * 4);
    return;
  }
  const bool bf16 = tensor.spec.format == WeightFormat::bf16;
  const uint8_t* bytes = static_cast<const uint8_t*>(tensor.data) + row * n * 2;
  for (int64_t i = 0; i < n; ++i) {
    uint16_t bits;
    std::memcpy(&bits, bytes + 2 * i, sizeof bits);
    if (bf16) {
      const uint32_t wide = static_cast<uint32_t>(bits) << 16;
      std::memcpy(out + i, &wide, sizeof wide);
    } else {
      out[i] = half_to_float(bits);
    }
  }
}

// Quants and the scale of one row.
float quantize_row(const std::string& name, int64_t row, const float* w, int64_t n, int8_t* q, RoundingError& rounding) {
  float largest = 0.0f;
  bool finite = true;
  for (int64_t i = 0; i < n; ++i) {
    const float size = std::fabs(w[i]);
    largest = std::max(largest, size);
    finite &= size <= 3.402823466e+38f;  // a NaN isn't either
  }
  if (!finite) refuse_int8_row(name, row);
  const float scale = largest / kInt8Quants;
  if (scale == 0.0f) {  // nothing but zeros, or numbers too small for a scale
    std::memset(q, 0, static_cast<size_t>(n));
    return scale;
  }
  double error = 0.0, size = 0.0;
  for (int64_t i = 0; i < n; ++i) {
    const float quant = std::clamp(w[i] / scale, -kInt8Quants, kInt8Quants) + kRounder - kRounder;
    const float off = w[i] - quant * scale;
    q[i] = static_cast<int8_t>(quant);
    error += double{off} * double{off};
    size += double{w[i]} * double{w[i]};
  }
  rounding.add({error, size});
  return scale;
}

}  // namespace

RoundingError pack_int8_head(const PackedMatrix& head, const WeightTensor& tensor, int64_t t0, int64_t t1) {
  RoundingError rounding;
  std::vector<float> row(static_cast<size_t>(head.cols));
  std::vector<int8_t> quants(static_cast<size_t>(kTileRows * head.cols));
  float scales[kTileRows];
  for (int64_t tile = t0; tile < t1; ++tile) {
    const int64_t first = tile * kTileRows, rows = std::min(kTileRows, head.rows - first);
    for (int64_t i = 0; i < rows; ++i) {
      read_row(tensor, first + i, row.data());
      scales[i] = quantize_row(tensor.spec.name, first + i, row.data(), head.cols, quants.data() + i * head.cols, rounding);
    }
    PackedMatrix part = head;
    part.rows = rows;
    part.data = head.data + tile * head.tile_bytes;
    WeightTensor made;
    made.spec = {tensor.spec.name, WeightFormat::int8, rows, head.cols, 0};
    made.data = quants.data();
    made.data_bytes = rows * head.cols;
    made.scales = scales;
    made.scales_bytes = rows * static_cast<int64_t>(sizeof(float));
    pack_matrix(part, made);
  }
  return rounding;
}

}  // namespace deploykit::cpu
