#include "core/rows.h"

#include <algorithm>
#include <new>

#include "core/sampler.h"
#include "deploykit/error.h"

namespace deploykit {
namespace {

[[noreturn]] void refuse(const std::string& why) { throw Error("invalid", "step: " + why); }

std::string spans_problem(const Admit& a) {
  int64_t end = 0;
  for (const Span& span : a.spans) {
    if (span.bidirectional) return "a span with bidirectional attention";
    if (span.start < end || span.length <= 0 ||
        int64_t{span.start} + span.length > static_cast<int64_t>(a.tokens.size())) {
      return "spans that overlap, are out of order, or lie outside the known tokens";
    }
    end = int64_t{span.start} + span.length;
  }
  return {};
}

std::string positions_problem(const Admit& a, int32_t limit, int32_t session_len) {
  for (int32_t position : a.positions) {
    if (position < 0 || position >= session_len) {
      return "position " + std::to_string(position) + " outside the session of " + std::to_string(session_len);
    }
  }
  const int64_t more = std::max<int64_t>(0, limit - static_cast<int64_t>(a.tokens.size()));
  const int64_t last = int64_t{a.positions.back()} + more;
  return last < session_len ? "" : "positions that run out of the session before the row's limit";
}

// What is wrong with a request by itself, as its row's failure.
void examine(const Admit& a, const RowTable::Shape& shape, Row& row) {
  const auto fail = [&](const char* code, const std::string& reason) {
    if (row.failed()) return;
    row.fail_code = code;
    row.fail_reason = reason;
  };
  const auto known = static_cast<int64_t>(a.tokens.size());
  if (!a.adapter.empty()) fail("unsupported", "the native engine does not serve adapters (LoRA)");
  if (a.grammar >= 0) fail("unsupported", "the native engine does not serve grammars by handle");
  if (a.prompt_len < 1 || a.prompt_len > known) {
    fail("invalid", "a prompt of " + std::to_string(a.prompt_len) + " of " + std::to_string(known) + " known tokens");
  }
  for (int32_t token : a.tokens) {
    if (token < 0 || token >= shape.vocab) {
      fail("invalid",
           "token " + std::to_string(token) + " is outside the vocabulary of " + std::to_string(shape.vocab));
      break;
    }
  }
  if (!a.positions.empty()) {
    if (a.positions.size() != a.tokens.size()) {
      const bool axes = a.positions.size() % a.tokens.size() == 0;
      fail(axes ? "unsupported" : "invalid", axes ? "the native engine does not serve positions of several axes"
                                                  : "positions are not one for every token");
    } else if (const std::string why = positions_problem(a, row.limit, shape.session_len); !why.empty()) {
      fail("invalid", why);
    }
  }
  if (const std::string why = spans_problem(a); !why.empty()) {
    fail(why[0] == 'a' ? "unsupported" : "invalid", "the native engine does not serve " + why);
  }
  if (const std::string why = params_problem(a.sampling); !why.empty()) fail("invalid", why);
}

}  // namespace

LazyInts::LazyInts(int64_t count)
    : data_(static_cast<int32_t*>(std::calloc(static_cast<size_t>(std::max<int64_t>(count, 1)), sizeof(int32_t)))) {
  if (data_ == nullptr) throw std::bad_alloc();
}

RowTable::RowTable(const Shape& shape)
    : shape_(shape),
      blocks_per_row_((shape.session_len - 1) / shape.block_len + 1),
      rows_(static_cast<size_t>(shape.max_rows)),
      tokens_(int64_t{shape.max_rows} * shape.session_len),
      blocks_(int64_t{shape.max_rows} * blocks_per_row_),
      planned_(rows_.size()),
      named_(rows_.size()) {}

int64_t RowTable::bytes() const {
  return int64_t{shape_.max_rows} * (shape_.session_len + blocks_per_row_) * int64_t{sizeof(int32_t)} +
         static_cast<int64_t>(rows_.size() * sizeof(Row));
}

Row* RowTable::find(int32_t index, int32_t epoch) {
  if (index < 0 || index >= shape_.max_rows) return nullptr;
  Row& found = row(index);
  return found.used && found.epoch == epoch ? &found : nullptr;
}

int32_t RowTable::position(const Row& row, int32_t at) const {
  if (row.positions.empty()) return at;
  const auto given = static_cast<int32_t>(row.positions.size());
  return at < given ? row.positions[static_cast<size_t>(at)] : row.positions.back() + (at - given + 1);
}

void RowTable::append(int32_t index, int32_t token) {
  Row& r = row(index);
  if (r.known < shape_.session_len) tokens(index)[r.known++] = token;
}

void RowTable::fail(int32_t index, const std::string& code, const std::string& reason) {
  row(index).fail_code = code;
  row(index).fail_reason = reason;
}

// ---------------------------------------------------------------- checks

void RowTable::in_range(int32_t row, const char* what) const {
  if (row < 0 || row >= shape_.max_rows) {
    refuse(std::string(what) + " names row " + std::to_string(row) + "; there are " + std::to_string(shape_.max_rows));
  }
}

void RowTable::block_exists(int64_t block, const char* what) const {
  if (block < 0 || block >= shape_.num_blocks) {
    refuse(std::string(what) + " names block " + std::to_string(block) + "; there are " +
           std::to_string(shape_.num_blocks));
  }
}

RowTable::Planned& RowTable::planned(int32_t index) {
  Planned& p = planned_[static_cast<size_t>(index)];
  if (p.stamp != stamp_) p = {stamp_, row(index).used, row(index).epoch, row(index).num_blocks};
  return p;
}

void RowTable::check_rows(const Step& step) {
  const size_t n = step.rows.size();
  if (step.epochs.size() != n || step.num_tokens.size() != n || step.flags.size() != n) {
    refuse("rows, epochs, num_tokens and flags have " + std::to_string(n) + ", " + std::to_string(step.epochs.size()) +
           ", " + std::to_string(step.num_tokens.size()) + " and " + std::to_string(step.flags.size()) + " entries");
  }
  if (step.iterations < 1) refuse("iterations is " + std::to_string(step.iterations));
  for (int32_t index : step.rows) {
    in_range(index, "the step");
    uint64_t& named = named_[static_cast<size_t>(index)];
    if (named == stamp_) refuse("row " + std::to_string(index) + " is named twice");
    named = stamp_;
  }
}

void RowTable::check_books(const Step& step) {
  for (const Release& release : step.releases) {
    in_range(release.row, "a release");
    Planned& p = planned(release.row);
    if (p.used && p.epoch == release.epoch) p.used = false;
  }
  for (const Admit& admit : step.admits) {
    in_range(admit.row, "an admit");
    Planned& p = planned(admit.row);
    if (p.used) {
      refuse("row " + std::to_string(admit.row) + " is not free: its use " + std::to_string(p.epoch) + " goes on");
    }
    const auto known = static_cast<int64_t>(admit.tokens.size());
    if (known < 1 || known > shape_.session_len || admit.computed < 0 || admit.computed >= known) {
      refuse("row " + std::to_string(admit.row) + ": " + std::to_string(admit.computed) + " computed of " +
             std::to_string(known) + " known tokens; a session has " + std::to_string(shape_.session_len));
    }
    p = {stamp_, true, admit.epoch, 0};
  }
  for (const Extend& extend : step.extends) {
    in_range(extend.row, "an extend");
    if (extend.group != 0) refuse("group " + std::to_string(extend.group) + " does not exist: there is one, 0");
    for (int32_t block : extend.blocks) block_exists(block, "an extend");
    Planned& p = planned(extend.row);
    if (!p.used || p.epoch != extend.epoch) continue;  // the row is gone; who planned this did not know yet
    p.num_blocks += static_cast<int64_t>(extend.blocks.size());
    if (p.num_blocks > blocks_per_row_) {
      refuse("row " + std::to_string(extend.row) + ": " + std::to_string(p.num_blocks) + " blocks; a session has " +
             std::to_string(blocks_per_row_));
    }
  }
  if (!step.trims.empty()) refuse("a trim: the one group keeps all tokens, it has no window");
  for (const Copy& copy : step.copies) {
    block_exists(copy.src, "a copy");
    block_exists(copy.dst, "a copy");
  }
}

void RowTable::check(const Step& step) {
  ++stamp_;
  check_rows(step);
  check_books(step);
}

// ---------------------------------------------------------------- changes

void RowTable::apply(const Step& step) {
  check(step);
  fresh_.clear();
  for (const Release& release : step.releases) {
    if (Row* found = find(release.row, release.epoch)) *found = Row();
  }
  for (const Admit& a : step.admits) admit(a);
  for (const Extend& e : step.extends) extend(e);
}

void RowTable::admit(const Admit& a) {
  Row& r = row(a.row);
  r = Row();
  r.used = true;
  r.epoch = a.epoch;
  r.known = static_cast<int32_t>(a.tokens.size());
  r.computed = a.computed;
  r.prompt_len = a.prompt_len;
  r.limit = std::min(a.limit, shape_.session_len);
  r.seed = a.seed;
  r.sampling = a.sampling;
  r.eos = a.eos_token_ids;
  r.stop = a.eos_token_ids;
  r.stop.insert(r.stop.end(), a.sampling.stop_token_ids.begin(), a.sampling.stop_token_ids.end());
  std::sort(r.stop.begin(), r.stop.end());
  r.positions = a.positions;
  r.spans = a.spans;
  r.plain = is_plain(a.sampling);
  examine(a, shape_, r);
  std::copy(a.tokens.begin(), a.tokens.end(), tokens(a.row));
}

void RowTable::extend(const Extend& e) {
  Row* r = find(e.row, e.epoch);
  if (r == nullptr) return;
  int32_t* table = blocks_.data() + int64_t{e.row} * blocks_per_row_;
  for (int32_t block : e.blocks) {
    if (int64_t{r->num_blocks} * shape_.block_len >= r->computed) fresh_.push_back(block);
    table[r->num_blocks++] = block;
  }
}

}  // namespace deploykit
