// Random step sequences against a plain model of the row table: what is sound is taken, what is not changes nothing.
#include <map>
#include <random>

#include "check.h"
#include "core/rows.h"
#include "deploykit/error.h"

using namespace deploykit;

namespace {

constexpr RowTable::Shape kShape{4, 40, 8, 100, 24};

struct Use {
  int32_t epoch = 0, computed = 0;
  std::vector<int32_t> tokens, blocks;
};
using Model = std::map<int32_t, Use>;

Admit admit(int32_t row, int32_t epoch, std::vector<int32_t> tokens, int32_t computed = 0) {
  Admit a;
  a.row = row;
  a.epoch = epoch;
  a.prompt_len = static_cast<int32_t>(tokens.size());
  a.tokens = std::move(tokens);
  a.computed = computed;
  a.limit = 30;
  return a;
}

// The step's effect on the model; false where it must be refused.
bool apply(Model& model, const Step& step) {
  const Model before = model;
  const auto row_exists = [](int32_t row) { return row >= 0 && row < kShape.max_rows; };
  const auto sound = [&] {
    for (int32_t row : step.rows) {
      if (!row_exists(row)) return false;
    }
    for (const Release& r : step.releases) {
      if (!row_exists(r.row)) return false;
      if (model.count(r.row) != 0 && model[r.row].epoch == r.epoch) model.erase(r.row);
    }
    for (const Admit& a : step.admits) {
      const auto known = static_cast<int32_t>(a.tokens.size());
      if (!row_exists(a.row) || model.count(a.row) != 0) return false;
      if (known < 1 || known > kShape.session_len || a.computed < 0 || a.computed >= known) return false;
      model[a.row] = {a.epoch, a.computed, a.tokens, {}};
    }
    for (const Extend& e : step.extends) {
      if (!row_exists(e.row) || e.group != 0) return false;
      for (int32_t block : e.blocks) {
        if (block < 0 || block >= kShape.num_blocks) return false;
      }
      if (model.count(e.row) == 0 || model[e.row].epoch != e.epoch) continue;
      std::vector<int32_t>& table = model[e.row].blocks;
      table.insert(table.end(), e.blocks.begin(), e.blocks.end());
      if (table.size() > 5) return false;  // 40 tokens in blocks of 8
    }
    for (const Copy& c : step.copies) {
      if (c.src < 0 || c.src >= kShape.num_blocks || c.dst < 0 || c.dst >= kShape.num_blocks) return false;
    }
    return step.trims.empty();
  };
  if (sound()) return true;
  model = before;
  return false;
}

void check_same(RowTable& table, const Model& model) {
  for (int32_t row = 0; row < kShape.max_rows; ++row) {
    const auto found = model.find(row);
    CHECK(table.row(row).used == (found != model.end()));
    if (found == model.end()) continue;
    const Use& use = found->second;
    CHECK(table.find(row, use.epoch) != nullptr);
    CHECK(table.find(row, use.epoch + 1) == nullptr);
    CHECK_EQ(table.row(row).known, static_cast<int32_t>(use.tokens.size()));
    CHECK_EQ(table.row(row).computed, use.computed);
    CHECK_EQ(table.row(row).num_blocks, static_cast<int32_t>(use.blocks.size()));
    CHECK(std::equal(use.tokens.begin(), use.tokens.end(), table.tokens(row)));
    CHECK(std::equal(use.blocks.begin(), use.blocks.end(), table.blocks(row)));
  }
}

class Steps {
 public:
  explicit Steps(uint32_t seed) : random_(seed) {}

  Step next() {
    Step step;
    for (int n = below(3); n > 0; --n) step.releases.push_back({row(), epoch()});
    for (int n = below(3); n > 0; --n) {
      std::vector<int32_t> tokens(static_cast<size_t>(rare() ? below(60) : 1 + below(40)));
      for (int32_t& token : tokens) token = below(kShape.vocab);
      const int32_t known = static_cast<int32_t>(tokens.size());
      step.admits.push_back(admit(row(), epoch(), std::move(tokens), rare() ? below(50) - 5 : below(known + 1)));
    }
    for (int n = below(3); n > 0; --n) {
      std::vector<int32_t> blocks(static_cast<size_t>(below(4)));
      for (int32_t& block : blocks) block = rare() ? below(60) - 30 : below(static_cast<int>(kShape.num_blocks));
      step.extends.push_back({row(), epoch(), rare() ? below(3) - 1 : 0, std::move(blocks)});
    }
    if (rare()) step.trims.push_back({row(), epoch(), 0, 1});
    if (rare()) step.copies.push_back({below(30), below(30)});
    if (rare()) step.rows.push_back(below(9) - 2);
    step.epochs = step.num_tokens = step.flags = std::vector<int32_t>(step.rows.size());
    return step;
  }

