// The output head in int8: the reference with its head rounded in the same way, and what can't be made one.
#include <cmath>
#include <limits>

#include "check.h"
#include "cpu/isa.h"
#include "deploykit/error.h"
#include "driver.h"
#include "shapes.h"

using namespace deploykit;

namespace {

constexpr int32_t kTokens = 30;

// The model that an int8 head makes of this one, with a head of its own: what plain loops compute is what is expected.
reference::Model rounded(const reference::Model& model) {
  reference::Model twin = model;
  const reference::Vec table = model[model.description.tied ? "embed.weight" : "head.weight"];
  if (twin.description.tied) {
    reference::Stored head;
    head.spec = model.weights[0].spec;
    head.spec.name = "head.weight";
    twin.weights.push_back(head);
    twin.description.tied = false;
  }
  const auto cols = static_cast<size_t>(model.description.hidden);
  for (reference::Stored& stored : twin.weights) {
    if (stored.spec.name != "head.weight") continue;
    stored.values = table;
    for (size_t row = 0; row < table.size(); row += cols) {
      float largest = 0;
      for (size_t i = 0; i < cols; ++i) largest = std::max(largest, std::fabs(static_cast<float>(table[row + i])));
      const float scale = largest / 127;
      for (size_t i = 0; i < cols; ++i) {
        const float quant = std::nearbyint(static_cast<float>(table[row + i]) / scale);
        stored.values[row + i] = static_cast<double>(scale) * static_cast<double>(quant);
      }
    }
  }
  return twin;
}

double relative(const reference::Model& model) {
  const reference::Vec before = model[model.description.tied ? "embed.weight" : "head.weight"];
  const reference::Vec after = rounded(model)["head.weight"];
  double error = 0, size = 0;
  for (size_t i = 0; i < before.size(); ++i) {
    error += (before[i] - after[i]) * (before[i] - after[i]);
    size += before[i] * before[i];
  }
  return std::sqrt(error / size);
}

double worst(ForwardModel& forward, const reference::Model& expected) {
  const std::vector<int32_t> all = driver::tokens(kTokens, expected.description.vocab, 7);
  const reference::Result should = reference::run(expected, all);
  driver::Rows rows(forward, 4);
  const std::vector<std::vector<float>> is = rows.step({{0, all, true}});
  double most = 0;
  for (size_t t = 0; t < all.size(); ++t) {
    const double distance = driver::distance(is[t], should.logits[t]);
    if (!(distance <= most)) most = distance;
  }
  return most;
}

EngineOptions options(DType dtype = DType::f32, KvType kv = KvType::f32, int32_t threads = 2) {
  EngineOptions o = driver::options(dtype, kv, threads);
  o.int8_head = true;
  return o;
}

std::string fact(const ForwardModel& model, const std::string& key) {
  for (const auto& [name, value] : model.info()) {
    if (name == key) return value;
  }
  return "";
}

}  // namespace

TEST(the_head_is_rounded_and_nothing_else) {
  for (const auto& [name, description] : shapes::all()) {
    const reference::Model model = reference::random_model(description, WeightFormat::f32, 3);
    const auto forward = driver::create(model, options());
    const double most = worst(*forward, rounded(model));
    if (!(most < 1e-5)) check::fail(__FILE__, __LINE__, name + ": off by " + check::text(most));
    CHECK_NEAR(std::stod(fact(*forward, "int8_head_error")) / relative(model), 1.0, 0.01);
  }
}

TEST(any_plain_format_instruction_set_and_number_of_threads) {
  const reference::Model model = reference::random_model(shapes::tied(), WeightFormat::bf16, 4, WeightFormat::bf16);
  for (const cpu::Isa isa : cpu::available_isas()) {
    for (const int32_t threads : {1, 3}) {
      EngineOptions o = options(DType::f32, KvType::f32, threads);
      o.isa = cpu::isa_name(isa);
      CHECK_NEAR(worst(*driver::create(model, o), rounded(model)), 0.0, 1e-5);
    }
  }
}

