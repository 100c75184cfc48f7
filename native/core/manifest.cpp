#include "core/manifest.h"

#include "deploykit/error.h"

namespace deploykit {
namespace {

constexpr size_t kMaxNamed = 5;  // missing weights that an error names

std::string shape(const WeightSpec& spec) {
  return "[" + std::to_string(spec.rows) + ", " + std::to_string(spec.cols) + "]";
}

bool dense(WeightFormat format) {
  return format == WeightFormat::f32 || format == WeightFormat::f16 || format == WeightFormat::bf16;
}

bool ends_with(const std::string& text, const std::string& tail) {
  return text.size() >= tail.size() && text.compare(text.size() - tail.size(), tail.size(), tail) == 0;
}

bool is_vector(const std::string& name) {
  return ends_with(name, "norm.weight") || ends_with(name, ".bias") || ends_with(name, ".sinks");
}

void check_part(const std::string& name, const char* part, const void* data, int64_t bytes, int64_t needed) {
  if (bytes == needed && (data != nullptr || needed == 0)) return;
  throw Error("invalid", "weight '" + name + "': " + part + " has " + std::to_string(bytes) + " bytes, not " +
                             std::to_string(needed));
}

[[noreturn]] void missing(const std::vector<std::string>& names) {
  std::string list;
  for (size_t i = 0; i < names.size() && i < kMaxNamed; ++i) list += (i ? ", " : "") + names[i];
  if (names.size() > kMaxNamed) list += " and " + std::to_string(names.size() - kMaxNamed) + " more";
  throw Error("missing", "weights that are needed are not there: " + list);
}

}  // namespace

void check_manifest(const ModelDescription& model, const std::vector<WeightSpec>& manifest) {
  std::unordered_map<std::string, const WeightSpec*> given;
  for (const WeightSpec& spec : manifest) {
    if (!given.emplace(spec.name, &spec).second) {
      throw Error("invalid", "weight '" + spec.name + "' stands in the manifest twice");
    }
  }
  std::vector<std::string> absent;
  for (const WeightSpec& need : required_weights(model)) {
    const auto found = given.find(need.name);
    if (found == given.end()) {
      absent.push_back(need.name);
      continue;
    }
    const WeightSpec& spec = *found->second;
    if (spec.rows != need.rows || spec.cols != need.cols) {
      throw Error("invalid",
                  "weight '" + spec.name + "' has shape " + shape(spec) + ", the model needs " + shape(need));
    }
    if (is_vector(spec.name) && !dense(spec.format)) {
      throw Error("invalid", "weight '" + spec.name + "' is a vector: it is stored as f32, f16 or bf16");
    }
    given.erase(found);
  }
  if (!absent.empty()) missing(absent);
  if (!given.empty()) {
    throw Error("invalid", "weight '" + given.begin()->first + "' is not one that this model has");
  }
}

WeightLedger::WeightLedger(const std::vector<WeightSpec>& manifest) {
  for (const WeightSpec& spec : manifest) {
    stored_bytes(spec);
    if (!entries_.emplace(spec.name, Entry{spec, false}).second) {
      throw Error("invalid", "weight '" + spec.name + "' stands in the manifest twice");
    }
    order_.push_back(spec.name);
  }
}

void WeightLedger::check(const WeightTensor& tensor) const {
  const WeightSpec& spec = tensor.spec;
  const auto found = entries_.find(spec.name);
  if (found == entries_.end()) throw Error("invalid", "weight '" + spec.name + "' does not stand in the manifest");
  const WeightSpec& promised = found->second.spec;
  if (found->second.given) throw Error("invalid", "weight '" + spec.name + "' was given already");
  if (spec.format != promised.format || spec.rows != promised.rows || spec.cols != promised.cols ||
      spec.group != promised.group) {
    throw Error("invalid", "weight '" + spec.name + "' " + shape(spec) +
                               " is not as the manifest says: format, shape " + shape(promised) + " or group differ");
  }
  const StoredBytes needed = stored_bytes(spec);
  check_part(spec.name, "data", tensor.data, tensor.data_bytes, needed.data);
  check_part(spec.name, "scales", tensor.scales, tensor.scales_bytes, needed.scales);
  check_part(spec.name, "zeros", tensor.zeros, tensor.zeros_bytes, needed.zeros);
  if (tensor.zero_offset != 0 && (tensor.zero_offset != 1 || spec.format != WeightFormat::gptq)) {
    throw Error("invalid", "weight '" + spec.name + "': a zero_offset of " + std::to_string(tensor.zero_offset) +
                               "; it is 0, or 1 in gptq");
  }
}

void WeightLedger::given(const std::string& name) { entries_.at(name).given = true; }

void WeightLedger::check_complete() const {
  std::vector<std::string> absent;
  for (const std::string& name : order_) {
    if (!entries_.at(name).given) absent.push_back(name);
  }
  if (!absent.empty()) missing(absent);
}

}  // namespace deploykit
