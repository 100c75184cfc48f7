// The output head in int8, made while loading: a float32 scale a row, max |w| / 127, and quants to the nearest, ties to
// even. The embedding table of a tied model stays as it is, and the head is a copy of it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "deploykit/weights.h"

namespace deploykit {

inline constexpr float kInt8Quants = 127.0f;

// The weight that the head is made of: head.weight, or the embedding table of a tied model. Throws Error("missing").
const WeightSpec& int8_head_source(const ModelDescription& model, const std::vector<WeightSpec>& manifest);
// Throws Error("unsupported"): the head is quantized already.
[[noreturn]] void refuse_int8_head(const WeightSpec& source, const char* format);
// Throws Error("invalid"): no scale can be made of a row with a NaN or an infinity.
[[noreturn]] void refuse_int8_row(const std::string& name, int64_t row);

// What rounding did to the head: sums of squares over all of its weights.
struct RoundingError {
  double error = 0.0;  // of w - q * scale
  double size = 0.0;   // of w

  void add(const RoundingError& other) {
    error += other.error;
    size += other.size;
  }
  // "0.0062": the root of error / size.
  std::string relative() const;
};

}  // namespace deploykit
