#include "cuda/model/weights.h"

#include <algorithm>

#include "cpu/matmul/matmul.h"
#include "cuda/model/place.h"

namespace deploykit::cuda {
namespace {

constexpr int64_t kStagingBytes = int64_t{64} << 20;

bool is_dense(WeightFormat format) {
  return format == WeightFormat::f32 || format == WeightFormat::f16 || format == WeightFormat::bf16;
}
bool is_w4(WeightFormat format) { return format == WeightFormat::awq || format == WeightFormat::gptq; }
DType dtype_of(WeightFormat format) { return static_cast<DType>(format); }
int64_t size_of(DType dtype) { return dtype == DType::f32 ? 4 : 2; }

}  // namespace

ModelWeights::ModelWeights(const ModelDescription& model, const std::vector<WeightSpec>& manifest, DType dtype)
    : model_(model), dtype_(dtype), ledger_(manifest) {
  if (dtype == DType::f32) throw Error("unsupported", "the CUDA backend computes in bf16 or f16, not in float32");
  check_manifest(model, manifest);
  for (const WeightSpec& one : manifest) specs_[one.name] = one;
  for (const bool counting : {true, false}) {
    counting_ = counting;
    used_ = 0;
    places_.clear();
    layers_.assign(model.layers.size(), LayerWeights{});
    head_ = Matrix{};
    if (!counting) {
      arena_.allocate(used_bytes_);
    }
    embedding_ = take(int64_t{model.vocab} * model.hidden * 2);
    Matrix table;
    table.n = model.vocab;
    table.k = model.hidden;
    table.dense = embedding_;
    embedding_matrix_ = table;
    places_["embed.weight"] = Place{&embedding_matrix_, nullptr, nullptr, 0, RowMap::plain, false};
    for (size_t i = 0; i < model.layers.size(); ++i) {
      const LayerSpec& layer = model.layers[i];
      LayerWeights& out = layers_[i];
      const std::string at = "layers." + std::to_string(i) + ".";
      if (layer.mlp.moe.experts > 0) {
        throw Error("unsupported", "layer " + std::to_string(i) + " has experts, which the CUDA backend does not route yet");
      }
      const auto norm = [&](const char* name, bool present, void*& weight, void*& bias) {
        if (!present) return;
        weight = take_vector(at + name + ".weight", model.hidden);
        if (model.norm_bias) bias = take_vector(at + name + ".bias", model.hidden);
      };
      norm("attn_norm", layer.attn_norm, out.attn_norm, out.attn_norm_bias);
      norm("attn_post_norm", layer.attn_post_norm, out.attn_post_norm, out.attn_post_norm_bias);
      norm("mlp_norm", layer.mlp_norm, out.mlp_norm, out.mlp_norm_bias);
      norm("mlp_post_norm", layer.mlp_post_norm, out.mlp_post_norm, out.mlp_post_norm_bias);
      const AttentionSpec& attention = layer.attention;
      if (attention.qk_norm != QkNorm::none) {
        const bool full = attention.qk_norm == QkNorm::full;
        out.q_norm = take_vector(at + "q_norm.weight", int64_t{attention.head_dim} * (full ? attention.heads : 1));
        out.k_norm = take_vector(at + "k_norm.weight", int64_t{attention.head_dim} * (full ? attention.kv_heads : 1));
      }
      if (attention.sinks) {
        out.sinks = static_cast<float*>(take(int64_t{attention.heads} * 4));
        places_[at + "sinks"] = Place{nullptr, nullptr, out.sinks, 0, RowMap::plain, false};
      }
      plan_matrix(out.qkv, {{at + "q", RowMap::plain}, {at + "k", RowMap::plain}, {at + "v", RowMap::plain}},
                  attention.qkv_bias);
      plan_matrix(out.o, {{at + "o", RowMap::plain}}, attention.o_bias);
      if (layer.mlp.gated) {
        plan_matrix(out.up, {{at + "gate", RowMap::gate}, {at + "up", RowMap::up}}, layer.mlp.bias);
      } else {
        plan_matrix(out.up, {{at + "up", RowMap::plain}}, layer.mlp.bias);
      }
      plan_matrix(out.down, {{at + "down", RowMap::plain}}, layer.mlp.bias);
    }
    final_norm_ = take_vector("final_norm.weight", model.hidden);
    if (model.norm_bias) final_norm_bias_ = take_vector("final_norm.bias", model.hidden);
    if (model.tied) {
      head_ = embedding_matrix_;
    } else {
      plan_matrix(head_, {{"head", RowMap::plain}}, model.head_bias);
    }
    used_bytes_ = used_;
  }
}

const WeightSpec& ModelWeights::spec(const std::string& name) const {
  const auto found = specs_.find(name);
  if (found == specs_.end()) throw Error("missing", "the manifest has no " + name);
  return found->second;
}

void* ModelWeights::take(int64_t bytes) {
  const int64_t at = used_;
  used_ += (bytes + 255) / 256 * 256;
  return counting_ ? nullptr : arena_.get() + at;
}

void* ModelWeights::take_vector(const std::string& name, int64_t count) {
  void* memory = take(count * 2);
  places_[name] = Place{nullptr, memory, nullptr, 0, RowMap::plain, false};
  return memory;
}

void ModelWeights::plan_matrix(Matrix& matrix, const std::vector<std::pair<std::string, RowMap>>& parts, bool bias) {
  const WeightSpec& first = spec(parts.front().first + ".weight");
  matrix.k = first.cols;
  matrix.quantized = is_w4(first.format);
  matrix.gated = parts.front().second != RowMap::plain;
  for (const auto& [name, map] : parts) {
    const WeightSpec& one = spec(name + ".weight");
    const bool fits = is_w4(one.format) ? matrix.quantized && one.group == first.group : !matrix.quantized;
    if (!fits) {
      throw Error("unsupported", one.name + " is stored otherwise than the weights that are computed with it; all of "
                                            "q, k and v, and both of gate and up, have one format on the CUDA backend");
    }
    if (one.rows % 16 != 0 || one.cols % 64 != 0) {
      throw Error("unsupported", one.name + " is " + std::to_string(one.rows) + " x " + std::to_string(one.cols) +
                                     "; the CUDA backend needs multiples of 16 and 64");
    }
    Place place{&matrix, nullptr, nullptr, map == RowMap::plain ? matrix.n : 0, map, false};
    places_[name + ".weight"] = place;
    place.is_bias = true;
    if (bias) places_[name + ".bias"] = place;
    matrix.n += one.rows;
  }
  if (matrix.quantized) {
    any_quantized_ = true;
    matrix.w4.n = matrix.n;
    matrix.w4.k = matrix.k;
    matrix.w4.group = first.group;
    matrix.w4.data = take(w4_data_bytes(matrix.n, matrix.k));
    matrix.w4.params = static_cast<const uint32_t*>(take(w4_param_bytes(matrix.n, matrix.k, first.group)));
  } else {
    matrix.dense = take(matrix.n * matrix.k * 2);
  }
  if (bias) matrix.bias = take(matrix.n * 2);
}

uint8_t* ModelWeights::staging(int64_t bytes) {
  if (staging_.count() < bytes) staging_.allocate(std::max(bytes, kStagingBytes));
  return staging_.get();
}

void ModelWeights::load(const WeightTensor& tensor, cudaStream_t stream) {
  ledger_.check(tensor);
  const auto found = places_.find(tensor.spec.name);
  if (found == places_.end()) throw Error("invalid", "there is no weight " + tensor.spec.name + " in this model");
  if (is_w4(tensor.spec.format)) {
    load_w4(tensor, found->second, stream);
  } else if (is_dense(tensor.spec.format)) {
    load_dense(tensor, found->second, stream);
  } else {
    load_blocks(tensor, found->second, stream);
  }
  ledger_.given(tensor.spec.name);
}

void ModelWeights::place_from_host(DType from, const void* data, int64_t row0, int64_t rows, int64_t cols,
                                   const Place& place, cudaStream_t stream) {
  const int64_t bytes = rows * cols * size_of(from);
  uint8_t* stage = staging(bytes);
  DK_CUDA(cudaMemcpyAsync(stage, data, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream));
  void* dst = place.is_bias ? place.matrix->bias : place.matrix != nullptr ? place.matrix->dense : place.vector;
  place_rows(from, stage, row0, rows, cols, dtype_, dst, place.row_offset, place.map, stream);
}

void ModelWeights::load_dense(const WeightTensor& tensor, const Place& place, cudaStream_t stream) {
  const DType from = dtype_of(tensor.spec.format);
  if (place.f32 != nullptr) {
    if (from != DType::f32) throw Error("unsupported", tensor.spec.name + " is expected in float32");
    DK_CUDA(cudaMemcpyAsync(place.f32, tensor.data, static_cast<size_t>(tensor.data_bytes), cudaMemcpyHostToDevice, stream));
    return;
  }
  // A bias is a column: one element a row of its matrix.
  const int64_t rows = place.is_bias ? tensor.spec.rows * tensor.spec.cols : tensor.spec.rows;
  const int64_t cols = place.is_bias ? 1 : tensor.spec.cols;
  const int64_t chunk = std::max<int64_t>(kStagingBytes / (cols * size_of(from)), 1);
  for (int64_t row = 0; row < rows; row += chunk) {
    const int64_t count = std::min(chunk, rows - row);
    place_from_host(from, static_cast<const uint8_t*>(tensor.data) + row * cols * size_of(from), row, count, cols, place,
                    stream);
  }
}

void ModelWeights::load_w4(const WeightTensor& tensor, const Place& place, cudaStream_t stream) {
  if (place.matrix == nullptr || !place.matrix->quantized) {
    throw Error("unsupported", tensor.spec.name + " can't be 4-bit on the CUDA backend");
  }
  const auto aligned = [](int64_t bytes) { return (bytes + 255) / 256 * 256; };
  uint8_t* stage = staging(aligned(tensor.data_bytes) + aligned(tensor.zeros_bytes) + aligned(tensor.scales_bytes));
  uint8_t* zeros = stage + aligned(tensor.data_bytes);
  uint8_t* scales = zeros + aligned(tensor.zeros_bytes);
  DK_CUDA(cudaMemcpyAsync(stage, tensor.data, static_cast<size_t>(tensor.data_bytes), cudaMemcpyHostToDevice, stream));
  DK_CUDA(cudaMemcpyAsync(zeros, tensor.zeros, static_cast<size_t>(tensor.zeros_bytes), cudaMemcpyHostToDevice, stream));
  DK_CUDA(cudaMemcpyAsync(scales, tensor.scales, static_cast<size_t>(tensor.scales_bytes), cudaMemcpyHostToDevice, stream));
  W4Source source;
  source.format = tensor.spec.format;
  source.qweight = reinterpret_cast<const int32_t*>(stage);
  source.qzeros = reinterpret_cast<const int32_t*>(zeros);
  source.scales = scales;
  source.rows = tensor.spec.rows;
  source.zero_offset = tensor.zero_offset;
  w4_repack(source, place.matrix->w4, place.row_offset, place.map, stream);
}

// GGUF's blocks and int8: unpacked on the host, row by row, to the 16-bit activations' type.
void ModelWeights::load_blocks(const WeightTensor& tensor, const Place& place, cudaStream_t stream) {
  if (place.matrix == nullptr || place.is_bias) throw Error("unsupported", tensor.spec.name + " can't be quantized");
  cpu::PackedMatrix packed = cpu::plan_matrix(tensor.spec, DType::f32, cpu::Isa::scalar);
  std::vector<uint8_t> memory(static_cast<size_t>(cpu::packed_bytes(packed)) + 64);
  packed.data = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64;
  cpu::pack_matrix(packed, tensor);
  const int64_t cols = tensor.spec.cols;
  const int64_t chunk = std::max<int64_t>((int64_t{16} << 20) / (cols * 4), 1);
  std::vector<float> rows(static_cast<size_t>(std::min(chunk, tensor.spec.rows) * cols));
  for (int64_t row = 0; row < tensor.spec.rows; row += chunk) {
    const int64_t count = std::min(chunk, tensor.spec.rows - row);
    for (int64_t i = 0; i < count; ++i) cpu::unpack_row(packed, row + i, rows.data() + i * cols);
    place_from_host(DType::f32, rows.data(), row, count, cols, place, stream);
    DK_CUDA(cudaStreamSynchronize(stream));  // `rows` is written again
  }
}

void ModelWeights::finish(cudaStream_t stream) {
  ledger_.check_complete();
  DK_CUDA(cudaStreamSynchronize(stream));
  staging_.allocate(0);
}

}  // namespace deploykit::cuda
