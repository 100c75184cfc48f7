#include "core/int8_head.h"

#include <cmath>
#include <cstdio>

#include "deploykit/error.h"

namespace deploykit {

const WeightSpec& int8_head_source(const ModelDescription& model, const std::vector<WeightSpec>& manifest) {
  const char* name = model.tied ? "embed.weight" : "head.weight";
  for (const WeightSpec& spec : manifest) {
    if (spec.name == name) return spec;
  }
  throw Error("missing", std::string("the manifest has no ") + name);
}

void refuse_int8_head(const WeightSpec& source, const char* format) {
  throw Error("unsupported", "an int8 output head is made of plain weights alone; " + source.name + " is stored as " +
                                 format + ", and computed as it is stored");
}

void refuse_int8_row(const std::string& name, int64_t row) {
  throw Error("invalid", name + ": row " + std::to_string(row) +
                             " has a value that is not finite; an int8 output head can't be made of it");
}

std::string RoundingError::relative() const {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g", size > 0 ? std::sqrt(error / size) : 0.0);
  return text;
}

}  // namespace deploykit
