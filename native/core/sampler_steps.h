// Parts of the sampler: what changes a row's logits (steps 1 to 5), and the edge of top_p (step 9).
#pragma once

#include <cstdint>
#include <vector>

#include "core/sampler.h"

namespace deploykit {

// Whether steps 1 to 5 do anything for this row now.
bool changes_logits(const Draw& draw);
// Steps 1 to 5 on x [vocab], in place; false with the row's failure in `out`. A row that has every token masked is
// left to the caller.
bool process_logits(const Draw& draw, float* x, SamplerScratch& scratch, SampledToken& out);

// The value of the least likely candidates that stay: those with less than `limit` of mass strictly above them.
// `x` and `weights` are of one length, above 0; `order` is scratch.
float top_p_value(const std::vector<float>& x, const std::vector<double>& weights, double limit,
                  std::vector<int32_t>& order);

}  // namespace deploykit
