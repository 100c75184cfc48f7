// What is wrong with a row is its own failure, what is wrong with a step changes nothing, and nothing corrupts memory.
#include <set>

#include "deploykit/engine.h"
#include "host_driver.h"

using namespace deploykit;

namespace {

// A null model that computes no numbers after token 77, and notes which blocks were scrubbed.
class Poisoned : public NullModel {
 public:
  explicit Poisoned(std::multiset<int32_t>& scrubbed)
      : NullModel(kHidden, kVocab, kBlockLen, kBlocks), scrubbed_(scrubbed) {}

  void forward(const Batch& batch) override {
    NullModel::forward(batch);
    bad_.clear();
    for (int32_t index : batch.wanted) {
      for (const RowSlice& slice : batch.rows) {
        if (index < slice.first || index >= slice.first + slice.count) continue;
        const auto begin = batch.tokens.begin() + slice.first;
        bad_.push_back(std::find(begin, batch.tokens.begin() + index + 1, 77) != batch.tokens.begin() + index + 1);
      }
    }
  }
  void logits(int64_t first, int64_t count, float* out) override {
    NullModel::logits(first, count, out);
    for (int64_t i = 0; i < count; ++i) {
      if (bad_[static_cast<size_t>(first + i)]) out[i * kVocab + 5] = NAN;
    }
  }
  void scrub_block(int32_t block) override {
    NullModel::scrub_block(block);
    scrubbed_.insert(block);
  }

 private:
  std::multiset<int32_t>& scrubbed_;
  std::vector<bool> bad_;
};

class Failing : public NullModel {
 public:
  Failing() : NullModel(kHidden, kVocab, kBlockLen, kBlocks) {}
  void forward(const Batch& batch) override {
    if (batch.tokens.size() == 13) throw std::runtime_error("the device is gone");
    NullModel::forward(batch);
  }
};

// The code of the one row's failure after a change to a sound step.
template <class F>
std::string failure(F change) {
  Driver driver;
  Seq s = sequence(prompt(6), 2);
  driver.admit(s, 0);
  Step step = driver.plan({{&s, 6}});
  change(step);
  driver.engine().launch(step);
  driver.engine().sample(step.seq, {});
  const StepResult result = driver.engine().collect(step.seq);
  CHECK(result.tokens.empty());
  return result.failures.empty() ? "" : result.failures[0].code;
}

std::vector<int32_t> without_77(int32_t length, uint32_t salt) {
  std::vector<int32_t> tokens = prompt(length, salt);
  for (int32_t& token : tokens) token = token == 77 ? 78 : token;
  return tokens;
}

}  // namespace

TEST(failures_by_row) {
  CHECK_EQ(failure([](Step& s) { s.epochs[0] += 1; }), "internal");
  CHECK_EQ(failure([](Step& s) { s.num_tokens[0] = 0; }), "internal");
  CHECK_EQ(failure([](Step& s) { s.num_tokens[0] = INT32_MIN; }), "internal");
  CHECK_EQ(failure([](Step& s) { s.num_tokens[0] = 5; }), "internal");  // wants a token before its last known one
  CHECK_EQ(failure([](Step& s) { s.extends.clear(); }), "internal");
  CHECK_EQ(failure([](Step& s) { s.flags[0] = 64 | kWantSample; }), "invalid");
  CHECK_EQ(failure([](Step& s) { s.flags[0] = kWantSample | kWantDeferred; }), "invalid");
  CHECK_EQ(failure([](Step& s) { s.admits[0].limit = 6; }), "invalid");
  CHECK_EQ(failure([](Step& s) { s.admits[0].limit = INT32_MIN; }), "invalid");
  CHECK_EQ(failure([](Step& s) { s.admits[0].tokens[3] = kVocab; }), "invalid");
  CHECK_EQ(failure([](Step& s) { s.admits[0].sampling.logit_bias = {{kVocab, 1.0f}}; }), "invalid");
  CHECK_EQ(failure([](Step& s) { s.admits[0].sampling.logit_bias = {{3, INFINITY}}; }), "nonfinite_logits");
  CHECK_EQ(failure([](Step& s) { s.admits[0].sampling.temperature = -1; }), "invalid");
  CHECK_EQ(failure([](Step& s) { s.admits[0].adapter = "lora"; }), "unsupported");
  CHECK_EQ(failure([](Step& s) { s.flags[0] = kWantNone; }), "");
}

