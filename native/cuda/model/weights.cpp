#include "cuda/model/weights.h"

#include <algorithm>
#include <cmath>

#include "cpu/matmul/matmul.h"
#include "cuda/model/int8_head.h"
#include "cuda/model/place.h"

namespace deploykit::cuda {
namespace {

constexpr int64_t kStagingBytes = int64_t{64} << 20;

bool is_dense(WeightFormat format) {
  return format == WeightFormat::f32 || format == WeightFormat::f16 || format == WeightFormat::bf16;
}
DType dtype_of(WeightFormat format) { return static_cast<DType>(format); }
int64_t size_of(DType dtype) { return dtype == DType::f32 ? 4 : 2; }

// Rows that are placed at once: of about so many bytes, whole tiles of an int8 head.
int64_t chunk_rows(int64_t bytes, int64_t row_bytes) { return std::max<int64_t>(bytes / row_bytes / 16, 1) * 16; }

}  // namespace

ModelWeights::ModelWeights(const ModelDescription& model, const std::vector<WeightSpec>& manifest, DType dtype,
                           bool int8_head)
    : model_(model), dtype_(dtype), ledger_(manifest), int8_head_(int8_head) {
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
      if (layer.mlp.moe.experts > 0) {
        plan_experts(out.experts, at, layer.mlp);
      } else {
        plan_matrix(out.up, up_parts(at, layer.mlp), layer.mlp.bias);
        plan_matrix(out.down, {{at + "down", RowMap::plain}}, layer.mlp.bias);
      }
    }
    final_norm_ = take_vector("final_norm.weight", model.hidden);
    if (model.norm_bias) final_norm_bias_ = take_vector("final_norm.bias", model.hidden);
    if (int8_head) {
      plan_int8_head(model.head_bias);
    } else if (model.tied) {
      if (table.n % 16 != 0 || table.k % 64 != 0) {
        throw Error("unsupported", "embed.weight is " + std::to_string(table.n) + " x " + std::to_string(table.k) +
                                       "; as an output head the CUDA backend needs multiples of 16 and 64");
      }
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

void ModelWeights::describe_matrix(Matrix& matrix, const Parts& parts, bool bias) {
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
  if (!matrix.quantized) return;
  any_quantized_ = true;
  matrix.w4.n = matrix.n;
  matrix.w4.k = matrix.k;
  matrix.w4.group = first.group;
}

void ModelWeights::reserve_matrix(Matrix& matrix, int64_t count, bool bias) {
  if (matrix.quantized) {
    matrix.w4.data = take(count * w4_data_bytes(matrix.n, matrix.k));
    matrix.w4.params = static_cast<const uint32_t*>(take(count * w4_param_bytes(matrix.n, matrix.k, matrix.w4.group)));
  } else {
    matrix.dense = take(count * matrix.n * matrix.k * 2);
  }
  if (bias) matrix.bias = take(count * matrix.n * 2);
}

void ModelWeights::plan_matrix(Matrix& matrix, const Parts& parts, bool bias) {
  describe_matrix(matrix, parts, bias);
  reserve_matrix(matrix, 1, bias);
}

void ModelWeights::plan_int8_head(bool bias) {
  const char* name = model_.tied ? "embed.weight" : "head.weight";
  const WeightSpec& source = spec(name);
  if (is_w4(source.format)) refuse_int8_head(source, source.format == WeightFormat::awq ? "awq" : "gptq");
  if (source.rows % 16 != 0 || source.cols % 64 != 0) {
    throw Error("unsupported", source.name + " is " + std::to_string(source.rows) + " x " + std::to_string(source.cols) +
                                   "; an int8 head needs multiples of 16 and 64 on the CUDA backend");
  }
  head_.n = source.rows;
  head_.k = source.cols;
  head_.int8 = true;
  head_.w8.n = head_.n;
  head_.w8.k = head_.k;
  head_.w8.data = take(w8_data_bytes(head_.n, head_.k));
  head_.w8.scales = static_cast<float*>(take(head_.n * 4));
  Place place{&head_, nullptr, nullptr, 0, RowMap::plain, false};
  if (model_.tied) {
    places_[name].copy = &head_;
  } else {
    places_[name] = place;
  }
  place.is_bias = true;
  if (bias) {
    head_.bias = take(head_.n * 2);
    places_["head.bias"] = place;
  }
  if (!counting_) rounding_sums_.allocate(2 * head_.n);
}

void ModelWeights::quantize(const Matrix& matrix, DType from, const void* src, int64_t row0, int64_t rows,
                            cudaStream_t stream) {
  w8_quantize(from, src, row0, rows, matrix.w8, stream);
  rounding_sums(from, src, row0, rows, matrix.k, matrix.w8.scales, rounding_sums_.get(), stream);
}

void ModelWeights::sum_rounding() {
  std::vector<double> sums(static_cast<size_t>(rounding_sums_.count()));
  DK_CUDA(cudaMemcpy(sums.data(), rounding_sums_.get(), sums.size() * sizeof(double), cudaMemcpyDeviceToHost));
  rounding_sums_.allocate(0);
  for (size_t i = 0; i < sums.size(); i += 2) {
    const RoundingError row{sums[i], sums[i + 1]};
    if (!std::isfinite(row.error + row.size)) {
      refuse_int8_row(model_.tied ? "embed.weight" : "head.weight", static_cast<int64_t>(i / 2));
    }
    rounding_.add(row);
  }
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
  if (place.matrix != nullptr && place.matrix->int8 && !place.is_bias) {
    return quantize(*place.matrix, from, stage, row0, rows, stream);
  }
  if (place.copy != nullptr) quantize(*place.copy, from, stage, row0, rows, stream);
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
  const int64_t chunk = chunk_rows(kStagingBytes, cols * size_of(from));
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
  const int64_t chunk = chunk_rows(int64_t{16} << 20, cols * 4);
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
  if (int8_head_) sum_rounding();
}

}  // namespace deploykit::cuda
