// Memory and loading: what is reserved, what is refused, and with which words.
#include <sys/mman.h>

#include "check.h"
#include "cpu/model/arena.h"
#include "deploykit/error.h"
#include "driver.h"
#include "shapes.h"

using namespace deploykit;

namespace {

std::string message(const std::function<void()>& run) {
  try {
    run();
  } catch (const Error& error) {
    return error.code() + ": " + error.what();
  }
  return "";
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// Pages of [data, data + bytes) that are resident.
int64_t resident(const uint8_t* data, int64_t bytes) {
  std::vector<unsigned char> pages(static_cast<size_t>(bytes / 4096 + 1));
  mincore(const_cast<uint8_t*>(data), static_cast<size_t>(bytes), pages.data());
  int64_t count = 0;
  for (const unsigned char page : pages) count += page & 1;
  return count;
}

}  // namespace

TEST(mappings_are_aligned_and_untouched) {
  const cpu::Mapping mapping(int64_t{1} << 33, "a test");
  CHECK_EQ(reinterpret_cast<uintptr_t>(mapping.data()) % static_cast<uintptr_t>(cpu::kHugePage), uintptr_t{0});
  CHECK_EQ(resident(mapping.data(), int64_t{1} << 24), int64_t{0});
  mapping.data()[0] = 1;
  mapping.data()[mapping.bytes() - 1] = 1;
}

TEST(memory_errors_say_how_much) {
  const std::string text = message([] { cpu::Mapping(int64_t{1} << 60, "KV"); });
  CHECK(has(text, "memory: ") && has(text, "KV") && has(text, "1152921504606846976"));
  cpu::Arena arena("weights");
  CHECK_THROWS(arena.reserve(int64_t{1} << 40, int64_t{1} << 40), "memory");
  arena.reserve(INT64_MAX - 100);
  CHECK_THROWS(arena.reserve(200), "memory");
}

TEST(too_many_blocks_are_a_memory_error) {
  const reference::Model model = reference::random_model(shapes::llama(), WeightFormat::f32, 1);
  EngineOptions options = driver::options();
  options.num_blocks = int64_t{1} << 50;
  const std::string text = message([&] { cpu::create_cpu_model(model.description, model.manifest(), options); });
  CHECK(has(text, "memory: ") && has(text, "KV") && has(text, "bytes"));
}

TEST(capacity_counts_bytes) {
  const reference::Model model = reference::random_model(shapes::tied(), WeightFormat::q4_1, 1, WeightFormat::q8_0);
  const EngineOptions options = driver::options(DType::bf16, KvType::bf16);
  const auto forward = driver::create(model, options);
  const Capacity capacity = forward->capacity();
  int64_t stored = 0;
  for (const auto& weight : model.weights) stored += static_cast<int64_t>(weight.bytes.size());
  CHECK(capacity.weight_bytes >= stored && capacity.weight_bytes < stored + stored / 20 + 4096);
  CHECK_EQ(capacity.kv_bytes, capacity.block_bytes * capacity.num_blocks);
  CHECK(capacity.scratch_bytes > 0);
  CHECK_EQ(capacity.vocab, 96);
}

TEST(loading_refuses_by_name) {
  const reference::Model model = reference::random_model(shapes::llama(), WeightFormat::f32, 1);
  const EngineOptions options = driver::options();
  const auto forward = cpu::create_cpu_model(model.description, model.manifest(), options);
  CHECK(has(message([&] { forward->finish_loading(); }), "missing: "));
  reference::Stored q = model.weights[2];
  CHECK_EQ(q.spec.name, "layers.0.q.weight");
  forward->load_weight(reference::tensor(q));
  const std::string twice = message([&] { forward->load_weight(reference::tensor(q)); });
  CHECK(has(twice, "invalid: ") && has(twice, "layers.0.q.weight"));

  reference::Stored k = model.weights[3];
  k.spec.rows += 1;
  CHECK(has(message([&] { forward->load_weight(reference::tensor(k)); }), "layers.0.k.weight"));
  k = model.weights[3];
  k.bytes.pop_back();
  CHECK(has(message([&] { forward->load_weight(reference::tensor(k)); }), "layers.0.k.weight"));
  k = model.weights[3];
  k.spec.name = "layers.0.z.weight";
  const std::string unknown = message([&] { forward->load_weight(reference::tensor(k)); });
  CHECK(has(unknown, "invalid: ") && has(unknown, "layers.0.z.weight"));

  // A refused tensor may be given again as it should be.
  for (const auto& weight : model.weights) {
    if (weight.spec.name != q.spec.name) forward->load_weight(reference::tensor(weight));
  }
  forward->finish_loading();
}

TEST(manifests_are_checked) {
  const reference::Model model = reference::random_model(shapes::llama(), WeightFormat::f32, 1);
  const auto create = [&](std::vector<WeightSpec> manifest, const EngineOptions& options = driver::options()) {
    return message([&] { cpu::create_cpu_model(model.description, manifest, options); });
  };
  std::vector<WeightSpec> manifest = model.manifest();
  manifest.pop_back();
  CHECK(has(create(manifest), "missing: "));
  manifest = model.manifest();
  manifest[2].rows = 3;
  CHECK(has(create(manifest), "layers.0.q.weight"));
  manifest = model.manifest();
  manifest.push_back({"layers.9.q.weight", WeightFormat::f32, 1, 1, 0});
  CHECK(has(create(manifest), "layers.9.q.weight"));
  EngineOptions options = driver::options();
  options.isa = "z80";
  CHECK(has(create(model.manifest(), options), "invalid: "));
  options = driver::options();
  options.threads = 0;
  CHECK(has(create(model.manifest(), options), "threads"));
  options = driver::options();
  options.kv = KvType::fp8;
  CHECK(has(create(model.manifest(), options), "unsupported: "));
}

TEST(batches_that_lead_outside_are_refused) {
  const reference::Model model = reference::random_model(shapes::llama(), WeightFormat::f32, 1);
  const auto forward = driver::create(model, driver::options());
  const std::vector<int32_t> blocks = {0, 1};
  const auto batch = [&] {
    Batch b;
    b.tokens = {1, 2, 3};
    b.positions = {0, 1, 2};
    RowSlice slice;
    slice.count = 3;
    slice.blocks = blocks.data();
    slice.num_blocks = 2;
    b.rows = {slice};
    b.wanted = {2};
    return b;
  };
  forward->forward(batch());
  const auto refused = [&](const std::function<void(Batch&)>& spoil) {
    Batch b = batch();
    spoil(b);
    CHECK_THROWS(forward->forward(b), "invalid");
  };
  refused([](Batch& b) { b.tokens[1] = 77; });
  refused([](Batch& b) { b.tokens[1] = -1; });
  refused([](Batch& b) { b.positions[2] = 1024; });
  refused([](Batch& b) { b.positions.pop_back(); });
  refused([](Batch& b) { b.rows[0].count = 2; });
  refused([](Batch& b) { b.rows[0].count = 4; });
  refused([](Batch& b) { b.rows[0].start = 30; });
  refused([](Batch& b) { b.rows[0].start = -1; });
  refused([](Batch& b) { b.wanted = {3}; });
  refused([](Batch& b) { b.wanted = {1, 1}; });
  const std::vector<int32_t> outside = {96, 1};
  refused([&](Batch& b) { b.rows[0].blocks = outside.data(); });
  std::vector<float> out(77 * 2);
  forward->forward(batch());
  forward->logits(0, 1, out.data());
  CHECK_THROWS(forward->logits(0, 2, out.data()), "invalid");
  CHECK_THROWS(forward->scrub_block(96), "invalid");
  CHECK_THROWS(forward->copy_block(0, -1), "invalid");
}

TEST(vectors_may_be_stored_in_16_bits) {
  ModelDescription description = shapes::biases();
  reference::Model wide = reference::random_model(description, WeightFormat::bf16, 2), narrow = wide;
  for (size_t i = 0; i < wide.weights.size(); ++i) {
    reference::Stored &is = wide.weights[i], &other = narrow.weights[i];
    if (!reference::is_vector(is.spec.name)) continue;
    // The same values twice: as bfloat16, and as float32.
    std::mt19937 random(static_cast<uint32_t>(i));
    other.spec.format = WeightFormat::bf16;
    other.bytes.clear();
    reference::fill(other, 0.2, 0.5, random);
    is.values = other.values;
    for (size_t j = 0; j < is.values.size(); ++j) {
      const auto value = static_cast<float>(is.values[j]);
      std::memcpy(is.bytes.data() + 4 * j, &value, 4);
    }
  }
  const std::vector<int32_t> all = driver::tokens(10, description.vocab, 3);
  const auto run = [&](const reference::Model& model) {
    const auto forward = driver::create(model, driver::options());
    driver::Rows rows(*forward, 4);
    return rows.step({{0, all, false}})[0];
  };
  CHECK(driver::same_bits(run(wide), run(narrow)));
}

CHECK_MAIN