TEST(more_tokens_than_are_known_are_an_upper_bound) {
  Driver driver;
  Seq s = sequence(prompt(6), 2);
  driver.admit(s, 0);
  Step step = driver.plan({{&s, 6}});
  step.num_tokens[0] = INT32_MAX;
  CHECK_EQ(driver.run(step, {{&s, 6}}).tokens.size(), size_t{1});
}

TEST(a_failed_row_stays_failed_until_it_is_released) {
  Driver driver;
  Seq bad = sequence(prompt(6)), good = sequence(prompt(9));
  bad.admit.sampling.logit_bias = {{-1, 1.0f}};
  driver.admit(bad, 0);
  driver.admit(good, 1);
  driver.step({{&bad, 6}, {&good, 9}});
  CHECK_EQ(bad.failure, "invalid");
  bad.failure.clear();
  driver.step({{&bad, 1}, {&good, 1}});
  CHECK_EQ(bad.failure, "invalid");
  driver.release(bad);
  Seq next = sequence(prompt(6));
  driver.admit(next, 0);
  driver.finish({&next, &good});
  CHECK(good.outputs == Driver::alone(sequence(prompt(9))));
  CHECK(next.outputs == Driver::alone(sequence(prompt(6))));
}

TEST(deferred_rows_wait_for_their_mask) {
  const size_t words = (kVocab + 31) / 32;
  Driver driver;
  Seq s = sequence(prompt(6)), wrong = sequence(prompt(7)), none = sequence(prompt(8)), plain = sequence(prompt(9));
  int32_t row = 0;
  for (Seq* each : {&s, &wrong, &none, &plain}) driver.admit(*each, row++);
  const std::vector<Driver::Work> work = {
      {&s, 6, kWantDeferred}, {&wrong, 7, kWantDeferred}, {&none, 8, kWantDeferred}, {&plain, 9}};
  Mask only(words, 0u);
  only[2] = 1u << 5;  // token 69
  const std::vector<std::pair<int32_t, Mask>> masks = {
      {0, only}, {1, Mask(words + 1, ~0u)}, {2, Mask(words, 0u)}, {3, only}, {-4, only}, {99, only}};
  Step step = driver.plan(work);
  step.iterations = 3;  // a deferred row draws one token a step
  driver.run(step, work, &masks);
  CHECK((s.outputs == std::vector<int32_t>{69}));
  CHECK_EQ(wrong.failure, "invalid");
  CHECK_EQ(none.failure, "no_token");
  CHECK_EQ(plain.outputs.size(), size_t{3});  // it did not ask for its mask
  Step unreleased = driver.plan({{&s, 1, kWantDeferred}});
  driver.engine().launch(unreleased);
  CHECK_THROWS(driver.engine().sample(unreleased.seq + 1, masks), "invalid");
  CHECK_THROWS(driver.engine().collect(unreleased.seq), "invalid");
}

