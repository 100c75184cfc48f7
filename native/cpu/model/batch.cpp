#include "cpu/model/batch.h"

#include <algorithm>
#include <string>

#include "deploykit/error.h"

namespace deploykit::cpu {
namespace {

[[noreturn]] void refuse(const std::string& what) { throw Error("invalid", "batch: " + what); }

void check_slice(const RowSlice& slice, int64_t tokens, const EngineOptions& options) {
  const std::string row = "row " + std::to_string(slice.row);
  if (slice.first < 0 || slice.count <= 0 || int64_t{slice.first} + slice.count > tokens) {
    refuse(row + " has tokens [" + std::to_string(slice.first) + ", +" + std::to_string(slice.count) + ") of " +
           std::to_string(tokens));
  }
  const int64_t end = int64_t{slice.start} + slice.count;
  const int64_t needed = (end + options.block_len - 1) / options.block_len;
  if (slice.start < 0 || slice.num_blocks < needed || slice.blocks == nullptr) {
    refuse(row + " has " + std::to_string(slice.num_blocks) + " KV blocks for " + std::to_string(end) + " tokens");
  }
  for (int64_t i = 0; i < needed; ++i) {
    if (slice.blocks[i] < 0 || slice.blocks[i] >= options.num_blocks) {
      refuse(row + " names KV block " + std::to_string(slice.blocks[i]) + " of " + std::to_string(options.num_blocks));
    }
  }
}

}  // namespace

void check_batch(const Batch& batch, const ModelDescription& model, const EngineOptions& options) {
  const auto tokens = static_cast<int64_t>(batch.tokens.size());
  if (tokens == 0 || tokens > options.max_step_tokens) {
    refuse(std::to_string(tokens) + " tokens; a step takes 1 to " + std::to_string(options.max_step_tokens));
  }
  if (batch.positions.size() != batch.tokens.size()) refuse("as many positions as tokens are needed");
  for (int32_t token : batch.tokens) {
    if (token < 0 || token >= model.vocab) refuse("token " + std::to_string(token) + " is not in the vocabulary");
  }
  for (int32_t position : batch.positions) {
    if (position < 0 || position >= options.session_len) {
      refuse("position " + std::to_string(position) + " is outside a session of " +
             std::to_string(options.session_len));
    }
  }
  int64_t next = 0;
  for (const RowSlice& slice : batch.rows) {
    check_slice(slice, tokens, options);
    if (slice.first != next) refuse("rows must hold all tokens, one after the other");
    next += slice.count;
  }
  if (next != tokens) refuse("rows must hold all tokens, one after the other");
  for (const EmbeddingSlice& given : batch.embeddings) {
    if (given.first < 0 || given.count < 0 || int64_t{given.first} + given.count > tokens || given.data == nullptr) {
      refuse("embeddings for tokens [" + std::to_string(given.first) + ", +" + std::to_string(given.count) + ") of " +
             std::to_string(tokens));
    }
  }
  int64_t before = -1;
  for (int32_t wanted : batch.wanted) {
    if (wanted <= before || wanted >= tokens) refuse("wanted tokens must ascend and be of the batch");
    before = wanted;
  }
}

void make_pass(const Batch& batch, int64_t first, int64_t count, Pass& pass) {
  const int64_t end = first + count;
  pass.tokens.assign(batch.tokens.begin() + first, batch.tokens.begin() + end);
  pass.positions.assign(batch.positions.begin() + first, batch.positions.begin() + end);
  pass.rows.clear();
  pass.indexes.clear();
  for (const RowSlice& slice : batch.rows) {
    const int64_t from = std::max<int64_t>(slice.first, first);
    const int64_t to = std::min<int64_t>(int64_t{slice.first} + slice.count, end);
    if (from >= to) continue;
    RowSlice part = slice;
    part.first = static_cast<int32_t>(from - first);
    part.count = static_cast<int32_t>(to - from);
    part.start = static_cast<int32_t>(slice.start + (from - slice.first));
    pass.rows.push_back(part);
    for (int32_t i = 0; i < part.count; ++i) pass.indexes.push_back(part.start + i);
  }
  pass.embeddings.assign(static_cast<size_t>(count), nullptr);
  for (const EmbeddingSlice& given : batch.embeddings) {
    const int64_t to = std::min<int64_t>(int64_t{given.first} + given.count, end);
    for (int64_t t = std::max<int64_t>(given.first, first); t < to; ++t) {
      pass.embeddings[static_cast<size_t>(t - first)] = given.data + (t - given.first) * pass.hidden;
    }
  }
  const auto low = std::lower_bound(batch.wanted.begin(), batch.wanted.end(), first);
  const auto high = std::lower_bound(low, batch.wanted.end(), end);
  pass.first_wanted = low - batch.wanted.begin();
  pass.wanted.assign(low, high);
  for (int32_t& wanted : pass.wanted) wanted -= static_cast<int32_t>(first);

  // Runs of wanted tokens of one row, at the places that they have once the others are gone.
  pass.last_rows.clear();
  size_t slice = 0;
  int32_t before = -2;
  for (size_t i = 0; i < pass.wanted.size(); ++i) {
    const int32_t token = pass.wanted[i];
    const size_t of_before = slice;
    while (token >= pass.rows[slice].first + pass.rows[slice].count) ++slice;
    if (token == before + 1 && slice == of_before) {
      ++pass.last_rows.back().count;
    } else {
      RowSlice run = pass.rows[slice];
      run.start += token - run.first;
      run.first = static_cast<int32_t>(i);
      run.count = 1;
      pass.last_rows.push_back(run);
    }
    before = token;
  }
}

}  // namespace deploykit::cpu
