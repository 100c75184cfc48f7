// The door to decode attention, and the KV memory's sizes.
#include <algorithm>

#include "cuda/kernels/attention_decode.cuh"

namespace deploykit::cuda {
namespace {
constexpr int32_t kCounters = 16384;  // 64 KiB at the start of the workspace

void decode(const AttentionCall& call, const KvView& kv, int32_t n, const int32_t* row, const int32_t* index,
            int32_t splits, const int32_t* plan, void* workspace, cudaStream_t stream, const RopeCall* rope = nullptr) {
  const char* name = rope != nullptr ? "rope_attention_decode" : "attention_decode";
  require(call.dtype == DType::f16 || call.dtype == DType::bf16, name, "dtype is f16 or bf16");
  require(n >= 1 && n <= 65535, name, "1 <= n <= 65535");
  require(kv.kv_heads >= 1 && call.heads % kv.kv_heads == 0, name, "kv_heads divides heads");
  require(call.q_stride % 8 == 0 && call.out_stride % 8 == 0, name, "strides are multiples of 8");
  const bool bf16 = call.dtype == DType::bf16;
  DecodeArgs a = {};
  a.q = call.q, a.q_stride = call.q_stride, a.out = call.out, a.out_stride = call.out_stride;
  a.row = row, a.index = index, a.sinks = call.sinks, a.plan = plan;
  a.heads = call.heads, a.group = call.heads / kv.kv_heads;
  a.head_groups = decode_head_groups(call.heads, kv.kv_heads);
  a.window = call.window, a.splits = splits, a.scale = call.scale, a.softcap = call.softcap, a.bf16 = bf16;
  if (splits > 1) {
    require(workspace != nullptr, name, "more than one split needs a workspace");
    require(static_cast<int64_t>(n) * kv.kv_heads * a.head_groups <= kCounters, name, "n * kv_heads <= 16384");
    a.counters = static_cast<uint32_t*>(workspace);
    a.parts = reinterpret_cast<float*>(static_cast<char*>(workspace) + kCounters * 4);
  }
  if (rope != nullptr) {
    require(rope->dtype == call.dtype && rope->heads == call.heads, name, "both calls have the same dtype and heads");
    require(rope->tokens >= n, name, "rope.tokens >= n");
    require(rope->half >= 0 && 2 * rope->half <= kv.head_dim, name, "2 * half <= head_dim");
    require(rope->kv_stride % 2 == 0, name, "even strides");
    a.rope = *rope;
  }
  const KvArgs args = kv_args(name, kv);
  switch (kv.type) {
    case KvType::int8:
      return (rope ? rope_decode_int8 : attention_decode_int8)(a, args, kv.head_dim, n, stream);
    case KvType::k8v4:
      return (rope ? rope_decode_k8v4 : attention_decode_k8v4)(a, args, kv.head_dim, n, stream);
    case KvType::fp8:
      return (rope ? rope_decode_fp8 : attention_decode_fp8)(a, args, kv.head_dim, n, stream);
    case KvType::int4:
      return (rope ? rope_decode_int4 : attention_decode_int4)(a, args, kv.head_dim, n, stream);
    default:
      require(kv.type == (bf16 ? KvType::bf16 : KvType::f16), name, "a 16-bit cache has the activations' type");
      return (rope ? rope_decode_16 : attention_decode_16)(a, args, kv.head_dim, n, stream);
  }
}
}  // namespace

int64_t kv_head_bytes(KvType type, int32_t block_len, int32_t head_dim) {
  const int64_t rows = kv_row_bytes(type, false, head_dim) + kv_row_bytes(type, true, head_dim);
  return block_len * (rows + (has_params(type) ? 8 : 0));
}

int32_t attention_decode_splits(int32_t n, int32_t heads, int32_t kv_heads, int64_t max_len) {
  const int64_t blocks = static_cast<int64_t>(n) * kv_heads * decode_head_groups(heads, kv_heads);
  // Two blocks a multiprocessor, parts of 64 to 256 tokens; merging costs more than it saves where blocks are many.
  const int64_t least = std::clamp<int64_t>(max_len / 16, 64, 256);
  const int64_t wanted = std::min(ceil_div(2 * multiprocessors(), blocks), ceil_div(max_len, least));
  if (blocks >= multiprocessors() || (2 * blocks >= multiprocessors() && max_len <= 1024)) return 1;
  return static_cast<int32_t>(std::clamp<int64_t>(wanted > 8 ? wanted / 8 * 8 : wanted, 1, 64));
}

int64_t attention_decode_workspace_bytes(int32_t n, int32_t heads, int32_t kv_heads, int32_t head_dim, int32_t splits) {
  return kCounters * 4 +
         static_cast<int64_t>(n) * kv_heads * decode_head_groups(heads, kv_heads) * splits * decode_part_floats(head_dim) * 4;
}

int64_t attention_planned_workspace_bytes(int32_t n, int32_t heads, int32_t kv_heads, int32_t head_dim) {
  return kCounters * 4 + int64_t{attention_plan_units(n, heads, kv_heads)} * kv_heads *
                             decode_head_groups(heads, kv_heads) * decode_part_floats(head_dim) * 4;
}

void attention_decode(const AttentionCall& call, const KvView& kv, int32_t n, const int32_t* row, const int32_t* index,
                      int32_t splits, void* workspace, cudaStream_t stream) {
  require(splits >= 1 && splits <= kDecodeMaxParts, "attention_decode", "1 <= splits <= 64");
  decode(call, kv, n, row, index, splits, nullptr, workspace, stream);
}

void attention_decode_planned(const AttentionCall& call, const KvView& kv, int32_t n, const int32_t* row,
                              const int32_t* index, const int32_t* plan, void* workspace, cudaStream_t stream) {
  decode(call, kv, n, row, index, attention_plan_units(n, call.heads, kv.kv_heads), plan, workspace, stream);
}

void rope_attention_decode(const RopeCall& rope, const AttentionCall& call, const KvView& kv, int32_t n, int32_t splits,
                           const int32_t* plan, void* workspace, cudaStream_t stream) {
  if (plan != nullptr) {
    splits = attention_plan_units(n, call.heads, kv.kv_heads);
  } else {
    require(splits >= 1 && splits <= kDecodeMaxParts, "rope_attention_decode", "1 <= splits <= 64");
  }
  decode(call, kv, n, rope.row, rope.index, splits, plan, workspace, stream, &rope);
}

}  // namespace deploykit::cuda