TEST(numbers_that_are_none_stay_in_their_row) {
  std::multiset<int32_t> scrubbed;
  Driver driver(make_engine(std::make_unique<Poisoned>(scrubbed)));
  Seq bad = sequence(without_77(20, 1)), good = sequence(without_77(20, 2), 3), scored = bad, pooled = bad;
  bad.admit.tokens[15] = 77;
  scored.admit.tokens[15] = 77;
  driver.admit(bad, 0);
  driver.admit(good, 1);
  driver.admit(scored, 2);
  driver.step({{&bad, 20}, {&good, 20}, {&scored, 17, kWantPromptLogprobs}});
  CHECK_EQ(bad.failure, "nonfinite_logits");
  CHECK_EQ(scored.failure, "nonfinite_logits");
  CHECK(good.failure.empty());
  // The blocks are scrubbed before somebody else gets them as new ones, and once.
  const std::set<int32_t> left(bad.blocks.begin(), bad.blocks.end());
  CHECK(scrubbed.empty());
  driver.release(bad);
  driver.release(scored);
  std::vector<Seq> next;
  for (uint32_t i = 0; i < 2; ++i) next.push_back(sequence(without_77(90, 3 + i), 2));
  driver.admit(next[0], 0);
  driver.admit(next[1], 2);
  driver.finish({&next[0], &next[1], &good}, 60);
  Seq last = sequence(without_77(90, 9), 6);
  Seq more[3] = {last, last, last};
  for (int32_t i = 0; i < 3; ++i) driver.admit(more[i], 3 + i);
  driver.finish({&more[0], &more[1], &more[2]}, 40);
  for (int32_t block : left) CHECK(scrubbed.count(block) <= 1);
}

TEST(a_poisoned_block_is_scrubbed_when_it_is_given_away) {
  std::multiset<int32_t> scrubbed;
  auto engine = make_engine(std::make_unique<Poisoned>(scrubbed));
  const auto step = [&](int64_t seq, int32_t row, std::vector<int32_t> tokens, int32_t computed,
                        std::vector<int32_t> blocks) {
    Step s;
    s.seq = seq;
    s.releases = {{row, static_cast<int32_t>(seq) - 1}};
    Admit a = sequence(std::move(tokens)).admit;
    a.row = row;
    a.epoch = static_cast<int32_t>(seq);
    a.computed = computed;
    s.rows = {row};
    s.epochs = {a.epoch};
    s.num_tokens = {100};
    s.flags = {kWantSample};
    s.extends = {{row, a.epoch, 0, std::move(blocks)}};
    s.admits = {std::move(a)};
    engine->launch(s);
    return engine->collect(seq);
  };
  std::vector<int32_t> bad = without_77(20, 1);
  bad[18] = 77;
  CHECK_EQ(step(1, 0, bad, 0, {10, 11, 12}).failures.size(), size_t{1});
  step(2, 0, without_77(20, 1), 16, {10, 11, 13});  // a prefix hit: others may read it too
  CHECK(scrubbed.empty());
  step(3, 0, without_77(20, 2), 0, {12, 11, 14});
  CHECK((scrubbed == std::multiset<int32_t>{11, 12}));
  step(4, 0, without_77(20, 2), 0, {12, 11, 10});
  CHECK((scrubbed == std::multiset<int32_t>{10, 11, 12}));
}

TEST(a_step_that_contradicts_the_books_changes_nothing) {
  Driver driver;
  Seq s = sequence(prompt(6)), other = sequence(prompt(4));
  driver.admit(s, 0);
  driver.step({{&s, 6}});
  driver.admit(other, 0);  // not free
  CHECK_THROWS(driver.engine().launch(driver.plan({{&other, 4}})), "invalid");
  Step bad = driver.plan({{&s, 1}});
  bad.copies = {{0, static_cast<int32_t>(kBlocks)}};
  CHECK_THROWS(driver.engine().launch(bad), "invalid");
  bad.copies.clear();
  bad.extends.push_back({0, s.admit.epoch, 0, {-1}});
  CHECK_THROWS(driver.engine().launch(bad), "invalid");
  driver.finish({&s});
  CHECK(s.outputs == Driver::alone(sequence(prompt(6))));
}

TEST(one_step_at_a_time) {
  Driver driver;
  Seq s = sequence(prompt(6));
  driver.admit(s, 0);
  const Step step = driver.plan({{&s, 6}});
  CHECK_THROWS(driver.engine().collect(step.seq), "invalid");
  driver.engine().launch(step);
  CHECK_THROWS(driver.engine().launch(step), "invalid");
  CHECK_THROWS(driver.engine().collect(step.seq + 1), "invalid");
  driver.engine().forget();
  CHECK_THROWS(driver.engine().collect(step.seq), "invalid");
  driver.release(s);  // the books of a forgotten step stand: its rows are released like any other
  Seq next = sequence(prompt(6));
  driver.admit(next, 0);
  driver.finish({&next});
  CHECK(next.outputs == Driver::alone(sequence(prompt(6))));
}

