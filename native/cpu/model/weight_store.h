// The weights of a model: one arena in execution order, filled tensor by tensor as they are given.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/int8_head.h"
#include "core/manifest.h"
#include "cpu/isa.h"
#include "cpu/matmul/matmul.h"
#include "cpu/model/arena.h"
#include "cpu/model/threads.h"
#include "deploykit/model.h"
#include "deploykit/weights.h"

namespace deploykit::cpu {

class WeightStore {
 public:
  // Reserves the arena. Throws Error("invalid" | "missing") where the manifest is not the model's, Error("unsupported")
  // for formats without a kernel, Error("memory"). `int8_head`: see EngineOptions.
  WeightStore(const ModelDescription& model, const std::vector<WeightSpec>& manifest, DType dtype, Isa isa,
              bool int8_head = false);

  // Pack one tensor. Throws Error("invalid") with its name.
  void load(const WeightTensor& tensor, ThreadPool& pool);
  // Throws Error("missing") that names what was not given.
  void check_complete() const { ledger_.check_complete(); }

  // Of the manifest; the bytes are there once they are loaded. Throws Error("internal") for a name that isn't in it.
  const PackedMatrix& matrix(const std::string& name) const;
  // Of the output head: the embedding table where it is tied and not a copy in int8.
  const PackedMatrix& head() const { return matrix(head_); }
  // Norms, biases and sinks, float32.
  const float* vector(const std::string& name) const;

  int64_t bytes() const { return arena_.bytes(); }
  // Format and number of matrices, in order of appearance.
  std::vector<std::pair<WeightFormat, int64_t>> formats() const;
  bool int8_head() const { return int8_head_; }
  const RoundingError& rounding() const { return rounding_; }  // of an int8 head

 private:
  struct Slot {
    WeightSpec spec;
    bool is_vector = false;
    PackedMatrix matrix;
    int64_t offset = 0;
  };
  const Slot& slot(const std::string& name) const;
  void plan(const WeightSpec& spec, DType dtype, Isa isa);
  void quantize_head(const WeightTensor& tensor, ThreadPool& pool);

  WeightLedger ledger_;
  Arena arena_{"weights"};
  std::vector<Slot> slots_;
  std::unordered_map<std::string, size_t> by_name_;
  std::string head_, head_source_;  // head_source_: the weight as it is given that an int8 head is made of
  bool int8_head_ = false;
  RoundingError rounding_;
};

const char* format_name(WeightFormat format);

}  // namespace deploykit::cpu
