// Steps and results between Python and the engine: the objects of deploykit/engine/types.py are read by attribute.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "deploykit/step.h"

namespace deploykit::bindings {

SamplingParams read_sampling(pybind11::handle object);
std::vector<Admit> read_admits(pybind11::handle sequence);
std::vector<Extend> read_extends(pybind11::handle sequence);
std::vector<Trim> read_trims(pybind11::handle sequence);
std::vector<Copy> read_copies(pybind11::handle sequence);
std::vector<Release> read_releases(pybind11::handle sequence);
std::vector<std::pair<int32_t, Mask>> read_masks(pybind11::handle dict);
Mask read_mask(pybind11::handle buffer);

pybind11::tuple write_logprob(const TokenLogprob& logprob);
pybind11::tuple write_result(const StepResult& result);

}  // namespace deploykit::bindings