TEST(a_device_that_fails_fails_the_step) {
  Driver driver(make_engine(std::make_unique<Failing>()));
  Seq s = sequence(prompt(13));
  driver.admit(s, 0);
  const Step step = driver.plan({{&s, 13}});
  driver.engine().launch(step);
  CHECK_THROWS(driver.engine().collect(step.seq), "internal");
  driver.release(s);
  Seq next = sequence(prompt(6));
  driver.admit(next, 0);
  driver.finish({&next});
  CHECK(next.outputs == Driver::alone(sequence(prompt(6))));
}

TEST(more_tokens_than_a_step_may_have) {
  Driver driver;
  Seq a = sequence(prompt(70)), b = sequence(prompt(70, 1));
  driver.admit(a, 0);
  driver.admit(b, 1);
  const Step step = driver.plan({{&a, 70}, {&b, 70}});
  driver.engine().launch(step);
  CHECK_THROWS(driver.engine().collect(step.seq), "invalid");
}

TEST(garbage) {
  // Any numbers in a step: an answer or Error("invalid"), under the sanitizers without a fault.
  std::mt19937 random(1);
  const auto any = [&](int32_t n) -> int32_t {
    const int32_t odd[] = {INT32_MIN, -1, INT32_MAX, 1 << 30};
    return random() % 400 == 0 ? odd[random() % 4] : static_cast<int32_t>(random() % static_cast<uint32_t>(n));
  };
  const auto epoch = [&] { return random() % 10 == 0 ? any(2) : 0; };
  const auto some = [&](int32_t most, int32_t n) {
    std::vector<int32_t> values(random() % static_cast<uint32_t>(most + 1));
    for (int32_t& value : values) value = any(n);
    return values;
  };
  int answered = 0;
  auto engine = make_engine();
  for (int64_t seq = 0; seq < 20000; ++seq) {
    Step s;
    s.seq = seq;
    for (int32_t row = 0; row < 6; ++row) {
      if (random() % 3 != 0) continue;
      s.rows.push_back(random() % 50 == 0 ? any(6) : row);
      s.epochs.push_back(epoch());
      s.num_tokens.push_back(any(20));
      s.flags.push_back(random() % 2 == 0 ? 1 : any(40));
    }
    if (random() % 4 == 0) s.releases.push_back({any(6), epoch()});
    for (uint32_t n = random() % 2; n > 0; --n) {
      Admit a;
      a.row = any(6);
      a.epoch = epoch();
      if (random() % 8 != 0) s.releases.insert(s.releases.end(), {{a.row, 0}, {a.row, 1}});
      a.tokens = some(random() % 2 == 0 ? 6 : kSession, kVocab);
      a.prompt_len = random() % 9 == 0 ? any(20) : 1;
      a.computed = random() % 4 == 0 ? any(8) : 0;
      a.limit = any(100);
      a.sampling.temperature = random() % 2;
      a.sampling.logprobs = random() % 2 == 0 ? -1 : any(5);
      a.sampling.prompt_logprobs = random() % 2 == 0 ? -1 : any(3);
      a.sampling.top_k = any(9);
      a.sampling.frequency_penalty = random() % 4 == 0 ? 0.5f : 0.0f;
      a.sampling.min_tokens = any(3);
      a.sampling.stop_token_ids = some(2, kVocab + 9);
      a.sampling.bad_words = {some(3, kVocab), {}};
      a.eos_token_ids = some(2, kVocab);
      if (random() % 8 == 0) a.positions = some(20, kSession);
      if (random() % 8 == 0) a.spans = {{any(5), any(9), "x", random() % 4 == 0}};
      s.admits.push_back(a);
    }
    for (uint32_t n = random() % 4; n > 0; --n) s.extends.push_back({any(6), epoch(), 0, some(4, kBlocks)});
    if (random() % 9 == 0) s.copies.push_back({any(kBlocks), any(kBlocks)});
    if (random() % 50 == 0) s.trims.push_back({any(6), epoch(), any(2), any(4)});
    s.iterations = random() % 3 == 0 ? any(5) : 1;
    try {
      engine->launch(s);
      std::vector<std::pair<int32_t, Mask>> masks;
      if (random() % 2 == 0) masks.push_back({any(6), Mask(random() % 12, static_cast<uint32_t>(random()))});
      if (random() % 4 != 0) engine->sample(seq, masks);
      const StepResult result = engine->collect(seq);
      CHECK_EQ(result.offsets.size(), s.rows.size() + 1);
      for (int32_t token : result.tokens) CHECK(token >= 0 && token < kVocab);
      answered += !result.tokens.empty();
    } catch (const Error& error) {
      CHECK_EQ(error.code(), "invalid");
      engine->forget();
    }
  }
  CHECK(answered > 500);  // and enough of it is sound
}

