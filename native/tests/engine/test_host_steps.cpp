// What a sequence gives does not depend on batch, chunks, blocks, iterations or preemption.
#include "host_driver.h"

using namespace deploykit;

TEST(chunks_batches_and_preemption) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    std::mt19937 random(seed);
    Driver driver;
    std::vector<Seq> seqs;
    std::vector<std::vector<int32_t>> expected;
    for (uint32_t i = 0; i < 5; ++i) {
      Seq s = sequence(prompt(1 + static_cast<int32_t>(random() % 40), i), 1 + static_cast<int32_t>(random() % 20));
      if (i % 2 == 1) {
        s.admit.sampling.temperature = 0.9;
        s.admit.sampling.top_p = 0.95;
        s.admit.sampling.repetition_penalty = 1.2f;
        s.admit.seed = random();
      }
      expected.push_back(Driver::alone(s));
      seqs.push_back(s);
    }
    std::vector<bool> in(seqs.size(), false);
    for (int guard = 0; guard < 400; ++guard) {
      std::vector<Driver::Work> work;
      for (size_t i = 0; i < seqs.size(); ++i) {
        if (seqs[i].ended()) {
          if (in[i]) driver.release(seqs[i]);
          in[i] = false;
          continue;
        }
        if (in[i] && random() % 12 == 0) {
          driver.preempt(seqs[i]);
          in[i] = false;
        }
        if (!in[i] && random() % 2 == 0) {
          driver.admit(seqs[i], static_cast<int32_t>(i));
          in[i] = true;
        }
        if (!in[i] || random() % 4 == 0) continue;
        const int32_t most = std::min(seqs[i].pending(), 20);
        work.push_back({&seqs[i], 1 + static_cast<int32_t>(random() % static_cast<uint32_t>(most))});
      }
      std::shuffle(work.begin(), work.end(), random);
      driver.step(work);
    }
    for (size_t i = 0; i < seqs.size(); ++i) {
      CHECK(seqs[i].failure.empty());
      CHECK_EQ(seqs[i].finish, static_cast<int32_t>(kFinishLength));
      CHECK(seqs[i].outputs == expected[i]);
    }
  }
}

TEST(iterations_are_single_steps) {
  const std::vector<int32_t> expected = Driver::alone(sequence(prompt(9), 20));
  Driver driver;
  Seq s = sequence(prompt(9), 20);
  driver.admit(s, 0);
  driver.step({{&s, 9}}, 4);
  CHECK_EQ(s.outputs.size(), size_t{4});
  // Blocks end what a step can decode: 13 known, 16 in two blocks; the last token drawn needs none.
  Step step = driver.plan({{&s, 1}});
  step.iterations = 100;
  driver.run(step, {{&s, 1}});
  CHECK_EQ(s.outputs.size(), size_t{8});
  driver.step({{&s, 1}}, 8);
  driver.finish({&s});
  CHECK(s.outputs == expected);
  CHECK_EQ(s.finish, static_cast<int32_t>(kFinishLength));
}

TEST(iterations_end_where_a_row_ends) {
  const std::vector<int32_t> expected = Driver::alone(sequence(prompt(3), 5));
  Driver driver;
  Seq s = sequence(prompt(3), 5);
  driver.admit(s, 0);
  driver.step({{&s, 3}}, INT32_MAX);
  CHECK(s.outputs == expected);
  CHECK_EQ(s.finish, static_cast<int32_t>(kFinishLength));
}

TEST(a_prefix_that_is_computed_already) {
  const std::vector<int32_t> expected = Driver::alone(sequence(prompt(20)));
  Driver driver;
  Seq first = sequence(prompt(20)), second = sequence(prompt(20));
  driver.admit(first, 0);
  driver.finish({&first});
  second.admit.computed = 16;
  driver.admit(second, 1);
  Step step = driver.plan({});
  step.extends.push_back({1, second.admit.epoch, 0, {first.blocks[0], first.blocks[1]}});
  second.blocks = {first.blocks[0], first.blocks[1]};
  driver.run(step, {});
  driver.finish({&second});
  CHECK(second.outputs == expected);
}

TEST(a_copied_block_holds_what_its_source_held) {
  const std::vector<int32_t> expected = Driver::alone(sequence(prompt(12)));
  Driver driver;
  Seq first = sequence(prompt(12)), second = sequence(prompt(12));
  driver.admit(first, 0);
  driver.finish({&first});
  second.admit.computed = 11;
  driver.admit(second, 1);
  Step step = driver.plan({{&second, 1}});
  // plan() gave it two blocks of its own; the first 11 tokens come by copy
  step.copies = {{first.blocks[0], second.blocks[0]}, {first.blocks[1], second.blocks[1]}};
  driver.run(step, {{&second, 1}});
  driver.finish({&second});
  CHECK(second.outputs == expected);
}

