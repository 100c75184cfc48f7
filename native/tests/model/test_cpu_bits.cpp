// A token's bits do not depend on the batch, on how its row was cut, or on the number of threads.
#include "check.h"
#include "driver.h"
#include "shapes.h"

using namespace deploykit;

namespace {

using Logits = std::vector<std::vector<float>>;

Logits in_chunks(const reference::Model& model, const EngineOptions& options, const std::vector<int32_t>& all,
                 const std::vector<int32_t>& chunks) {
  const auto forward = driver::create(model, options);
  driver::Rows rows(*forward, 40);
  Logits out;
  auto next = all.begin();
  for (size_t i = 0; next != all.end(); ++i) {
    const auto count = std::min<std::ptrdiff_t>(chunks[std::min(i, chunks.size() - 1)], all.end() - next);
    for (auto& row : rows.step({{0, {next, next + count}, true}})) out.push_back(std::move(row));
    next += count;
  }
  return out;
}

void check_same(const Logits& a, const Logits& b, const std::string& what) {
  for (size_t i = 0; i < a.size(); ++i) {
    if (i < b.size() && driver::same_bits(a[i], b[i])) continue;
    return check::fail(__FILE__, __LINE__, what + ": token " + std::to_string(i) + " has other bits");
  }
}

struct Case {
  std::string name;
  reference::Model model;
  EngineOptions options;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const auto& [name, description] : shapes::all()) {
    all.push_back({name + " f32", reference::random_model(description, WeightFormat::f32, 3), driver::options()});
    all.push_back({name + " bf16", reference::random_model(description, WeightFormat::bf16, 3),
                   driver::options(DType::bf16, KvType::bf16)});
  }
  for (const auto& description : {shapes::llama(), shapes::tied(), shapes::experts()}) {
    all.push_back({"q4_1", reference::random_model(description, WeightFormat::q4_1, 3, WeightFormat::q8_0),
                   driver::options(DType::bf16, KvType::int8)});
  }
  return all;
}

}  // namespace

TEST(whole_chunked_and_token_by_token) {
  for (const Case& c : cases()) {
    const std::vector<int32_t> all = driver::tokens(90, c.model.description.vocab, 1);
    const Logits whole = in_chunks(c.model, c.options, all, {90});
    check_same(whole, in_chunks(c.model, c.options, all, {1}), c.name + " token by token");
    check_same(whole, in_chunks(c.model, c.options, all, {33, 2, 5, 16}), c.name + " in chunks");
  }
}

TEST(any_number_of_threads) {
  for (const Case& c : cases()) {
    const std::vector<int32_t> all = driver::tokens(140, c.model.description.vocab, 2);
    const std::vector<int32_t> chunks = {70, 60, 7, 1};
    EngineOptions single = c.options;
    single.threads = 1;
    const Logits one = in_chunks(c.model, single, all, chunks);
    for (const int32_t threads : {2, 3, 4}) {
      EngineOptions options = c.options;
      options.threads = threads;
      const std::string what = c.name + " with " + std::to_string(threads) + " threads";
      check_same(one, in_chunks(c.model, options, all, chunks), what);
    }
  }
}

TEST(long_prompts_in_several_passes) {
  const reference::Model model = reference::random_model(shapes::gemma(), WeightFormat::bf16, 4);
  const EngineOptions options = driver::options(DType::bf16, KvType::bf16);
  const std::vector<int32_t> all = driver::tokens(600, model.description.vocab, 3);  // more than a pass
  check_same(in_chunks(model, options, all, {600}), in_chunks(model, options, all, {100, 13, 64, 1, 2}), "600 tokens");
}