TEST(options_that_no_engine_has) {
  ModelDescription m;
  m.hidden = kHidden;
  m.vocab = kVocab;
  m.layers.resize(1);
  m.layers[0].attention = {1, 1, 8, 1.0f, -1, 0, 0.0f, QkNorm::none, false, false, false, 0};
  m.layers[0].mlp.intermediate = 8;
  const auto refused = [&](auto change) {
    EngineOptions o = null_options();
    change(o);
    CHECK_THROWS(create_engine(m, {}, o), "invalid");
  };
  create_engine(m, {}, null_options())->finish_loading();
  refused([](auto& o) { o.block_len = 12; });
  refused([](auto& o) { o.block_len = 0; });
  refused([](auto& o) { o.num_blocks = 0; });
  refused([](auto& o) { o.num_blocks = int64_t{1} << 40; });
  refused([](auto& o) { o.max_rows = -1; });
  refused([](auto& o) { o.session_len = 0; });
  refused([](auto& o) { o.max_step_tokens = 0; });
  refused([](auto& o) { o.threads = 0; });
  refused([](auto& o) { o.kv = static_cast<KvType>(50); });
  refused([](auto& o) { o.device = static_cast<DeviceKind>(50); });
  CHECK_EQ(kv_block_bytes(m, KvType::f16, 16, DeviceKind::null), 128);
  CHECK_THROWS(kv_block_bytes(m, KvType::f16, 17, DeviceKind::null), "invalid");
  EngineOptions cpu = null_options();
  cpu.device = DeviceKind::cpu;
  CHECK_THROWS(create_engine(m, {}, cpu), "missing");
  CHECK_EQ(abi_version(), DEPLOYKIT_ABI_VERSION);
}

TEST(weights_before_steps) {
  const WeightSpec spec{"extra", WeightFormat::f16, 2, 3, 0};
  const std::vector<char> bytes(12);
  HostEngine engine(std::make_unique<NullModel>(kHidden, kVocab, kBlockLen, kBlocks), kHidden, kVocab, {spec},
                    null_options());
  CHECK_THROWS(engine.launch(Step()), "invalid");
  CHECK_THROWS(engine.finish_loading(), "missing");
  engine.load_weight({spec, bytes.data(), 12, nullptr, 0, nullptr, 0, 0});
  CHECK_THROWS(engine.load_weight({spec, bytes.data(), 12, nullptr, 0, nullptr, 0, 0}), "invalid");
  const Capacity capacity = engine.finish_loading();
  CHECK_EQ(capacity.vocab, kVocab);
  CHECK_EQ(capacity.overlap_depth, 0);
  CHECK_EQ(capacity.block_bytes, kBlockLen * 8);
  CHECK_THROWS(engine.finish_loading(), "invalid");
}

CHECK_MAIN
