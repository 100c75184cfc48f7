#include <string>

#include "cpu/matmul/layout.h"
#include "cpu/matmul/matmul.h"
#include "deploykit/error.h"

namespace deploykit::cpu {
namespace {

struct Choice {
  Layout layout;
  int64_t group;      // columns that share a scale; 0 = spec.group
  int64_t multiple;   // what the number of columns must be a multiple of
};

Choice choose(const WeightSpec& spec) {
  switch (spec.format) {
    case WeightFormat::f32: return {kDenseF32, 1, 1};
    case WeightFormat::f16: return {kDenseF16, 1, 1};
    case WeightFormat::bf16: return {kDenseBf16, 1, 1};
    case WeightFormat::int8: return {kU8Row, spec.cols, 32};
    case WeightFormat::q4_0: return {kU4D, 32, 32};
    case WeightFormat::q4_1: return {kU4DM, 32, 32};
    case WeightFormat::q5_0: return {kU8D16, 32, 32};
    case WeightFormat::q5_1: return {kU8DM, 32, 32};
    case WeightFormat::q8_0: return {kU8D128, 32, 32};
    case WeightFormat::q4_k: return {kU4K, 32, 256};
    case WeightFormat::q5_k: return {kU8K, 32, 256};
    case WeightFormat::q6_k: return {kU8K6, 16, 256};
    case WeightFormat::awq:
    case WeightFormat::gptq: return {kU4DZ, spec.group, spec.group};
  }
  throw Error("invalid", spec.name + ": weight format " + std::to_string(static_cast<int>(spec.format)) +
                             " is not one that this library knows");
}

int64_t align64(int64_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace

PackedMatrix plan_matrix(const WeightSpec& spec, DType dtype, Isa isa) {
  (void)isa;  // the layout is the same for all
  if (spec.rows <= 0 || spec.cols <= 0) {
    throw Error("invalid", spec.name + ": a matrix needs rows and columns, found [" + std::to_string(spec.rows) + ", " +
                               std::to_string(spec.cols) + "]");
  }
  const Choice choice = choose(spec);
  if (choice.layout == kU4DZ && (spec.group <= 0 || spec.group % kActGroup != 0)) {
    throw Error("unsupported", spec.name + ": groups of " + std::to_string(spec.group) +
                                   " columns; 4-bit weights need a multiple of 32 (32, 64 or 128 are usual)");
  }
  if (spec.cols % choice.multiple != 0) {
    throw Error("invalid", spec.name + ": " + std::to_string(spec.cols) + " columns are not a multiple of " +
                               std::to_string(choice.multiple) + ", which this weight format needs");
  }
  PackedMatrix m;
  m.kind = choice.layout;
  m.rows = spec.rows;
  m.cols = spec.cols;
  m.group = choice.group;
  m.tile_bytes = tile_layout(m.kind, m.cols, m.group).bytes;
  if (dtype != DType::f32 && !is_dense(m.kind)) {
    m.act = ActKind::int8;
  } else if (dtype == DType::bf16 && m.kind == kDenseBf16) {
    m.act = ActKind::bf16;
  } else {
    m.act = ActKind::f32;
  }
  return m;
}

int64_t activation_bytes(int64_t max_rows, int64_t max_cols) {
  const int64_t groups = (max_cols + kActGroup - 1) / kActGroup;
  return align64(max_rows * max_cols * 4) + align64(max_rows * max_cols * 2) + align64(max_rows * max_cols) +
         3 * align64(max_rows * groups * 4) + align64(max_rows * groups * 8);
}

void bind_activations(Activations& a, int64_t max_rows, int64_t max_cols, uint8_t* memory) {
  a = Activations();
  a.max_rows = max_rows;
  a.max_cols = max_cols;
  const int64_t groups = (max_cols + kActGroup - 1) / kActGroup;
  const auto take = [&memory](int64_t bytes) {
    uint8_t* start = memory;
    if (memory != nullptr) memory += align64(bytes);
    return start;
  };
  a.f32 = reinterpret_cast<float*>(take(max_rows * max_cols * 4));
  a.bf16 = reinterpret_cast<uint16_t*>(take(max_rows * max_cols * 2));
  a.q = reinterpret_cast<int8_t*>(take(max_rows * max_cols));
  a.scale = reinterpret_cast<float*>(take(max_rows * groups * 4));
  a.sum = reinterpret_cast<float*>(take(max_rows * groups * 4));
  a.neg = reinterpret_cast<int32_t*>(take(max_rows * groups * 4));
  a.neg16 = reinterpret_cast<int32_t*>(take(max_rows * groups * 8));
}

// A block of at most 16 rows of activations, interleaved: float32, or int8 with its scales and sums.
int64_t matmul_scratch_bytes(int64_t max_cols) { return align64(16 * 4 * (max_cols + kActGroup)) + 4 * 64; }

}  // namespace deploykit::cpu
