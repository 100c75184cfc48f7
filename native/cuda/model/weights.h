// The weights of a model on the device: fused matrices (q, k and v; gate and up) and vectors, in one arena.
#pragma once

#include <cuda_runtime.h>

#include <map>
#include <string>
#include <vector>

#include "core/int8_head.h"
#include "core/manifest.h"
#include "cuda/engine/device.h"
#include "cuda/kernels/kernels.h"
#include "deploykit/engine.h"

namespace deploykit::cuda {

inline bool is_w4(WeightFormat format) { return format == WeightFormat::awq || format == WeightFormat::gptq; }

// A linear layer's matrix [n, k], 16-bit or 4-bit (or a head in int8), with its bias in the same row order.
struct Matrix {
  int64_t n = 0, k = 0;
  bool quantized = false;
  void* dense = nullptr;  // T [n, k]
  W4Weight w4;
  bool int8 = false;
  W8Weight w8;
  void* bias = nullptr;  // T [n] or nullptr
  bool gated = false;    // rows in the order of RowMap: gate and up
};

// A layer's experts: matrices of one shape, one after the other in memory.
struct Experts {
  int32_t count = 0;         // 0 = the layer's MLP is dense
  Matrix router;             // dense [count rounded up to 16, hidden]
  Matrix up, down;           // the first one's; up: gate and up where the MLP is gated
  std::vector<Matrix> each;  // up and down of expert e are each[2e] and each[2e + 1]: where their weights go
};

struct LayerWeights {
  void *attn_norm = nullptr, *attn_norm_bias = nullptr, *attn_post_norm = nullptr, *attn_post_norm_bias = nullptr;
  void *mlp_norm = nullptr, *mlp_norm_bias = nullptr, *mlp_post_norm = nullptr, *mlp_post_norm_bias = nullptr;
  void *q_norm = nullptr, *k_norm = nullptr;
  float* sinks = nullptr;
  Matrix qkv, o, up, down;  // up: gate and up where the MLP is gated; no up and down where there are experts
  Experts experts;
};

class ModelWeights {
 public:
  // Plans the arena and reserves it. Throws Error("unsupported") that names a weight this backend can't hold.
  // `int8_head`: see EngineOptions.
  ModelWeights(const ModelDescription& model, const std::vector<WeightSpec>& manifest, DType dtype,
               bool int8_head = false);

  void load(const WeightTensor& tensor, cudaStream_t stream);
  // Throws Error("missing"), and Error("invalid") for an int8 head of weights that aren't finite. Gives the staging
  // memory back.
  void finish(cudaStream_t stream);

  const LayerWeights& layer(size_t index) const { return layers_[index]; }
  const void* embedding() const { return embedding_; }
  const Matrix& head() const { return head_; }
  const void* final_norm() const { return final_norm_; }
  const void* final_norm_bias() const { return final_norm_bias_; }
  int64_t bytes() const { return arena_.bytes(); }
  bool any_quantized() const { return any_quantized_; }
  const RoundingError& rounding() const { return rounding_; }  // of an int8 head

 private:
  // Where a role's rows go.
  struct Place {
    Matrix* matrix = nullptr;
    void* vector = nullptr;   // instead of a matrix: T [cols]
    float* f32 = nullptr;     // instead of both: float32 [cols]
    int64_t row_offset = 0;
    RowMap map = RowMap::plain;
    bool is_bias = false;     // a vector that is placed as rows of one column
    Matrix* copy = nullptr;   // takes the same rows: a tied head in int8
  };

  using Parts = std::vector<std::pair<std::string, RowMap>>;  // names without ".weight", and the order of their rows
  static Parts up_parts(const std::string& at, const MlpSpec& mlp);
  // What the manifest says of a matrix of these parts, and their places in it.
  void describe_matrix(Matrix& matrix, const Parts& parts, bool bias);
  // Memory for `count` matrices like this one, the first of them here.
  void reserve_matrix(Matrix& matrix, int64_t count, bool bias);
  void plan_matrix(Matrix& matrix, const Parts& parts, bool bias);
  void plan_int8_head(bool bias);
  void quantize(const Matrix& matrix, DType from, const void* src, int64_t row0, int64_t rows, cudaStream_t stream);
  void sum_rounding();
  void plan_experts(Experts& experts, const std::string& at, const MlpSpec& mlp);
  void* take(int64_t bytes);
  void* take_vector(const std::string& name, int64_t count);
  const WeightSpec& spec(const std::string& name) const;
  void load_dense(const WeightTensor& tensor, const Place& place, cudaStream_t stream);
  void load_w4(const WeightTensor& tensor, const Place& place, cudaStream_t stream);
  void load_blocks(const WeightTensor& tensor, const Place& place, cudaStream_t stream);
  void place_from_host(DType from, const void* data, int64_t row0, int64_t rows, int64_t cols, const Place& place,
                       cudaStream_t stream);
  uint8_t* staging(int64_t bytes);

  ModelDescription model_;
  DType dtype_;
  WeightLedger ledger_;
  std::map<std::string, WeightSpec> specs_;
  std::map<std::string, Place> places_;
  std::vector<LayerWeights> layers_;
  Matrix head_;
  void *embedding_ = nullptr, *final_norm_ = nullptr, *final_norm_bias_ = nullptr;
  Matrix embedding_matrix_;
  int64_t used_bytes_ = 0;
  bool any_quantized_ = false, int8_head_ = false;
  RoundingError rounding_;

  // Planned first (reserve_ only counts), then allocated and planned again with addresses.
  bool counting_ = true;
  int64_t used_ = 0;
  DeviceBuffer<uint8_t> arena_, staging_;
  DeviceBuffer<double> rounding_sums_;  // of each row of an int8 head, while it is loaded
};

}  // namespace deploykit::cuda
