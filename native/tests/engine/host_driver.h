// Drives an engine with steps, as the scheduler would: rows, epochs, blocks, and what came back.
#pragma once

#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "core/host_engine.h"
#include "core/null_model.h"
#include "deploykit/error.h"

namespace deploykit {

constexpr int32_t kHidden = 8, kVocab = 211, kBlockLen = 8, kSession = 96;
constexpr int64_t kBlocks = 80;

inline EngineOptions null_options() {
  EngineOptions o;
  o.device = DeviceKind::null;
  o.block_len = kBlockLen;
  o.num_blocks = kBlocks;
  o.max_rows = 6;
  o.session_len = kSession;
  o.max_step_tokens = 128;
  return o;
}

inline std::unique_ptr<HostEngine> make_engine(std::unique_ptr<ForwardModel> model = nullptr) {
  if (model == nullptr) model = std::make_unique<NullModel>(kHidden, kVocab, kBlockLen, kBlocks);
  auto engine =
      std::make_unique<HostEngine>(std::move(model), kHidden, kVocab, std::vector<WeightSpec>{}, null_options());
  engine->finish_loading();
  return engine;
}

struct Seq {
  Admit admit;
  std::vector<int32_t> blocks, outputs;
  std::vector<TokenLogprob> logprobs, prompt_logprobs;
  std::vector<float> pooled;
  int32_t computed = 0, known = 0, finish = 0;
  std::string failure;  // code

  bool ended() const { return finish != 0 || !failure.empty(); }
  int32_t pending() const { return known - computed; }
};

inline Seq sequence(std::vector<int32_t> prompt, int32_t max_tokens = 8) {
  Seq s;
  s.admit.prompt_len = static_cast<int32_t>(prompt.size());
  s.admit.limit = s.admit.prompt_len + max_tokens;
  s.admit.tokens = std::move(prompt);
  s.admit.sampling.temperature = 0;
  return s;
}

inline std::vector<int32_t> prompt(int32_t length, uint32_t salt = 0) {
  std::mt19937 random(salt * 1000 + static_cast<uint32_t>(length));
  std::vector<int32_t> tokens(static_cast<size_t>(length));
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % kVocab);
  return tokens;
}

class Driver {
 public:
  struct Work {
    Seq* seq;
    int32_t count;
    int32_t extra_flags = 0;
  };

  explicit Driver(std::unique_ptr<HostEngine> engine = make_engine()) : engine_(std::move(engine)) {
    for (int32_t b = 0; b < kBlocks; ++b) free_.push_back(b);
    std::shuffle(free_.begin(), free_.end(), std::mt19937(5));  // so that tables are out of order
  }

  HostEngine& engine() { return *engine_; }

  Seq& admit(Seq& s, int32_t row) {
    s.admit.row = row;
    s.admit.epoch = ++epoch_;
    s.computed = s.admit.computed;
    s.known = static_cast<int32_t>(s.admit.tokens.size());
    next_.admits.push_back(s.admit);
    return s;
  }
  void release(Seq& s) {
    next_.releases.push_back({s.admit.row, s.admit.epoch});
    free_.insert(free_.begin(), s.blocks.begin(), s.blocks.end());
    s.blocks.clear();
  }
  // It is preempted: its outputs become known tokens, all is computed again.
  void preempt(Seq& s) {
    release(s);
    s.admit.tokens.resize(static_cast<size_t>(s.admit.prompt_len));
    s.admit.tokens.insert(s.admit.tokens.end(), s.outputs.begin(), s.outputs.end());
  }

  Step plan(const std::vector<Work>& work) {
    Step step = std::move(next_);
    next_ = Step();
    step.seq = ++seq_;
    for (const Work& w : work) {
      Seq& s = *w.seq;
      std::vector<int32_t> fresh;
      while (static_cast<int32_t>(s.blocks.size()) * kBlockLen < s.computed + w.count) {
        s.blocks.push_back(free_.back());
        fresh.push_back(free_.back());
        free_.pop_back();
      }
      if (!fresh.empty()) step.extends.push_back({s.admit.row, s.admit.epoch, 0, fresh});
      step.rows.push_back(s.admit.row);
      step.epochs.push_back(s.admit.epoch);
      step.num_tokens.push_back(w.count);
      const bool last = w.count == s.pending();
      step.flags.push_back(w.extra_flags | (last && (w.extra_flags & (kWantPool | kWantScore)) == 0 ? kWantSample : 0));
    }
    return step;
  }

  StepResult run(const Step& step, const std::vector<Work>& work,
                 const std::vector<std::pair<int32_t, Mask>>* masks = nullptr) {
    engine_->launch(step);
    if (masks != nullptr) engine_->sample(step.seq, *masks);
    StepResult result = engine_->collect(step.seq);
    CHECK_EQ(result.seq, step.seq);
    CHECK(result.rows == step.rows && result.epochs == step.epochs);
    CHECK_EQ(result.offsets.size(), work.size() + 1);
    for (size_t i = 0; i < work.size(); ++i) settle(*work[i].seq, work[i].count, i, result);
    return result;
  }

  StepResult step(const std::vector<Work>& work, int32_t iterations = 1) {
    Step planned = plan(work);
    planned.iterations = iterations;
    return run(planned, work);
  }

  // Until all have ended, `chunk` tokens at most each a step.
  void finish(const std::vector<Seq*>& seqs, int32_t chunk = 100) {
    for (int guard = 0; guard < 1000; ++guard) {
      std::vector<Work> work;
      for (Seq* s : seqs) {
        if (!s->ended()) work.push_back({s, std::min(chunk, s->pending())});
      }
      if (work.empty()) return;
      step(work);
    }
    CHECK(false);
  }

  // What the sequence gives by itself.
  static std::vector<int32_t> alone(Seq s) {
    Driver driver;
    driver.admit(s, 0);
    driver.finish({&s});
    return s.outputs;
  }

 private:
  void settle(Seq& s, int32_t count, size_t i, const StepResult& r) {
    for (const RowFailure& f : r.failures) {
      if (f.row == s.admit.row && f.epoch == s.admit.epoch) s.failure = f.code;
    }
    const std::vector<int32_t> tokens(r.tokens.begin() + r.offsets[i], r.tokens.begin() + r.offsets[i + 1]);
    if (s.failure.empty()) {
      s.computed += count + std::max<int32_t>(0, static_cast<int32_t>(tokens.size()) - 1);
      s.known += static_cast<int32_t>(tokens.size());
    }
    s.outputs.insert(s.outputs.end(), tokens.begin(), tokens.end());
    s.finish = std::max(s.finish, r.finish[i]);
    const auto collect = [&](const auto& from, auto& to) {
      for (const auto& [row, values] : from) {
        if (row == s.admit.row) to.insert(to.end(), values.begin(), values.end());
      }
    };
    collect(r.logprobs, s.logprobs);
    collect(r.prompt_logprobs, s.prompt_logprobs);
    collect(r.pooled, s.pooled);
  }

  std::unique_ptr<HostEngine> engine_;
  std::vector<int32_t> free_;
  Step next_;
  int64_t seq_ = 0;
  int32_t epoch_ = 0;
};

}  // namespace deploykit
