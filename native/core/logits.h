// Passes over a row of logits: maximum, finiteness, exponential sums, thresholds.
//
// One pass finds the maximum of every block of 64 logits; what follows (a k-th value, the tokens over a threshold, a
// rank) looks only into blocks whose maximum says so. Results are the same bits on every instruction set.
#pragma once

#include <cstdint>
#include <vector>

namespace deploykit {

inline constexpr int64_t kLogitBlock = 64;
inline int64_t logit_blocks(int64_t vocab) { return (vocab + kLogitBlock - 1) / kLogitBlock; }

// A row with the maxima of its blocks. The last block may be shorter.
struct LogitRow {
  const float* x = nullptr;
  int64_t vocab = 0;
  const float* maxima = nullptr;  // [logit_blocks(vocab)]
  float max = 0.0f;
};

// The passes that are built once for each instruction set; the rest of this page calls the best.
struct LogitKernels {
  const char* isa;
  bool (*maxima)(const float* x, int64_t vocab, float* maxima);
  double (*sums)(const LogitRow& row, double temperature, double* sums);
  void (*weights)(const float* x, int64_t count, float max, double temperature, double* weights);
};
// Those that this CPU runs, best first.
std::vector<const LogitKernels*> logit_kernels();

// Fill `maxima`; returns whether all logits are finite numbers. The maxima mean nothing where they are not.
bool block_maxima(const float* x, int64_t vocab, float* maxima);
// The row; -inf among the logits is allowed (masked tokens), NaN is not.
LogitRow logit_row(const float* x, int64_t vocab, const float* maxima);

// Lowest id of the maximum.
int32_t first_maximum(const LogitRow& row);

// sums[b] = sum over block b of exp((x - max) / temperature), in float64; returns the sum over all blocks. Terms
// below exp(-50) of the best token's, less than float64 can tell at any vocabulary, may be taken as 0.
double exp_sums(const LogitRow& row, double temperature, double* sums);
// weights[i] = exp((x[i] - max) / temperature), where that is at least 1e-304, else 0.
void exp_weights(const float* x, int64_t count, float max, double temperature, double* weights);

// The k-th highest value counted with repeats, of those above -inf; the lowest float where there are no k of them.
float kth_highest(const LogitRow& row, int64_t k, std::vector<float>& buffer);
// Ids of the tokens with x >= value, ascending. `value` is above -inf.
void collect_at_least(const LogitRow& row, float value, std::vector<int32_t>& ids);
// Place of `token` in the order by descending logit, then ascending id; 1 = first.
int32_t rank_of(const LogitRow& row, int32_t token);

}  // namespace deploykit