 private:
  int below(int n) { return n <= 0 ? 0 : static_cast<int>(random_() % static_cast<uint32_t>(n)); }
  bool rare() { return below(25) == 0; }
  int32_t row() { return rare() ? below(12) - 4 : below(4); }
  int32_t epoch() { return below(3); }
  std::mt19937 random_;
};

Row admitted(const Admit& a) {
  RowTable table(kShape);
  Step step;
  step.admits.push_back(a);
  table.apply(step);
  return table.row(a.row);
}

}  // namespace

TEST(random_steps) {
  int taken = 0, refused = 0;
  for (uint32_t seed = 0; seed < 30; ++seed) {
    RowTable table(kShape);
    Model model;
    Steps steps(seed);
    for (int i = 0; i < 200; ++i) {
      const Step step = steps.next();
      const bool sound = apply(model, step);
      bool accepted = true;
      try {
        table.apply(step);
      } catch (const Error& error) {
        CHECK_EQ(error.code(), "invalid");
        accepted = false;
      }
      CHECK(accepted == sound);
      check_same(table, model);
      ++(sound ? taken : refused);
    }
  }
  CHECK(taken > 1000 && refused > 1000);  // both paths were walked
}

TEST(arrays_of_one_length_and_rows_named_once) {
  RowTable table(kShape);
  Step step;
  step.rows = {0, 1};
  step.epochs = step.num_tokens = {1, 1};
  CHECK_THROWS(table.apply(step), "invalid");
  step.flags = {1, 1};
  table.apply(step);
  step.rows = {1, 1};
  CHECK_THROWS(table.apply(step), "invalid");
  step.rows = {1, INT32_MIN};
  CHECK_THROWS(table.apply(step), "invalid");
  step.rows = {0, 1};
  step.iterations = 0;
  CHECK_THROWS(table.apply(step), "invalid");
}

TEST(requests_that_fail_their_row) {
  Admit sound = admit(0, 1, {1, 2, 3});
  CHECK(!admitted(sound).failed());
  const auto code = [&](auto change) {
    Admit a = sound;
    change(a);
    return admitted(a).fail_code;
  };
  CHECK_EQ(code([](Admit& a) { a.tokens[1] = 100; }), "invalid");
  CHECK_EQ(code([](Admit& a) { a.tokens[1] = -1; }), "invalid");
  CHECK_EQ(code([](Admit& a) { a.prompt_len = 0; }), "invalid");
  CHECK_EQ(code([](Admit& a) { a.prompt_len = 4; }), "invalid");
  CHECK_EQ(code([](Admit& a) { a.adapter = "x"; }), "unsupported");
  CHECK_EQ(code([](Admit& a) { a.grammar = 0; }), "unsupported");
  CHECK_EQ(code([](Admit& a) { a.positions = {0, 1}; }), "invalid");
  CHECK_EQ(code([](Admit& a) { a.positions = {0, 1, 40}; }), "invalid");
  CHECK_EQ(code([](Admit& a) { a.positions = {0, 1, 20}; }), "invalid");  // 27 more do not fit in the session
  CHECK_EQ(code([](Admit& a) { a.positions = {0, 1, 2, 0, 1, 2, 0, 1, 2}; }), "unsupported");
  CHECK_EQ(code([](Admit& a) { a.spans = {{0, 2, "e", true}}; }), "unsupported");
  CHECK_EQ(code([](Admit& a) { a.spans = {{2, 2, "e", false}}; }), "invalid");
  CHECK_EQ(code([](Admit& a) { a.spans = {{INT32_MAX, INT32_MAX, "e", false}}; }), "invalid");
  CHECK_EQ(code([](Admit& a) { a.spans = {{0, 2, "e", false}, {1, 1, "e", false}}; }), "invalid");
  CHECK_EQ(code([](Admit& a) { a.sampling.temperature = NAN; }), "invalid");
  CHECK_EQ(code([](Admit& a) { a.sampling.top_p = 0; }), "invalid");
  CHECK_EQ(code([](Admit& a) { a.sampling.min_p = -1; }), "invalid");
  CHECK_EQ(code([](Admit& a) { a.sampling.repetition_penalty = 0; }), "invalid");
  CHECK_EQ(code([](Admit& a) { a.sampling.frequency_penalty = INFINITY; }), "invalid");
}

TEST(positions_go_on_after_those_that_were_given) {
  Admit a = admit(0, 1, {1, 2, 3});
  a.positions = {0, 5, 6};
  const Row row = admitted(a);
  RowTable table(kShape);
  CHECK(!row.failed());
  CHECK_EQ(table.position(row, 1), 5);
  CHECK_EQ(table.position(row, 2), 6);
  CHECK_EQ(table.position(row, 4), 8);
}

TEST(fresh_blocks_are_those_behind_the_prefix) {
  RowTable table(kShape);
  Step step;
  step.admits.push_back(admit(0, 1, std::vector<int32_t>(20, 1), 16));
  step.extends.push_back({0, 1, 0, {3, 4, 5, 6}});
  table.apply(step);
  CHECK((table.fresh_blocks() == std::vector<int32_t>{5, 6}));
}

CHECK_MAIN
