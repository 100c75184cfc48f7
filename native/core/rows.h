// Rows of running requests: token pool, block tables, sampling state. computed <= known <= session_len for each.
//
// Nothing in a step is trusted. What contradicts the books (a row that is not free, a block that does not exist) makes
// the whole step invalid and changes nothing; what is wrong with one request (a token outside the vocabulary, a
// parameter that is no number) is its row's failure, told when the row is asked for work.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "deploykit/step.h"

namespace deploykit {

// int32 memory that costs nothing until it is written: zeros from the operating system.
class LazyInts {
 public:
  explicit LazyInts(int64_t count);
  int32_t* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(int32_t* p) const { std::free(p); }
  };
  std::unique_ptr<int32_t, Free> data_;
};

struct Row {
  bool used = false;
  bool finished = false;
  bool plain = false;  // the argmax of the raw logits is the token, and nothing else is asked
  int32_t epoch = 0;
  int32_t known = 0;
  int32_t computed = 0;
  int32_t num_blocks = 0;
  int32_t prompt_len = 0;
  int32_t limit = 0;
  uint64_t seed = 0;
  SamplingParams sampling;
  std::vector<int32_t> eos;
  std::vector<int32_t> stop;  // ids that end the row, ascending
  std::vector<int32_t> positions;
  std::vector<Span> spans;
  std::string fail_code, fail_reason;  // the row can't be served

  bool failed() const { return !fail_code.empty(); }
};

class RowTable {
 public:
  struct Shape {
    int32_t max_rows = 0, session_len = 0, block_len = 0, vocab = 0;
    int64_t num_blocks = 0;
  };
  explicit RowTable(const Shape& shape);

  // Throws Error("invalid") where the step contradicts the books or itself, and then has changed nothing; else takes
  // its releases, admits, extends and trims. Copies are checked and left to the caller.
  void apply(const Step& step);

  Row& row(int32_t index) { return rows_[static_cast<size_t>(index)]; }
  const Row& row(int32_t index) const { return rows_[static_cast<size_t>(index)]; }
  // The row if it is still in this use, or null.
  Row* find(int32_t index, int32_t epoch);
  int32_t* tokens(int32_t index) const { return tokens_.data() + int64_t{index} * shape_.session_len; }
  const int32_t* blocks(int32_t index) const { return blocks_.data() + int64_t{index} * blocks_per_row_; }
  // Position, for the rotation, of the row's token `at`.
  int32_t position(const Row& row, int32_t at) const;
  // A drawn token becomes known, unless the session is full.
  void append(int32_t index, int32_t token);
  void fail(int32_t index, const std::string& code, const std::string& reason);

  // Blocks that the last apply() gave to rows as fresh memory: they hold nothing that the row will read before it
  // writes there.
  const std::vector<int32_t>& fresh_blocks() const { return fresh_; }
  const Shape& shape() const { return shape_; }
  int64_t bytes() const;

 private:
  void check(const Step& step);
  void check_rows(const Step& step);
  void check_books(const Step& step);
  void admit(const Admit& admit);
  void extend(const Extend& extend);
  void in_range(int32_t row, const char* what) const;
  void block_exists(int64_t block, const char* what) const;

  Shape shape_;
  int32_t blocks_per_row_;
  std::vector<Row> rows_;
  LazyInts tokens_;  // [max_rows, session_len]
  LazyInts blocks_;  // [max_rows, blocks_per_row]
  std::vector<int32_t> fresh_;
  // What check() thinks a row will be after the step so far; valid where mark_ is the current stamp.
  struct Planned {
    uint64_t stamp = 0;
    bool used = false;
    int32_t epoch = 0;
    int64_t num_blocks = 0;
  };
  Planned& planned(int32_t row);
  std::vector<Planned> planned_;
  std::vector<uint64_t> named_;  // by row: the stamp of the step that named it
  uint64_t stamp_ = 0;
};

}  // namespace deploykit
