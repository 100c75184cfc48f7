#include "cpu/model/weight_store.h"

#include <algorithm>
#include <cstring>

#include "cpu/matmul/layout.h"
#include "cpu/model/int8_head.h"
#include "deploykit/error.h"

namespace deploykit::cpu {
namespace {

// Below this a tensor is packed by one thread.
constexpr int64_t kParallelBytes = int64_t{1} << 18;

bool ends_with(const std::string& text, const char* end) {
  const size_t n = std::strlen(end);
  return text.size() >= n && text.compare(text.size() - n, n, end) == 0;
}

bool vector_name(const std::string& name) {
  return ends_with(name, "norm.weight") || ends_with(name, ".bias") || ends_with(name, ".sinks");
}

bool plain(WeightFormat format) {
  return format == WeightFormat::f32 || format == WeightFormat::f16 || format == WeightFormat::bf16;
}

// Formats that keep a row in consecutive bytes: any range of rows is a tensor of its own.
bool row_major(WeightFormat format) { return format != WeightFormat::awq && format != WeightFormat::gptq; }

float from_bf16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

void convert(const WeightTensor& tensor, float* out) {
  const int64_t n = tensor.spec.rows * tensor.spec.cols;
  if (tensor.spec.format == WeightFormat::f32) {
    std::memcpy(out, tensor.data, static_cast<size_t>(n) * sizeof(float));
    return;
  }
  const auto* bytes = static_cast<const uint8_t*>(tensor.data);  // may be unaligned: it comes from a mapped file
  for (int64_t i = 0; i < n; ++i) {
    uint16_t bits;
    std::memcpy(&bits, bytes + 2 * i, sizeof bits);
    out[i] = tensor.spec.format == WeightFormat::bf16 ? from_bf16(bits) : half_to_float(bits);
  }
}

// Tiles [t0, t1) of a matrix from the rows of the tensor that they hold.
void pack_tiles(const PackedMatrix& whole, const WeightTensor& tensor, int64_t t0, int64_t t1) {
  const int64_t row0 = t0 * kTileRows, row1 = std::min(t1 * kTileRows, whole.rows);
  const int64_t row_bytes = tensor.data_bytes / whole.rows;
  PackedMatrix part = whole;
  part.rows = row1 - row0;
  part.data = whole.data + t0 * whole.tile_bytes;
  WeightTensor rows = tensor;
  rows.spec.rows = row1 - row0;
  rows.data = static_cast<const uint8_t*>(tensor.data) + row0 * row_bytes;
  rows.data_bytes = (row1 - row0) * row_bytes;
  if (tensor.scales != nullptr) {
    const int64_t scale_bytes = tensor.scales_bytes / whole.rows;
    rows.scales = static_cast<const uint8_t*>(tensor.scales) + row0 * scale_bytes;
    rows.scales_bytes = (row1 - row0) * scale_bytes;
  }
  pack_matrix(part, rows);
}

}  // namespace

const char* format_name(WeightFormat format) {
  switch (format) {
    case WeightFormat::f32: return "f32";
    case WeightFormat::f16: return "f16";
    case WeightFormat::bf16: return "bf16";
    case WeightFormat::int8: return "int8";
    case WeightFormat::q4_0: return "q4_0";
    case WeightFormat::q4_1: return "q4_1";
    case WeightFormat::q5_0: return "q5_0";
    case WeightFormat::q5_1: return "q5_1";
    case WeightFormat::q8_0: return "q8_0";
    case WeightFormat::q4_k: return "q4_k";
    case WeightFormat::q5_k: return "q5_k";
    case WeightFormat::q6_k: return "q6_k";
    case WeightFormat::awq: return "awq";
    case WeightFormat::gptq: return "gptq";
  }
  return "unknown";
}

WeightStore::WeightStore(const ModelDescription& model, const std::vector<WeightSpec>& manifest, DType dtype, Isa isa,
                         bool int8_head)
    : ledger_(manifest), head_(model.tied && !int8_head ? "embed.weight" : "head.weight"), int8_head_(int8_head) {
  check_manifest(model, manifest);
  WeightSpec head;
  if (int8_head) {
    const WeightSpec& source = int8_head_source(model, manifest);
    if (!plain(source.format)) refuse_int8_head(source, format_name(source.format));
    head_source_ = source.name;
    head = {head_, WeightFormat::int8, source.rows, source.cols, 0};
  }
  std::unordered_map<std::string, const WeightSpec*> stored;
  for (const WeightSpec& spec : manifest) stored.emplace(spec.name, &spec);
  for (const WeightSpec& needed : required_weights(model)) {
    plan(int8_head && needed.name == head.name ? head : *stored.at(needed.name), dtype, isa);
  }
  if (int8_head && model.tied) plan(head, dtype, isa);
  arena_.allocate();
  for (Slot& slot : slots_) {
    if (!slot.is_vector) slot.matrix.data = arena_.at(slot.offset);
  }
}

void WeightStore::plan(const WeightSpec& spec, DType dtype, Isa isa) {
  Slot slot;
  slot.spec = spec;
  slot.is_vector = vector_name(spec.name);
  if (slot.is_vector) {
    slot.offset = arena_.reserve(spec.cols, sizeof(float));
  } else {
    slot.matrix = plan_matrix(spec, dtype, isa);
    slot.offset = arena_.reserve(packed_bytes(slot.matrix));
  }
  by_name_.emplace(spec.name, slots_.size());
  slots_.push_back(std::move(slot));
}

void WeightStore::quantize_head(const WeightTensor& tensor, ThreadPool& pool) {
  const PackedMatrix& matrix = head();
  const int64_t pieces = std::min<int64_t>(matrix.tiles(), 4 * int64_t{pool.threads()});
  std::vector<RoundingError> rounding(static_cast<size_t>(pieces));
  pool.parallel_for(pieces, [&](int64_t i) {
    rounding[static_cast<size_t>(i)] =
        pack_int8_head(matrix, tensor, matrix.tiles() * i / pieces, matrix.tiles() * (i + 1) / pieces);
  });
  rounding_ = {};
  for (const RoundingError& piece : rounding) rounding_.add(piece);
}

void WeightStore::load(const WeightTensor& tensor, ThreadPool& pool) {
  ledger_.check(tensor);
  const Slot& slot = slots_[by_name_.at(tensor.spec.name)];
  if (tensor.spec.name == head_source_) quantize_head(tensor, pool);
  if (int8_head_ && tensor.spec.name == head_) {
    // It is the head itself: nothing else is kept of it.
  } else if (slot.is_vector) {
    convert(tensor, arena_.floats(slot.offset));
  } else {
    const PackedMatrix& matrix = slot.matrix;
    // Up to four pieces a thread, so that a slow one is made up for.
    int64_t pieces = std::min<int64_t>(matrix.tiles(), 4 * int64_t{pool.threads()});
    if (!row_major(tensor.spec.format) || packed_bytes(matrix) < kParallelBytes || pool.threads() == 1) pieces = 1;
    if (pieces == 1) {
      pack_matrix(matrix, tensor);
    } else {
      pool.parallel_for(pieces, [&](int64_t i) {
        pack_tiles(matrix, tensor, matrix.tiles() * i / pieces, matrix.tiles() * (i + 1) / pieces);
      });
    }
  }
  ledger_.given(tensor.spec.name);
}

const WeightStore::Slot& WeightStore::slot(const std::string& name) const {
  const auto found = by_name_.find(name);
  if (found == by_name_.end()) throw Error("internal", "no weight '" + name + "' was planned");
  return slots_[found->second];
}

const PackedMatrix& WeightStore::matrix(const std::string& name) const { return slot(name).matrix; }

const float* WeightStore::vector(const std::string& name) const { return arena_.floats(slot(name).offset); }

std::vector<std::pair<WeightFormat, int64_t>> WeightStore::formats() const {
  std::vector<std::pair<WeightFormat, int64_t>> counts;
  for (const Slot& slot : slots_) {
    if (slot.is_vector) continue;
    const auto same = [&](const auto& entry) { return entry.first == slot.spec.format; };
    const auto found = std::find_if(counts.begin(), counts.end(), same);
    if (found == counts.end()) {
      counts.emplace_back(slot.spec.format, 1);
    } else {
      ++found->second;
    }
  }
  return counts;
}

}  // namespace deploykit::cpu