TEST(stop_ids_and_min_tokens) {
  const std::vector<int32_t> free = Driver::alone(sequence(prompt(6), 12));
  Driver driver;
  Seq by_eos = sequence(prompt(6), 12), by_stop = by_eos, later = by_eos;
  by_eos.admit.eos_token_ids = {free[2]};
  by_stop.admit.sampling.stop_token_ids = {free[3], 5000};
  later.admit.eos_token_ids = {free[0]};
  later.admit.sampling.min_tokens = 3;
  driver.admit(by_eos, 0);
  driver.admit(by_stop, 1);
  driver.admit(later, 2);
  driver.finish({&by_eos, &by_stop, &later});
  CHECK(by_eos.outputs == std::vector<int32_t>(free.begin(), free.begin() + 3));
  CHECK(by_stop.outputs == std::vector<int32_t>(free.begin(), free.begin() + 4));
  CHECK_EQ(by_eos.finish, static_cast<int32_t>(kFinishStop));
  CHECK_EQ(by_stop.finish, static_cast<int32_t>(kFinishStop));
  CHECK(later.outputs.size() >= 3 && later.outputs[0] != free[0]);
}

TEST(a_row_that_has_ended_has_nothing_to_add) {
  Driver driver;
  Seq s = sequence(prompt(4), 1);
  driver.admit(s, 0);
  driver.finish({&s});
  const StepResult result = driver.step({{&s, 1}});
  CHECK(result.tokens.empty() && result.failures.empty());
  CHECK_EQ(result.finish[0], static_cast<int32_t>(kFinishNone));
}

TEST(prompt_log_probabilities_over_chunks) {
  const auto scored = [](int32_t chunk, int32_t flag) {
    Driver driver;
    Seq s = sequence(prompt(70));
    s.admit.sampling.prompt_logprobs = 3;
    s.admit.prompt_len = 60;
    s.admit.limit = 90;
    driver.admit(s, 0);
    while (s.pending() > 0 && s.outputs.empty() && s.failure.empty()) {
      driver.step({{&s, std::min(chunk, s.pending()), flag}});
      if (flag == kWantScore && s.pending() == 0) break;
    }
    return s.prompt_logprobs;
  };
  const std::vector<TokenLogprob> whole = scored(100, kWantPromptLogprobs);
  CHECK_EQ(whole.size(), size_t{59});
  const std::vector<int32_t> tokens = prompt(70);
  for (size_t i = 0; i < whole.size(); ++i) {
    CHECK_EQ(whole[i].token, tokens[i + 1]);
    CHECK_EQ(whole[i].top.size(), size_t{3});
  }
  const std::vector<TokenLogprob> chunks = scored(7, kWantPromptLogprobs), all = scored(11, kWantScore);
  CHECK_EQ(chunks.size(), whole.size());
  CHECK_EQ(all.size(), size_t{69});
  for (size_t i = 0; i < whole.size(); ++i) {
    CHECK(chunks[i].logprob == whole[i].logprob && chunks[i].top == whole[i].top && chunks[i].rank == whole[i].rank);
    CHECK(all[i].logprob == whole[i].logprob);
  }
}

TEST(more_rows_than_logits_exist_at_once) {
  // Scores of several rows, draws and pools in one step, more of them than fit in a slice of 16.
  Driver driver;
  std::vector<Seq> seqs;
  for (uint32_t i = 0; i < 5; ++i) seqs.push_back(sequence(prompt(20, i)));
  std::vector<Driver::Work> work;
  for (size_t i = 0; i < seqs.size(); ++i) {
    driver.admit(seqs[i], static_cast<int32_t>(i));
    work.push_back({&seqs[i], 20, i == 4 ? kWantPool : (i % 2 == 0 ? kWantPromptLogprobs : 0)});
  }
  driver.step(work);
  for (size_t i = 0; i < 4; ++i) {
    CHECK_EQ(seqs[i].prompt_logprobs.size(), size_t{i % 2 == 0 ? 19u : 0u});
    CHECK(seqs[i].outputs == std::vector<int32_t>{Driver::alone(sequence(prompt(20, static_cast<uint32_t>(i))))[0]});
  }
  CHECK(seqs[4].outputs.empty());
  CHECK_EQ(seqs[4].pooled.size(), static_cast<size_t>(kHidden));
}

TEST(embeddings_take_the_place_of_tokens) {
  const std::vector<float> image(static_cast<size_t>(kHidden) * 5, 0.5f), other(image.size(), 0.25f);
  const auto drawn = [&](const std::vector<float>& values, int32_t chunk, int32_t token) {
    Driver driver;
    driver.engine().put_embeddings("image", values.data(), 5);
    Seq s = sequence(prompt(12));
    for (int32_t i = 3; i < 8; ++i) s.admit.tokens[static_cast<size_t>(i)] = token;
    s.admit.spans = {{3, 5, "image", false}};
    driver.admit(s, 0);
    driver.finish({&s}, chunk);
    CHECK(s.failure.empty());
    return s.outputs;
  };
  CHECK(drawn(image, 100, 1) == drawn(image, 100, 2));  // what stands in their place does not matter
  CHECK(drawn(image, 4, 1) == drawn(image, 100, 1));
  CHECK(drawn(image, 100, 1) != drawn(other, 100, 1));
  Driver driver;
  Seq s = sequence(prompt(12)), good = sequence(prompt(5));
  s.admit.spans = {{3, 5, "image", false}};
  driver.admit(s, 0);
  driver.admit(good, 1);
  driver.step({{&s, 12}, {&good, 5}});
  CHECK_EQ(s.failure, "invalid");
  CHECK(good.failure.empty() && good.outputs.size() == 1);
}

CHECK_MAIN
