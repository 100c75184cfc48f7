#include "cuda/engine/mirror.h"

#include <algorithm>
#include <cstring>

#include "cuda/kernels/kernels.h"
#include "deploykit/error.h"

namespace deploykit::cuda {
namespace {

int32_t aligned(int64_t bytes) { return static_cast<int32_t>((bytes + 15) / 16 * 16); }

template <class T>
int32_t put(uint8_t* out, int32_t at, const std::vector<T>& values) {
  if (!values.empty()) std::memcpy(out + at, values.data(), values.size() * sizeof(T));
  return at + aligned(static_cast<int64_t>(values.size() * sizeof(T)));
}

bool changes_logits(const SamplingParams& p) {
  return p.repetition_penalty != 1.0f || p.frequency_penalty != 0.0f || p.presence_penalty != 0.0f ||
         !p.logit_bias.empty() || !p.bad_words.empty() || p.min_tokens > 0;
}

}  // namespace

void MessageParts::clear() {
  admits.clear();
  block_writes.clear();
  token_writes.clear();
  tokens.clear();
}

int64_t MessageParts::bytes() const {
  return int64_t{aligned(static_cast<int64_t>(admits.size() * sizeof(AdmitRecord)))} +
         aligned(static_cast<int64_t>(block_writes.size() * sizeof(BlockWrite))) +
         aligned(static_cast<int64_t>(token_writes.size() * sizeof(TokenWrite))) +
         aligned(static_cast<int64_t>(tokens.size() * sizeof(int32_t)));
}

void MessageParts::write(uint8_t* out, StepHeader& header) const {
  header.num_admits = static_cast<int32_t>(admits.size());
  header.num_block_writes = static_cast<int32_t>(block_writes.size());
  header.num_token_writes = static_cast<int32_t>(token_writes.size());
  header.admits_at = 0;
  header.block_writes_at = put(out, 0, admits);
  header.token_writes_at = put(out, header.block_writes_at, block_writes);
  header.tokens_at = put(out, header.token_writes_at, token_writes);
  put(out, header.tokens_at, tokens);
}

Mirror::Mirror(int32_t max_rows, int32_t session_len, int32_t block_len, int64_t num_blocks, int32_t vocab)
    : max_rows_(max_rows),
      session_len_(session_len),
      block_len_(block_len),
      max_blocks_((session_len + block_len - 1) / block_len),
      vocab_(vocab),
      num_blocks_(num_blocks),
      rows_(static_cast<size_t>(max_rows)) {
  for (int32_t slot = std::min(kDrawSlots, max_rows) - 1; slot >= 0; --slot) free_slots_.push_back(slot);
}

MirrorRow* Mirror::current(int32_t row, int32_t epoch) {
  if (!valid_row(row)) throw Error("invalid", "row " + std::to_string(row) + " does not exist");
  MirrorRow& found = rows_[static_cast<size_t>(row)];
  return found.live && found.epoch == epoch ? &found : nullptr;
}

// What no device memory could take, before anything is changed.
void Mirror::check(const Admit& admit, const Step& step) const {
  if (!valid_row(admit.row)) throw Error("invalid", "row " + std::to_string(admit.row) + " does not exist");
  const int32_t known = static_cast<int32_t>(admit.tokens.size());
  if (known < 1 || known > session_len_ || admit.limit > session_len_ || admit.limit < known) {
    throw Error("invalid", "row " + std::to_string(admit.row) + ": " + std::to_string(known) + " tokens with a limit of " +
                               std::to_string(admit.limit) + " in a session of " + std::to_string(session_len_));
  }
  if (admit.computed < 0 || admit.computed >= known || admit.prompt_len < 1 || admit.prompt_len > known) {
    throw Error("invalid", "row " + std::to_string(admit.row) + ": computed or prompt_len is out of range");
  }
  for (int32_t token : admit.tokens) {
    if (token < 0 || token >= vocab_) {
      throw Error("invalid", "token " + std::to_string(token) + " is outside the vocabulary of " + std::to_string(vocab_));
    }
  }
  const MirrorRow& row = rows_[static_cast<size_t>(admit.row)];
  const bool released = std::any_of(step.releases.begin(), step.releases.end(), [&](const Release& release) {
    return release.row == admit.row && release.epoch == row.epoch;
  });
  if (row.live && !released) {
    throw Error("invalid", "row " + std::to_string(admit.row) + " is not free: its use " + std::to_string(row.epoch) +
                               " goes on");
  }
}

void Mirror::admit(const Admit& admit, MessageParts& parts) {
  const int32_t known = static_cast<int32_t>(admit.tokens.size());
  // What the host drew for the row's last use must not reach this one: writes come after admits.
  parts.token_writes.erase(std::remove_if(parts.token_writes.begin(), parts.token_writes.end(),
                                          [&](const TokenWrite& write) { return write.row == admit.row; }),
                           parts.token_writes.end());
  MirrorRow& row = rows_[static_cast<size_t>(admit.row)];
  give_slot_back(row);
  row = MirrorRow{};
  row.epoch = admit.epoch;
  row.live = true;
  row.computed = admit.computed;
  row.known = known;
  row.prompt_len = admit.prompt_len;
  row.limit = admit.limit;
  row.tokens = admit.tokens;
  row.stops = admit.eos_token_ids;
  row.stops.insert(row.stops.end(), admit.sampling.stop_token_ids.begin(), admit.sampling.stop_token_ids.end());
  row.eos = admit.eos_token_ids;
  row.spans = admit.spans;
  row.sampling = admit.sampling;
  row.seed = admit.seed;

  AdmitRecord record{};
  record.row = admit.row;
  record.known = known;
  record.computed = admit.computed;
  record.prompt_len = admit.prompt_len;
  record.limit = admit.limit;
  record.token_offset = static_cast<int32_t>(parts.tokens.size());
  parts.tokens.insert(parts.tokens.end(), admit.tokens.begin(), admit.tokens.end());
  record.stops_offset = static_cast<int32_t>(parts.tokens.size());
  std::vector<int32_t> extras;
  row.on_host = !draws_on_device(row, record.sampling, extras);
  record.sampling.on_host = row.on_host ? 1 : 0;
  if (!row.on_host) {
    record.sampling.num_stops = static_cast<int32_t>(row.stops.size());
    parts.tokens.insert(parts.tokens.end(), row.stops.begin(), row.stops.end());
    parts.tokens.insert(parts.tokens.end(), extras.begin(), extras.end());
  }
  parts.admits.push_back(record);
}

void Mirror::give_slot_back(MirrorRow& row) {
  if (row.slot >= 0) free_slots_.push_back(row.slot);
  row.slot = -1;
}

bool Mirror::draws_on_device(MirrorRow& row, RowSampling& sampling, std::vector<int32_t>& extras) {
  const SamplingParams& p = row.sampling;
  sampling = RowSampling{};
  sampling.temperature = p.temperature;
  sampling.top_p = p.top_p;
  sampling.min_p = p.min_p;
  sampling.repetition = p.repetition_penalty;
  sampling.frequency = p.frequency_penalty;
  sampling.presence = p.presence_penalty;
  sampling.top_k = p.top_k;
  sampling.seed_low = static_cast<uint32_t>(row.seed);
  sampling.seed_high = static_cast<uint32_t>(row.seed >> 32);
  sampling.min_tokens = p.min_tokens;
  sampling.logprobs = p.logprobs;
  sampling.slot = -1;
  size_t bans = p.min_tokens > 0 ? row.stops.size() : 0;
  for (const auto& [token, bias] : p.logit_bias) {
    if (token < 0 || token >= vocab_) return false;  // the host's sampler says what is wrong
    extras.push_back(token);
  }
  for (const auto& [token, bias] : p.logit_bias) {
    int32_t bits = 0;
    std::memcpy(&bits, &bias, sizeof(bits));
    extras.push_back(bits);
  }
  sampling.num_bias = static_cast<int32_t>(p.logit_bias.size());
  for (const std::vector<int32_t>& word : p.bad_words) {
    if (word.empty()) continue;
    extras.push_back(static_cast<int32_t>(word.size()));
    extras.insert(extras.end(), word.begin(), word.end());
    ++bans;
  }
  sampling.num_bad = static_cast<int32_t>(extras.size()) - 2 * sampling.num_bias;
  if (row.stops.size() > static_cast<size_t>(kMaxStops) || extras.size() > static_cast<size_t>(kMaxExtras) ||
      bans > static_cast<size_t>(kMaxBans) || p.logprobs > kMaxTopLogprobs) {
    return false;
  }
  if (changes_logits(p)) {
    if (free_slots_.empty()) return false;
    row.slot = sampling.slot = free_slots_.back();
    free_slots_.pop_back();
  }
  return true;
}

void Mirror::apply(const Step& step, MessageParts& parts) {
  for (const Admit& request : step.admits) check(request, step);
  for (const Release& release : step.releases) {
    MirrorRow* row = current(release.row, release.epoch);
    if (row == nullptr) continue;
    row->live = false;
    give_slot_back(*row);
  }
  for (const Admit& request : step.admits) admit(request, parts);
  for (const Extend& extend : step.extends) {
    MirrorRow* row = current(extend.row, extend.epoch);
    if (row == nullptr) throw Error("invalid", "blocks for row " + std::to_string(extend.row) + ", which is not admitted");
    if (extend.group != 0) throw Error("invalid", "there is one KV group, not " + std::to_string(extend.group));
    for (int32_t block : extend.blocks) {
      if (block < 0 || block >= num_blocks_) {
        throw Error("invalid", "block " + std::to_string(block) + " of " + std::to_string(num_blocks_));
      }
      if (static_cast<int32_t>(row->blocks.size()) >= max_blocks_) {
        throw Error("invalid", "row " + std::to_string(extend.row) + " has all blocks that a session takes");
      }
      parts.block_writes.push_back({extend.row, static_cast<int32_t>(row->blocks.size()), block});
      row->blocks.push_back(block);
    }
  }
  if (!step.trims.empty()) throw Error("invalid", "a full group is never trimmed");
}

}  // namespace deploykit::cuda