TEST(with_int8_activations_it_comes_near) {
  const reference::Model model = reference::random_model(shapes::llama(), WeightFormat::bf16, 5, WeightFormat::bf16);
  CHECK_NEAR(worst(*driver::create(model, options(DType::bf16, KvType::bf16)), rounded(model)), 0.0, 0.05);
}

TEST(halves_are_read_as_halves) {
  reference::Model model = reference::random_model(shapes::llama(), WeightFormat::f32, 6);
  for (reference::Stored& stored : model.weights) {
    if (stored.spec.name != "head.weight") continue;
    stored.spec.format = WeightFormat::f16;
    stored.bytes.clear();
    std::mt19937 random(6);
    for (double& value : stored.values) {
      const auto bits = static_cast<uint16_t>((random() & 0x8000u) | (8u + random() % 6u) << 10 | (random() & 1023u));
      stored.bytes.push_back(static_cast<uint8_t>(bits & 255));
      stored.bytes.push_back(static_cast<uint8_t>(bits >> 8));
      value = static_cast<double>(reference::half(bits));
    }
  }
  CHECK_NEAR(worst(*driver::create(model, options()), rounded(model)), 0.0, 1e-5);
}

TEST(its_bytes_are_a_quarter_and_a_copy_where_it_is_tied) {
  const auto bytes = [](const ModelDescription& description, bool int8) {
    EngineOptions o = options();
    o.int8_head = int8;
    return driver::create(reference::random_model(description, WeightFormat::f32, 1), o)->capacity().weight_bytes;
  };
  const auto packed = [](const ModelDescription& d) { return (d.vocab + 15) / 16 * int64_t{16 * d.hidden + 64}; };
  const ModelDescription own = shapes::llama(), tied = shapes::tied();
  const int64_t head = (own.vocab + 15) / 16 * int64_t{64} * own.hidden;
  CHECK_EQ(bytes(own, true), bytes(own, false) - head + packed(own));
  const int64_t copy = bytes(tied, true) - bytes(tied, false);
  CHECK(copy == packed(tied) || copy == packed(tied) + 64);  // the address sanitizer's gap behind every piece
}

TEST(what_it_cant_be_made_of_is_refused) {
  const auto refusal = [](const std::function<void()>& run) -> std::string {
    try {
      run();
    } catch (const Error& error) {
      return error.code() + ": " + error.what();
    }
    return "";
  };
  const auto has = [](const std::string& text, const char* part) { return text.find(part) != std::string::npos; };
  const reference::Model blocks = reference::random_model(shapes::tied(), WeightFormat::f32, 1, WeightFormat::q8_0);
  const std::string stored = refusal([&] { driver::create(blocks, options()); });
  CHECK(has(stored, "unsupported: ") && has(stored, "embed.weight is stored as q8_0"));

  for (const float value : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    reference::Model damaged = reference::random_model(shapes::llama(), WeightFormat::f32, 1);
    for (reference::Stored& stored_head : damaged.weights) {
      if (stored_head.spec.name != "head.weight") continue;
      std::memcpy(stored_head.bytes.data() + static_cast<std::ptrdiff_t>(17 * damaged.description.hidden + 2) * 4, &value, 4);
    }
    const std::string row = refusal([&] { driver::create(damaged, options()); });
    CHECK(has(row, "invalid: ") && has(row, "head.weight: row 17"));
  }
}

TEST(a_row_of_zeros_is_one_of_zeros) {
  reference::Model model = reference::random_model(shapes::llama(), WeightFormat::f32, 1);
  for (reference::Stored& stored : model.weights) {
    if (stored.spec.name == "head.weight") std::memset(stored.bytes.data(), 0, static_cast<size_t>(model.description.hidden) * 4);
  }
  const auto forward = driver::create(model, options());
  driver::Rows rows(*forward, 4);
  const std::vector<float> logits = rows.step({{0, driver::tokens(3, model.description.vocab, 1), false}})[0];
  CHECK_EQ(logits[0], 0.0f);
  CHECK(std::isfinite(logits[1]));
}

CHECK_MAIN
