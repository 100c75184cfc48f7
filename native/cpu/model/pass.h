// One pass: up to pass_tokens tokens of a batch on their way through all layers, and what its stages share.
#pragma once

#include <cstdint>
#include <vector>

#include "core/forward.h"
#include "cpu/attention/attention.h"
#include "cpu/model/profile.h"
#include "cpu/model/program.h"
#include "cpu/model/threads.h"
#include "cpu/model/workspace.h"
#include "cpu/ops/ops.h"

namespace deploykit::cpu {

struct Pass {
  int64_t hidden = 0;               // floats of an embedding
  std::vector<RowSlice> rows;       // `first` counts from the pass's first token
  std::vector<RowSlice> last_rows;  // the wanted tokens as rows, for the last layer's attention
  std::vector<int32_t> tokens, positions;
  std::vector<int32_t> indexes;          // of each token in its row: 0 is the row's first
  std::vector<const float*> embeddings;  // of each token, where they were given; nullptr = the table's
  std::vector<int32_t> wanted;           // tokens of the pass, ascending
  int64_t first_wanted = 0;              // where they stand among the batch's wanted

  int64_t count() const { return static_cast<int64_t>(tokens.size()); }
  // Tokens that nobody wants need the last layer's K and V alone.
  bool compacts() const { return wanted.size() != tokens.size(); }
};

struct Context {
  const Program* program = nullptr;
  const MatmulKernels* matmul = nullptr;
  const OpsKernels* ops = nullptr;
  const AttentionKernels* attention = nullptr;
  const KvLayout* layout = nullptr;
  uint8_t* kv = nullptr;
  ThreadPool* pool = nullptr;
  Workspace* space = nullptr;
  std::vector<RopeCache> ropes;
  std::vector<AttentionPlan> plans;  // as Program::plans
  AttentionPlan last_plan;
  Pass pass;
  Profile* profile = nullptr;

  int64_t hidden() const { return program->model->hidden; }
  float* x(int64_t token) const { return space->x + token * hidden(); }
  float* y(int64_t token) const { return space->y + token * hidden(); }

  void lap(const Worker& worker, Stage stage) const {
    if (profile != nullptr && worker.id == 0) profile->lap(stage);
  }
  // All workers meet, `stage` being done.
  void meet(const Worker& worker, Stage stage) const {
    lap(worker, stage);
    pool->barrier();
    lap(worker, Stage::wait);
  }
};

}  // namespace deploykit::cpu