TEST(a_batch_is_many_singles) {
  for (const Case& c : cases()) {
    const int32_t vocab = c.model.description.vocab, count = 9;
    // Alone: each row's prompt of its own length, then three tokens.
    std::vector<std::vector<int32_t>> prompts, outputs;
    std::vector<Logits> alone;
    for (int32_t row = 0; row < count; ++row) {
      prompts.push_back(driver::tokens(3 + 4 * row, vocab, 20 + static_cast<uint32_t>(row)));
      outputs.push_back(driver::tokens(3, vocab, 40 + static_cast<uint32_t>(row)));
      const auto forward = driver::create(c.model, c.options);
      driver::Rows rows(*forward, 5);
      alone.push_back(rows.step({{0, prompts.back(), false}}));
      for (int32_t token : outputs.back()) alone.back().push_back(rows.step({{0, {token}, true}})[0]);
    }
    // Together: prompts of later rows run beside decodes of earlier ones.
    const auto forward = driver::create(c.model, c.options);
    driver::Rows rows(*forward, 5);
    std::vector<Logits> together(static_cast<size_t>(count));
    for (int32_t step = 0; step < count + 3; ++step) {
      std::vector<driver::Rows::Part> parts;
      for (int32_t row = 0; row < count; ++row) {
        const int32_t at = step - row / 2;  // two rows begin at each step
        if (at == 0) parts.push_back({row, prompts[static_cast<size_t>(row)], false});
        const std::vector<int32_t>& output = outputs[static_cast<size_t>(row)];
        if (at >= 1 && at <= 3) parts.push_back({row, {output[static_cast<size_t>(at) - 1]}, true});
      }
      if (parts.empty()) continue;
      const Logits out = rows.step(parts);
      for (size_t i = 0; i < parts.size(); ++i) together[static_cast<size_t>(parts[i].row)].push_back(out[i]);
    }
    for (size_t row = 0; row < alone.size(); ++row) {
      check_same(alone[row], together[row], c.name + " row " + std::to_string(row));
    }
  }
}

TEST(wanted_tokens_do_not_depend_on_the_unwanted) {
  for (const Case& c : cases()) {
    const std::vector<int32_t> all = driver::tokens(100, c.model.description.vocab, 5);
    const Logits every = in_chunks(c.model, c.options, all, {100});
    const auto forward = driver::create(c.model, c.options);
    driver::Rows rows(*forward, 10);
    check_same({every.back()}, rows.step({{0, all, false}}), c.name + " last token alone");
  }
}

TEST(poisoned_blocks_never_leak) {
  const float nan = std::nanf("");
  for (const KvType kv : {KvType::f32, KvType::bf16, KvType::int8}) {
    const reference::Model model = reference::random_model(shapes::gemma(), WeightFormat::f32, 6);
    const EngineOptions options = driver::options(DType::f32, kv);
    const std::vector<int32_t> all = driver::tokens(70, model.description.vocab, 6);
    const Logits clean = in_chunks(model, options, all, {40, 1});

    const auto forward = driver::create(model, options);
    // A row of NaN embeddings fills the blocks that the next row gets.
    std::vector<float> poison(80 * static_cast<size_t>(model.description.hidden), nan);
    driver::Rows poisoned(*forward, 40);
    poisoned.step({{0, driver::tokens(80, model.description.vocab, 7), true}}, {{0, 80, poison.data()}});
    driver::Rows rows(*forward, 40);
    Logits out;
    auto next = all.begin();
    while (next != all.end()) {
      const auto count = next == all.begin() ? 40 : 1;
      for (auto& row : rows.step({{0, {next, next + count}, true}})) out.push_back(std::move(row));
      next += count;
    }
    check_same(clean, out, "after a row of NaN");
  }
}

TEST(copied_blocks_serve_as_well) {
  const reference::Model model = reference::random_model(shapes::llama(), WeightFormat::f32, 8);
  const std::vector<int32_t> all = driver::tokens(60, model.description.vocab, 9);
  const auto forward = driver::create(model, driver::options());
  driver::Rows first(*forward, 4);
  first.step({{0, {all.begin(), all.begin() + 59}, false}});
  const Logits should = first.step({{0, {all.back()}, true}});
  // The same row at blocks 40.., without its last token.
  driver::Rows second(*forward, 4, 40);
  second.step({{0, {all.begin(), all.begin() + 59}, false}});
  for (int32_t i = 0; i < 4; ++i) {
    forward->scrub_block(40 + i);
    forward->copy_block(i, 40 + i);
  }
  check_same(should, second.step({{0, {all.back()}, true}}), "copied");
}

CHECK_MAIN
