// Every shape of model against plain loops in float64.
#include "check.h"
#include "cpu/isa.h"
#include "driver.h"
#include "shapes.h"

using namespace deploykit;

namespace {

// The largest distance of any token's logits: prefill of 40 tokens, then 3 steps of one token.
double worst(const reference::Model& model, const EngineOptions& options) {
  const std::vector<int32_t> all = driver::tokens(43, model.description.vocab, 7);
  const reference::Result should = reference::run(model, all);
  const auto forward = driver::create(model, options);
  driver::Rows rows(*forward, 4);
  std::vector<std::vector<float>> is = rows.step({{0, {all.begin(), all.begin() + 40}, true}});
  for (size_t t = 40; t < all.size(); ++t) is.push_back(rows.step({{0, {all[t]}, true}})[0]);
  double most = 0;
  for (size_t t = 0; t < all.size(); ++t) {
    const double distance = driver::distance(is[t], should.logits[t]);
    if (!(distance <= most)) most = distance;  // a NaN stays
  }
  return most;
}

}  // namespace

TEST(float32_is_the_reference) {
  for (const auto& [name, description] : shapes::all()) {
    const double most = worst(reference::random_model(description, WeightFormat::f32, 3), driver::options());
    if (!(most < 1e-5)) check::fail(__FILE__, __LINE__, name + ": off by " + check::text(most));
  }
}

TEST(float32_with_every_instruction_set) {
  const reference::Model model = reference::random_model(shapes::gemma(), WeightFormat::f32, 4);
  for (const cpu::Isa isa : cpu::available_isas()) {
    EngineOptions options = driver::options();
    options.isa = cpu::isa_name(isa);
    CHECK_NEAR(worst(model, options), 0.0, 1e-5);
  }
}

TEST(bfloat16_comes_near) {
  for (const auto& [name, description] : shapes::all()) {
    const double most = worst(reference::random_model(description, WeightFormat::bf16, 3),
                              driver::options(DType::bf16, KvType::bf16));
    // A token near the border between two experts may take the other one.
    const double limit = name == "experts" || name == "softmax" || name == "sigmoid" ? 0.5 : 0.05;
    if (!(most < limit)) check::fail(__FILE__, __LINE__, name + ": off by " + check::text(most));
  }
}

TEST(quantized_weights_in_float32_are_exact) {
  for (const WeightFormat format : {WeightFormat::q4_1, WeightFormat::q8_0}) {
    for (const auto& description : {shapes::llama(), shapes::tied(), shapes::experts()}) {
      const reference::Model model = reference::random_model(description, format, 5, WeightFormat::q8_0);
      CHECK_NEAR(worst(model, driver::options()), 0.0, 1e-5);
    }
  }
}

TEST(quantized_weights_with_int8_activations_come_near) {
  for (const auto& description : {shapes::llama(), shapes::tied()}) {
    const reference::Model model = reference::random_model(description, WeightFormat::q4_1, 5, WeightFormat::q8_0);
    CHECK_NEAR(worst(model, driver::options(DType::bf16, KvType::bf16)), 0.0, 0.1);
  }
}

TEST(long_prompts_take_both_routes) {
  // 300 tokens go by rows with one thread and with two, and by columns where the model has experts.
  for (const auto& description : {shapes::gemma(), shapes::experts(true)}) {
    const reference::Model model = reference::random_model(description, WeightFormat::f32, 6);
    const std::vector<int32_t> all = driver::tokens(300, description.vocab, 8);
    const reference::Result should = reference::run(model, all);
    for (const int32_t threads : {1, 2, 3}) {
      const auto forward = driver::create(model, driver::options(DType::f32, KvType::f32, threads));
      driver::Rows rows(*forward, 20);
      const auto is = rows.step({{0, all, true}});
      double most = 0;
      for (size_t t = 0; t < all.size(); ++t) most = std::max(most, driver::distance(is[t], should.logits[t]));
      CHECK_NEAR(most, 0.0, 1e-5);
    }
  }
}

TEST(given_embeddings_replace_the_table) {
  const reference::Model model = reference::random_model(shapes::tied(), WeightFormat::f32, 9);
  const std::vector<int32_t> all = driver::tokens(12, model.description.vocab, 10);
  const auto hidden = static_cast<size_t>(model.description.hidden);
  std::map<size_t, reference::Vec> given;
  std::vector<float> data;
  for (size_t t = 3; t < 6; ++t) {
    for (size_t i = 0; i < hidden; ++i) data.push_back(std::sin(static_cast<float>(t * hidden + i)));
    given[t] = reference::Vec(data.end() - static_cast<std::ptrdiff_t>(hidden), data.end());
  }
  const reference::Result should = reference::run(model, all, given);
  const auto forward = driver::create(model, driver::options());
  driver::Rows rows(*forward, 4);
  const auto is = rows.step({{0, all, true}}, {{3, 3, data.data()}});
  for (size_t t = 0; t < all.size(); ++t) CHECK_NEAR(driver::distance(is[t], should.logits[t]), 0.0, 1e-5);
}

TEST(hidden_states_are_after_the_last_norm) {
  const reference::Model model = reference::random_model(shapes::layer_norm(), WeightFormat::f32, 11);
  const std::vector<int32_t> all = driver::tokens(20, model.description.vocab, 12);
  const reference::Result should = reference::run(model, all);
  const auto forward = driver::create(model, driver::options());
  driver::Rows rows(*forward, 4);
  rows.step({{0, all, false}});
  const float* last = forward->hidden(0);
  CHECK_NEAR(driver::distance({last, last + model.description.hidden}, should.hidden.back()), 0.0, 1e-5);
  CHECK_THROWS(forward->hidden(1), "invalid");
}

CHECK_MAIN
