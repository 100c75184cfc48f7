// What stands on the device between steps: the rows, and the arrays that describe one step.
#pragma once

#include <cstdint>

namespace deploykit::cuda {

// How a row draws on the device. What is longer than this struct stands in the row's `extras`: ids of biases, their
// values' bits, then bad words (length and ids of each).
struct RowSampling {
  double temperature;
  double top_p;
  double min_p;
  float repetition, frequency, presence;
  int32_t top_k;
  uint32_t seed_low, seed_high;
  int32_t on_host;     // the device draws nothing for this row
  int32_t num_stops;   // EOS ids and stop ids, in `stops`
  int32_t min_tokens;  // while fewer were produced, stops can't be drawn
  int32_t num_bias;
  int32_t num_bad;     // integers of bad words
  int32_t slot;        // of counts and processed logits, or -1: nothing changes the row's logits
  int32_t logprobs;    // -1 = none
};

inline constexpr int32_t kMaxStops = 64;     // of one row; a row with more is drawn on the host
inline constexpr int32_t kMaxExtras = 1024;  // integers of a row's extras; likewise
inline constexpr int32_t kMaxBans = 192;     // stops and bad words' last ids that a step bans of one row; likewise
inline constexpr int32_t kDrawSlots = 64;    // rows at a time whose logits the device changes; likewise

// Row tables, [max_rows + 1]: the last row is a dummy that pads decode batches.
struct Rows {
  int32_t* tokens;   // [rows, session_stride]: all known tokens
  int32_t* blocks;   // [rows, max_blocks]
  int32_t* computed;
  int32_t* known;
  int32_t* prompt_len;
  int32_t* limit;
  int32_t* finished;
  RowSampling* sampling;
  int32_t* stops;    // [rows, kMaxStops]
  int32_t* extras;   // [rows, kMaxExtras]
  uint32_t* counts;  // [kDrawSlots, vocab]: bit 31 = in the prompt, below it: times produced
  int32_t session_stride;
  int32_t max_blocks;
  int32_t dummy;     // index of the dummy row
  int32_t vocab;
};

// One admitted row in a step's message.
struct AdmitRecord {
  int32_t row;
  int32_t known;         // number of tokens
  int32_t token_offset;  // into the message's tokens
  int32_t computed;
  int32_t prompt_len;
  int32_t limit;
  RowSampling sampling;
  int32_t stops_offset;  // into the message's tokens: num_stops ids, then the extras
};

struct BlockWrite {
  int32_t row, index, block;
};
// A token that the host drew: the row's next known one, unless it is already there.
struct TokenWrite {
  int32_t row, position, token, finished;
};

// The message of one step, in this order in one buffer; counts say how much of each there is.
struct StepHeader {
  int32_t num_admits, num_block_writes, num_token_writes;
  int32_t admits_at, block_writes_at, token_writes_at, tokens_at;  // byte offsets into the message
};

// Arrays of a step on the device. Slice i is row rows[i] with counts[i] new tokens.
struct StepArrays {
  int32_t* rows;       // [max_slices]
  int32_t* counts;     // [max_slices]
  int32_t* flags;      // [max_slices]
  int32_t* cu;         // [max_slices + 1]: first token of each slice
  int32_t* starts;     // [max_slices]: tokens of the row before this step
  int32_t* seq_lens;   // [max_slices]: tokens of the row after this step
  int32_t* last;       // [max_slices]: index of the slice's last token
  int32_t* token_ids;  // [max_step_tokens]
  int32_t* positions;  // [max_step_tokens]
  int32_t* token_rows; // [max_step_tokens]: row of each token, -1 for the dummy row
};

// What a slice produced in an iteration.
struct SliceResult {
  int32_t token;   // -1 = none
  int32_t finish;  // Finish
  int32_t error;   // 0, 1 = a logit that is not finite, 2 = no token is left
  int32_t known;   // tokens of the row afterwards
};

}  // namespace deploykit::cuda
