// Weights by role and as they are stored. The engine repacks each tensor once, when it is given.
//
// Names: embed.weight [vocab, hidden]; head.weight, head.bias (absent where tied); final_norm.weight (.bias);
// layers.N.{attn_norm,attn_post_norm,mlp_norm,mlp_post_norm}.weight (.bias);
// layers.N.{q,k,v,o}.weight (.bias); layers.N.{q_norm,k_norm}.weight; layers.N.sinks [heads];
// layers.N.{gate,up,down}.weight (.bias); with experts: layers.N.router.weight (.bias) and
// layers.N.experts.E.{gate,up,down}.weight (.bias).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "deploykit/export.h"
#include "deploykit/model.h"

namespace deploykit {

enum class DType : int32_t { f32 = 0, f16 = 1, bf16 = 2 };

// How the elements of a matrix are stored. Anything but f32, f16, bf16 is for linear weights [rows, cols] (and
// the embedding table).
enum class WeightFormat : int32_t {
  f32 = 0,
  f16 = 1,
  bf16 = 2,
  int8 = 3,   // int8 [rows, cols], scale f32 [rows]
  q4_0 = 10,  // GGUF blocks, exactly as in the file, along cols
  q4_1 = 11,
  q5_0 = 12,
  q5_1 = 13,
  q8_0 = 14,
  q4_k = 15,
  q5_k = 16,
  q6_k = 17,
  awq = 30,   // qweight int32 [cols, rows / 8] (AutoAWQ "gemm" order), qzeros int32 [cols / group, rows / 8],
              // scales f16 [cols / group, rows]; w = (q - z) * s
  gptq = 31,  // qweight int32 [cols / 8, rows], qzeros int32 [cols / group, rows / 8] (stored z - zero_offset),
              // scales f16 [cols / group, rows]; w = (q - z) * s. An act-order g_idx is refused by the caller.
};

// What will be given: enough to reserve memory before anything is read.
struct WeightSpec {
  std::string name;
  WeightFormat format = WeightFormat::f32;
  int64_t rows = 0;   // out features; vectors have rows = 1
  int64_t cols = 0;   // in features
  int32_t group = 0;  // awq, gptq: columns that share a scale
};

// One tensor's bytes; they are read during Engine::load_weight alone.
struct WeightTensor {
  WeightSpec spec;
  const void* data = nullptr;    // elements, blocks, or qweight
  int64_t data_bytes = 0;
  const void* scales = nullptr;  // int8, awq, gptq
  int64_t scales_bytes = 0;
  const void* zeros = nullptr;  // awq, gptq
  int64_t zeros_bytes = 0;
  int32_t zero_offset = 0;  // gptq v1 stores zero - 1: offset 1
};

// Bytes of the parts of a tensor as stored: data, scales, zeros. Throws Error("invalid") for shapes that the format
// can't have (columns that don't divide into blocks or groups, rows that don't divide into words).
struct StoredBytes {
  int64_t data = 0;
  int64_t scales = 0;
  int64_t zeros = 0;
};
DEPLOYKIT_EXPORT StoredBytes stored_bytes(const WeightSpec& spec);

// Every weight that a description needs: name and shape, in execution order. Formats are left at f32.
DEPLOYKIT_EXPORT std::vector<WeightSpec> required_weights(const ModelDescription& model);

}  // namespace deploykit
