// A token's result is the same bits in a prefill chunk, as a decode step, alone or in a batch, for any number of
// threads; and nothing but a row's own visible keys can reach it.
#include "attention/fixture.h"
#include "check.h"

using namespace fixture;

namespace {

using Outputs = std::vector<std::vector<float>>;  // by row: [length, width]

void take(const Rows& rows, const std::vector<Rows::Piece>& pieces, const std::vector<float>& out, Outputs& into) {
  size_t at = 0;
  for (const Rows::Piece& piece : pieces) {
    std::vector<float>& to = into[static_cast<size_t>(piece.row)];
    const size_t n = static_cast<size_t>(piece.count) * rows.width();
    std::copy(out.begin() + static_cast<long>(at), out.begin() + static_cast<long>(at + n),
              to.begin() + static_cast<long>(static_cast<size_t>(piece.start) * rows.width()));
    at += n;
  }
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void check_bits(const Shape& shape, std::vector<int32_t> lengths, const char* what) {
  for (Isa isa : available_isas()) {
    const AttentionKernels& kernels = attention_kernels(isa);
    Rows rows(shape, lengths, 11);
    const size_t count = lengths.size();
    auto blank = [&] {
      Outputs all;
      for (int32_t n : lengths) all.emplace_back(static_cast<size_t>(n) * rows.width());
      return all;
    };
    // Each row alone, whole.
    Outputs whole = blank();
    for (size_t row = 0; row < count; ++row) {
      const std::vector<Rows::Piece> pieces = {{static_cast<int32_t>(row), 0, lengths[row]}};
      take(rows, pieces, rows.step(kernels, pieces), whole);
    }
    bool finite = true;
    for (const auto& row : whole) {
      for (float x : row) finite = finite && std::isfinite(x);
    }
    if (!finite) {
      check::fail(__FILE__, __LINE__, std::string(isa_name(isa)) + " " + kv_name(shape.type) + ": not finite");
    }
    // All rows together in uneven chunks with several threads' plans, after their memory was lost (a preemption).
    Outputs chunked = blank();
    rows.poison();
    std::mt19937 random(5);
    std::vector<int32_t> done(count, 0);
    for (int step = 0;; ++step) {
      std::vector<Rows::Piece> pieces;
      for (size_t row = 0; row < count; ++row) {
        const int32_t left = lengths[row] - done[row];
        if (left == 0) continue;
        const int32_t n = std::min<int32_t>(left, 1 + static_cast<int32_t>(random() % 97) * (step % 3 == 0 ? 0 : 1));
        pieces.push_back({static_cast<int32_t>(row), done[row], n});
        done[row] += n;
      }
      if (pieces.empty()) break;
      take(rows, pieces, rows.step(kernels, pieces, 1 + step % 4, step % 2 == 1), chunked);
    }
    // The last tokens one at a time, split over the threads as far as it goes.
    Outputs decoded = whole;
    for (int32_t back = 9; back >= 1; --back) {
      std::vector<Rows::Piece> pieces;
      for (size_t row = 0; row < count; ++row) {
        if (lengths[row] >= back) pieces.push_back({static_cast<int32_t>(row), lengths[row] - back, 1});
      }
      take(rows, pieces, rows.step(kernels, pieces, back % 2 == 0 ? 64 : 1), decoded);
    }
    for (size_t row = 0; row < count; ++row) {
      if (!same_bits(whole[row], chunked[row]) || !same_bits(whole[row], decoded[row])) {
        check::fail(__FILE__, __LINE__, std::string(isa_name(isa)) + " " + kv_name(shape.type) + " " + what + ": row " +
                                            std::to_string(row) + " differs");
      }
    }
  }
}

}  // namespace

TEST(chunks_steps_batches_and_threads_give_the_same_bits) {
  for (KvType type : kv_types()) {
    Shape shape;
    shape.type = type;
    shape.heads = 6;
    shape.kv_heads = 2;
    check_bits(shape, {700, 33, 1, 257}, "plain");
    shape.head_dim = 80;
    shape.heads = 8;
    shape.block_len = 8;
    check_bits(shape, {300, 40}, "head_dim 80, block_len 8");
    shape.head_dim = 128;
    shape.heads = 2;
    shape.block_len = 16;
    shape.window = 130;
    shape.softcap = 5.0f;
    shape.sinks = true;
    check_bits(shape, {600, 12}, "window, softcap, sinks");
  }
}

TEST(threads_that_share_a_split_row_give_the_same_bits) {
  for (Isa isa : available_isas()) {
    const AttentionKernels& kernels = attention_kernels(isa);
    for (KvType type : {KvType::bf16, KvType::int8}) {
      Shape shape;
      shape.type = type;
      shape.heads = 6;
      shape.kv_heads = 2;
      shape.block_len = 16;
      Rows rows(shape, {1500, 40}, 8);
      rows.step(kernels, {{0, 0, 1499}, {1, 0, 39}});
      const std::vector<Rows::Piece> last = {{0, 1499, 1}, {1, 39, 1}};
      const std::vector<float> alone = rows.step(kernels, last);
      rows.run_in_threads = true;
      for (int repeat = 0; repeat < 5; ++repeat) CHECK(same_bits(rows.step(kernels, last, 4), alone));
    }
  }
}

TEST(other_rows_and_lost_blocks_never_reach_a_result) {
  for (Isa isa : available_isas()) {
    const AttentionKernels& kernels = attention_kernels(isa);
    for (KvType type : kv_types()) {
      // A row of NaN in the batch, and blocks before the window that are gone.
      Shape shape;
      shape.type = type;
      shape.window = 20;
      shape.block_len = 8;
      Rows rows(shape, {45, 30}, 2);
      for (float& x : rows.keys(1)) x = std::nanf("");
      for (float& x : rows.values(1)) x = std::nanf("");
      rows.step(kernels, {{0, 0, 44}, {1, 0, 29}});
      const std::vector<float> before = rows.step(kernels, {{0, 44, 1}});
      for (size_t block = 0; (block + 1) * 8 <= 45 - 20; ++block) rows.lose_block(0, block);
      const std::vector<float> after = rows.step(kernels, {{1, 29, 1}, {0, 44, 1}});
      bool nan = true, finite = true;
      for (size_t i = 0; i < rows.width(); ++i) {
        nan = nan && std::isnan(after[i]);  // a NaN is not hidden by its quantization
        finite = finite && std::isfinite(before[i]);
      }
      CHECK(nan);
      CHECK(finite);
      CHECK(std::memcmp(&after[rows.width()], before.data(), rows.width() * sizeof(float)) == 0);
    }
  }
}

TEST(long_rows_are_split_and_their_work_is_balanced) {
  Shape shape;
  shape.heads = 9;
  shape.kv_heads = 3;
  Rows rows(shape, {3000, 10}, 4);
  const AttentionKernels& kernels = attention_kernels(Isa::scalar);
  rows.step(kernels, {{0, 0, 1}, {1, 0, 9}}, 2);
  rows.step(kernels, {{0, 2999, 1}, {1, 9, 1}}, 2);
  const std::vector<AttentionPlan::Unit>& units = rows.plan().list();
  CHECK(units.size() >= 3 * 4 + 3);
  std::vector<int> covered(3 * 12, 0);
  for (const AttentionPlan::Unit& unit : units) {
    if (unit.slice != 0) continue;
    CHECK(unit.merge >= 0);
    for (int32_t span = unit.span0; span < unit.span1; ++span) ++covered[static_cast<size_t>(unit.kv_head * 12 + span)];
  }
  for (int times : covered) CHECK_EQ(times, 1);
}

CHECK_MAIN
