// The door to prefill attention: checks, and the tensor maps over the queries and the KV memory.
#include "cuda/kernels/attention_prefill.cuh"
#include "cuda/kernels/attention_prefill_mma.cuh"

#include <algorithm>
#include <numeric>

namespace deploykit::cuda {
namespace {

constexpr int64_t kSectionBytes = 24 << 20;  // of keys and values: about half of L2

CUtensorMap query_map(const AttentionCall& call, const KvView& kv, int32_t group, int32_t pack,
                      CUtensorMapDataType type) {
  const uint64_t row = static_cast<uint64_t>(kv.head_dim) * 2;
  const uint64_t sizes[4] = {static_cast<uint64_t>(kv.head_dim), static_cast<uint64_t>(group),
                             static_cast<uint64_t>(kv.kv_heads), static_cast<uint64_t>(call.tokens)};
  const uint64_t strides[3] = {row, row * group, static_cast<uint64_t>(call.q_stride) * 2};
  const uint32_t box[4] = {64, static_cast<uint32_t>(pack), 1, static_cast<uint32_t>(kPrefillRows / pack)};
  return tensor_map(type, 4, call.q, sizes, strides, box, 128);
}

CUtensorMap pool_map(const KvView& kv, const KvArgs& args, int32_t box_tokens, CUtensorMapDataType type) {
  const uint64_t sizes[5] = {static_cast<uint64_t>(kv.head_dim), static_cast<uint64_t>(kv.block_len), 2,
                             static_cast<uint64_t>(kv.kv_heads), 1ull << 31};  // as many blocks as the table names
  const uint64_t strides[4] = {static_cast<uint64_t>(args.k_row), static_cast<uint64_t>(args.v_offset),
                               static_cast<uint64_t>(args.head_bytes), static_cast<uint64_t>(kv.block_bytes)};
  const uint32_t box[5] = {64, static_cast<uint32_t>(box_tokens), 1, 1, 1};
  return tensor_map(type, 5, args.base + kv.layer_offset, sizes, strides, box, 128);
}

CUtensorMap fresh_map(const FreshKv& fresh, const KvView& kv, int64_t tokens, CUtensorMapDataType type) {
  const uint64_t row = static_cast<uint64_t>(kv.head_dim) * 2;
  const uint64_t sizes[5] = {static_cast<uint64_t>(kv.head_dim), static_cast<uint64_t>(tokens), 2,
                             static_cast<uint64_t>(kv.kv_heads), 1};
  const uint64_t between =
      static_cast<uint64_t>(static_cast<const char*>(fresh.v) - static_cast<const char*>(fresh.k));
  const uint64_t strides[4] = {static_cast<uint64_t>(fresh.stride) * 2, between, row, row};
  const uint32_t box[5] = {64, static_cast<uint32_t>(prefill_keys(kv.head_dim)), 1, 1, 1};
  return tensor_map(type, 5, fresh.k, sizes, strides, box, 128);
}

}  // namespace

PrefillWork prefill_work(const AttentionCall& call, const KvView& kv, int32_t sequences, const int32_t* q_start,
                         const int32_t* index0, const int32_t* row, int32_t max_queries, const FreshKv& fresh) {
  const char* name = "attention_prefill";
  const bool bf16 = call.dtype == DType::bf16;
  require(call.dtype == DType::f16 || bf16, name, "dtype is f16 or bf16");
  require(kv.type == (bf16 ? KvType::bf16 : KvType::f16), name, "the cache is 16-bit, of the activations' type");
  require(kv.kv_heads >= 1 && call.heads % kv.kv_heads == 0, name, "kv_heads divides heads");
  require(sequences >= 1 && sequences <= 65535 && max_queries >= 1, name, "1 <= sequences <= 65535 with queries");
  require(call.tokens >= 1, name, "tokens says how many rows q has");
  require(call.q_stride % 8 == 0 && call.out_stride % 8 == 0, name, "strides are multiples of 8");
  with_head_dim(name, kv.head_dim, [](auto) {});
  require(has_wgmma(), name, "the device has wgmma");
  const KvArgs args = kv_args(name, kv);
  PrefillWork work = {};
  PrefillArgs& a = work.args;
  a.out = call.out, a.out_stride = call.out_stride, a.sinks = call.sinks;
  a.q_start = q_start, a.index0 = index0, a.row = row;
  a.block_table = kv.block_table, a.max_blocks = kv.max_blocks, a.block_len = kv.block_len;
  a.box = std::gcd(kv.block_len, prefill_keys(kv.head_dim));
  a.head_dim = kv.head_dim, a.kv_heads = kv.kv_heads, a.group = call.heads / kv.kv_heads;
  while (a.pack_shift < 4 && a.group % (2 << a.pack_shift) == 0) ++a.pack_shift;
  a.pack_tiles = a.group >> a.pack_shift;
  a.sequences = sequences, a.window = call.window;
  const int64_t sequence_bytes = int64_t{4} * max_queries * kv.kv_heads * kv.head_dim;
  a.section = static_cast<int32_t>(std::clamp<int64_t>(kSectionBytes / sequence_bytes, 1, 32));
  a.tiles = static_cast<int32_t>(ceil_div(max_queries, kPrefillRows >> a.pack_shift));
  require(static_cast<int64_t>(a.tiles) * sequences * a.kv_heads * a.pack_tiles < 1ll << 30, name,
          "sequences * heads * max_queries < 2^37");
  a.scale = call.scale, a.softcap = call.softcap;
  const CUtensorMapDataType type = bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  PrefillMaps& maps = work.maps;
  maps.q = query_map(call, kv, a.group, 1 << a.pack_shift, type);
  maps.kv = pool_map(kv, args, a.box, type);
  maps.fresh = maps.kv;
  if (fresh.k != nullptr) {
    require(fresh.stride % 8 == 0, name, "strides are multiples of 8");
    require(static_cast<const char*>(fresh.v) > static_cast<const char*>(fresh.k), name, "v lies behind k");
    a.fresh = 1;
    maps.fresh = fresh_map(fresh, kv, call.tokens, type);
  }
  return work;
}

void attention_prefill(const AttentionCall& call, const KvView& kv, int32_t sequences, const int32_t* q_start,
                       const int32_t* index0, const int32_t* row, int32_t max_queries, cudaStream_t stream,
                       const FreshKv& fresh) {
  if (!has_wgmma()) {
    return attention_prefill_mma(call, kv, sequences, q_start, index0, row, max_queries, stream);
  }
  const PrefillWork work = prefill_work(call, kv, sequences, q_start, index0, row, max_queries, fresh);
  if (call.dtype == DType::bf16) {
    attention_prefill_bf16(work.maps, work.args, stream);
  } else {
    attention_prefill_f16(work.maps, work.args, stream);
  }
}

}  // namespace deploykit::cuda
