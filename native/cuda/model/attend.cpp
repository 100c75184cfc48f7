// A transformer's attention: rotation, KV memory, decodes and prompts of one step side by side.
#include <algorithm>

#include "cuda/model/transformer.h"

namespace deploykit::cuda {
namespace {

// Rows from which rotation and store in a kernel of their own are faster: with 4-bit keys and values the rest of
// attention is short, and each of a row's blocks turns its queries itself.
constexpr int32_t kRowsApart = 192;

}  // namespace

KvView Transformer::view(size_t layer) const {
  const AttentionSpec& attention = model_.layers[layer].attention;
  KvView kv;
  kv.base = pool_;
  kv.block_bytes = block_bytes_;
  kv.layer_offset = layer_offsets_[layer];
  kv.block_len = options_.block_len;
  kv.kv_heads = attention.kv_heads;
  kv.head_dim = attention.head_dim;
  kv.type = options_.kv;
  kv.block_table = rows_.blocks;
  kv.max_blocks = rows_.max_blocks;
  return kv;
}

RopeCall Transformer::rope_call(size_t index, const ForwardArgs& args) const {
  const AttentionSpec& spec = model_.layers[index].attention;
  const LayerWeights& weights = weights_.layer(index);
  const int64_t q_width = int64_t{spec.heads} * spec.head_dim, kv_width = int64_t{spec.kv_heads} * spec.head_dim;
  RopeCall rope;
  rope.dtype = dtype_;
  rope.tokens = args.tokens;
  rope.q = qkv_.get();
  rope.q_stride = rope.kv_stride = q_width + 2 * kv_width;
  rope.k = qkv_.get() + q_width;
  rope.v = qkv_.get() + q_width + kv_width;
  rope.heads = spec.heads;
  rope.row = args.step.token_rows;
  rope.index = args.step.positions;
  rope.position = args.step.positions;
  rope.logn_trained_len = spec.logn_trained_len;
  rope.norm_eps = model_.norm.eps;
  rope.norm_offset = model_.norm.weight_offset;
  if (spec.rope >= 0) {
    const Rope& table = model_.ropes[static_cast<size_t>(spec.rope)];
    rope.inv_freq = inv_freq_[static_cast<size_t>(spec.rope)].get();
    rope.half = static_cast<int32_t>(table.inv_freq.size());
    rope.attention_factor = table.attention_factor;
    rope.interleaved = table.interleaved;
  }
  if (spec.qk_norm == QkNorm::head) {
    rope.q_norm = weights.q_norm;
    rope.k_norm = weights.k_norm;
  }
  return rope;
}

AttentionCall Transformer::attention_call(size_t index, const ForwardArgs& args) const {
  const AttentionSpec& spec = model_.layers[index].attention;
  AttentionCall call;
  call.dtype = dtype_;
  call.heads = spec.heads;
  call.scale = spec.scale;
  call.window = spec.window;
  call.softcap = spec.softcap;
  call.sinks = weights_.layer(index).sinks;
  call.q = qkv_.get();
  call.q_stride = (spec.heads + 2 * int64_t{spec.kv_heads}) * spec.head_dim;
  call.out = attended_.get();
  call.out_stride = int64_t{spec.heads} * spec.head_dim;
  call.tokens = args.tokens;
  return call;
}

// Rows of one token come first in the batch: one kernel rotates, stores and attends. Prompts are bound by arithmetic and
// fill few multiprocessors where they are short, decodes by memory: they run side by side.
void Transformer::attend(size_t index, const ForwardArgs& args, cudaStream_t stream) {
  const AttentionSpec& spec = model_.layers[index].attention;
  const RopeCall rope = rope_call(index, args);
  const AttentionCall call = attention_call(index, args);
  const KvView kv = view(index);
  const int32_t singles = single_tokens(args), prompts = args.slices - singles;
  const bool both = singles > 0 && prompts > 0;
  cudaStream_t side = both ? side_stream_.get() : stream;
  if (both) {
    fork_.record(stream);
    DK_CUDA(cudaStreamWaitEvent(side, fork_.get(), 0));
  }
  if (prompts > 0) attend_prompts(rope, call, kv, args, side);
  if (singles > 0) {
    const bool cut = planned(spec);
    const int32_t splits = std::min(attention_decode_splits(singles, spec.heads, spec.kv_heads, args.max_seq), kMaxDecodeSplits);
    const int32_t* plan = cut ? plan_.get() : nullptr;
    if (options_.kv == KvType::int4 && singles >= kRowsApart) {
      RopeCall own = rope;
      own.tokens = singles;
      rope_store(own, kv, stream);
      if (cut) {
        attention_decode_planned(call, kv, singles, rope.row, rope.index, plan, attention_workspace_.get(), stream);
      } else {
        attention_decode(call, kv, singles, rope.row, rope.index, splits, attention_workspace_.get(), stream);
      }
    } else {
      rope_attention_decode(rope, call, kv, singles, splits, plan, attention_workspace_.get(), stream);
    }
  }
  if (both) {
    join_.record(side);
    DK_CUDA(cudaStreamWaitEvent(stream, join_.get(), 0));
  }
}

void Transformer::attend_prompts(RopeCall rope, const AttentionCall& call, const KvView& kv, const ForwardArgs& args,
                                 cudaStream_t stream) {
  const int32_t singles = single_tokens(args);
  const auto behind = [](const void* base, int64_t elements) { return static_cast<const uint16_t*>(base) + elements; };
  // This step's keys and values, where the product left them (keys rotated): row t is token t of the batch.
  const FreshKv fresh = {rope.k, rope.v, rope.kv_stride};
  rope.tokens -= singles;
  rope.q = static_cast<uint16_t*>(rope.q) + singles * rope.q_stride;
  rope.k = behind(rope.k, singles * rope.kv_stride);
  rope.v = behind(rope.v, singles * rope.kv_stride);
  rope.row += singles;
  rope.index += singles;
  rope.position += singles;
  rope.keep_k = true;
  rope_store(rope, kv, stream);
  // Queries are addressed from the batch's start: cu holds the first token of each slice.
  if (options_.kv == KvType::f16 || options_.kv == KvType::bf16) {
    attention_prefill(call, kv, args.slices - singles, args.step.cu + singles, args.step.starts + singles,
                      args.step.rows + singles, args.max_count, stream, fresh);
  } else {
    attend_quantized(call, kv, fresh, args, singles, stream);
  }
}

int32_t Transformer::single_tokens(const ForwardArgs& args) { return args.decode ? args.slices : args.singles; }

// Whether a layer takes the step's plan of decode attention: it was made for the first layer's heads.
bool Transformer::planned(const AttentionSpec& spec) const {
  const AttentionSpec& first = model_.layers[0].attention;
  const int64_t counters = int64_t{options_.max_rows} * spec.kv_heads * ((spec.heads / spec.kv_heads + 7) / 8);
  return spec.heads == first.heads && spec.kv_heads == first.kv_heads && counters <= 16384;
}

void Transformer::attend_quantized(const AttentionCall& call, const KvView& kv, const FreshKv& fresh,
                                   const ForwardArgs& args, int32_t singles, cudaStream_t stream) {
  const int64_t block_len = options_.block_len;
  KvView plain = kv;
  plain.type = dtype_ == DType::bf16 ? KvType::bf16 : KvType::f16;
  plain.base = unpacked_.get();
  plain.layer_offset = 0;
  plain.block_bytes = kv.kv_heads * kv_head_bytes(plain.type, options_.block_len, kv.head_dim);
  plain.block_table = unpacked_table_.get();
  int32_t begin = singles;
  if (has_wgmma() && args.fresh > 0) {
    plain.max_blocks = unpacked_blocks_;
    attention_prefill(call, plain, args.fresh, args.step.cu + begin, args.step.starts + begin, unpacked_table_.get(),
                      args.max_count, stream, fresh);
    begin += args.fresh;
  }
  while (begin < args.slices) {
    int32_t longest = 0, end = begin;
    for (; end < args.slices; ++end) {
      const int32_t with = std::max(longest, args.lengths[static_cast<size_t>(end)]);
      if (end > begin && (with + block_len - 1) / block_len * (end + 1 - begin) > unpacked_blocks_) break;
      longest = with;
    }
    // Sequence s of the group has blocks s * max_blocks .. of the scratch, in order.
    plain.max_blocks = (longest + block_len - 1) / block_len;
    kv_gather(dtype_, kv, plain, end - begin, args.step.rows + begin, args.step.seq_lens + begin, longest, stream);
    attention_prefill(call, plain, end - begin, args.step.cu + begin, args.step.starts + begin, unpacked_table_.get(),
                      args.max_count, stream);
    begin = end;
  }
}

}  // namespace deploykit::cuda
