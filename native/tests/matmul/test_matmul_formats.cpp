// Every format against a float64 product of its elements, on every instruction set that this machine runs.
#include "check.h"
#include "products.h"

using namespace products;

namespace {

// The activation that a kernel of this kind really multiplies with.
double activation(const Inputs& in, ActKind kind, int64_t row, int64_t col) {
  const int64_t at = row * in.a.cols + col;
  if (kind == ActKind::f32) return in.a.f32[at];
  if (kind == ActKind::int8) {
    return static_cast<double>(in.a.q[at]) * in.a.scale[row * (in.a.cols / kActGroup) + col / kActGroup];
  }
  const uint32_t word = static_cast<uint32_t>(in.a.bf16[at]) << 16;
  float value;
  std::memcpy(&value, &word, 4);
  return value;
}

void compare(const stored::Case& c, int64_t rows, int64_t cols, int64_t batch, DType dtype, Isa isa) {
  const stored::Matrix source = stored::make(c, rows, cols, 7);
  const Packed packed(source, dtype, isa);
  Inputs in(batch, cols, 11);
  prepare(in, packed.m.act, isa);
  const int64_t tiles = packed.m.tiles(), ldo = tiles * kTileRows + 16;
  const std::vector<float> y = multiply(packed.m, in, 0, batch, 0, tiles, isa);
  double worst = 0.0;
  bool padding = true, guard = true;
  for (int64_t n = 0; n < tiles * kTileRows; ++n) {
    std::vector<double> w;
    for (int64_t k = 0; n < rows && k < cols; ++k) w.push_back(stored::element(source, n, k));
    for (int64_t row = 0; row < batch; ++row) {
      const float got = y[static_cast<size_t>(row * ldo + n)];
      if (n >= rows) {
        padding = padding && got == 0.0f;
        continue;
      }
      double sum = 0.0, size = 0.0;
      for (int64_t k = 0; k < cols; ++k) {
        const double term = w[static_cast<size_t>(k)] * activation(in, packed.m.act, row, k);
        sum += term;
        size += std::fabs(term);
      }
      const double error = std::fabs(got - sum) / (size + 1e-30);
      worst = error >= worst ? error : got == got ? worst : 1.0;
    }
  }
  for (int64_t row = 0; row < batch; ++row) {
    for (int64_t i = 0; i < 16; ++i) guard = guard && std::isnan(y[static_cast<size_t>(row * ldo + ldo - 16 + i)]);
  }
  // The terms with a minimum cancel in part, so errors are measured against the sizes of all terms.
  if (!(worst < 4e-6) || !padding || !guard) {
    check::fail(__FILE__, __LINE__, std::string(c.name) + " on " + isa_name(isa) + ", [" + std::to_string(rows) + ", " +
                                        std::to_string(cols) + "] x " + std::to_string(batch) + ": error " +
                                        check::text(worst) + (padding ? "" : ", padding is not zero") +
                                        (guard ? "" : ", wrote past the tiles"));
  }
}

}  // namespace

TEST(quantized_formats_with_int8_activations) {
  for (Isa isa : available_isas()) {
    for (const stored::Case& c : stored::quantized_cases()) {
      for (int64_t batch : {1, 2, 3, 5, 7, 12, 13, 33}) {
        compare(c, 40, c.multiple * (c.multiple > 64 ? 2 : 3), batch, DType::bf16, isa);
      }
    }
  }
}

TEST(quantized_formats_with_float_activations) {
  for (Isa isa : available_isas()) {
    for (const stored::Case& c : stored::quantized_cases()) {
      for (int64_t batch : {1, 3, 9, 14}) compare(c, 88, c.multiple, batch, DType::f32, isa);
    }
  }
}

TEST(dense_formats_of_odd_shapes) {
  for (Isa isa : available_isas()) {
    for (const stored::Case& c : stored::dense_cases()) {
      for (DType dtype : {DType::f32, DType::f16, DType::bf16}) {
        for (int64_t cols : {1, 7, 31, 64, 77}) {
          for (int64_t batch : {1, 2, 12, 19}) compare(c, 83, cols, batch, dtype, isa);
        }
      }
    }
  }
}

TEST(one_row_and_one_column) {
  for (Isa isa : available_isas()) {
    for (const stored::Case& c : stored::dense_cases()) compare(c, 1, 1, 1, DType::bf16, isa);
    for (const stored::Case& c : stored::quantized_cases()) compare(c, 8, c.multiple, 1, DType::f16, isa);
  }
}

TEST(rows_are_unpacked_exactly) {
  for (const auto* cases : {&stored::quantized_cases(), &stored::dense_cases()}) {
    for (const stored::Case& c : *cases) {
      const int64_t cols = c.multiple * 3;
      const stored::Matrix source = stored::make(c, 24, cols, 3);
      const Packed packed(source, DType::bf16, Isa::scalar);
      std::vector<float> row(static_cast<size_t>(cols));
      int wrong = 0;
      for (int64_t n = 0; n < 24; ++n) {
        unpack_row(packed.m, n, row.data());
        for (int64_t k = 0; k < cols; ++k) {
          wrong += row[static_cast<size_t>(k)] != static_cast<float>(stored::element(source, n, k));
        }
      }
      if (wrong != 0) check::fail(__FILE__, __LINE__, std::string(c.name) + ": " + std::to_string(wrong) + " elements");
    }
  }
}

TEST(extreme_quants_do_not_saturate) {
  // All weights and activations at their ends: what 16-bit sums of products would lose.
  for (Isa isa : available_isas()) {
    for (const stored::Case& c : stored::quantized_cases()) {
      for (int pattern : {0x00, 0xff, 0x80, 0x7f}) {
        const int64_t cols = c.multiple;
        stored::Matrix source = stored::make(c, 16, cols, 5);
        const stored::Matrix before = source;
        for (uint8_t& b : source.data) b = static_cast<uint8_t>(pattern);
        const int64_t width = stored::block_bytes(c.format);
        for (size_t at = 0; width != 0 && at < source.data.size(); at += static_cast<size_t>(width)) {
          const size_t scale = at + (c.format == deploykit::WeightFormat::q6_k ? 208 : 0);
          std::memcpy(&source.data[scale], &before.data[scale], scale == at ? 4 : 2);
          // Where these bytes are not a second float16 they are quants: keep the pattern.
          const bool second = c.format == deploykit::WeightFormat::q4_1 || c.format == deploykit::WeightFormat::q5_1 ||
                              stored::block_columns(c.format) == 256;
          if (!second) std::memset(&source.data[scale + 2], pattern, 2);
        }
        const Packed packed(source, DType::bf16, isa);
        Inputs in(2, cols, 1);
        for (int64_t k = 0; k < cols; ++k) {
          in.a.f32[k] = 127.0f;
          in.a.f32[cols + k] = -127.0f;
        }
        prepare(in, ActKind::int8, isa);
        const std::vector<float> y = multiply(packed.m, in, 0, 2, 0, 1, isa);
        for (int64_t n = 0; n < 16; ++n) {
          double sum = 0.0, size = 0.0;
          for (int64_t k = 0; k < cols; ++k) {
            sum += 127.0 * stored::element(source, n, k);
            size += 127.0 * std::fabs(stored::element(source, n, k));
          }
          CHECK_NEAR(y[static_cast<size_t>(n)], sum, 1e-5 * size);
          CHECK_NEAR(y[static_cast<size_t>(32 + n)], -sum, 1e-5 * size);
        }
      }
    }
  }
}

CHECK_MAIN
