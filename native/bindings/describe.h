// Descriptions from dicts: models, manifests, options. Keys are the names of the C++ fields; what is left out has the
// field's default, an unknown key or a value of the wrong type is an Error("invalid") that names it.
#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "deploykit/engine.h"

namespace deploykit::bindings {

ModelDescription read_model(pybind11::handle dict);
EngineOptions read_options(pybind11::handle dict);
WeightSpec read_weight_spec(pybind11::handle dict);
std::vector<WeightSpec> read_manifest(pybind11::handle list);
pybind11::dict write_weight_spec(const WeightSpec& spec);
pybind11::dict write_capacity(const Capacity& capacity);

DeviceKind read_device(const std::string& name);
KvType read_kv(const std::string& name);

}  // namespace deploykit::bindings
