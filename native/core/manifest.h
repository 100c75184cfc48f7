// The weights that an engine was promised, and which of them it has been given.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "deploykit/weights.h"

namespace deploykit {

// Throws Error("invalid" | "missing") unless the manifest names exactly the weights of the model, each once, in its
// shape, and in a format that such a weight may have.
void check_manifest(const ModelDescription& model, const std::vector<WeightSpec>& manifest);

class WeightLedger {
 public:
  // Throws Error("invalid") for a name that stands twice or a shape that its format can't have.
  explicit WeightLedger(const std::vector<WeightSpec>& manifest);

  // Throws Error("invalid") unless the tensor is what was promised, all of its bytes are there, and it was not given.
  void check(const WeightTensor& tensor) const;
  void given(const std::string& name);
  // Throws Error("missing") that names what was not given.
  void check_complete() const;

 private:
  struct Entry {
    WeightSpec spec;
    bool given = false;
  };
  std::unordered_map<std::string, Entry> entries_;
  std::vector<std::string> order_;
};

}  // namespace deploykit
