#include <string>

#include "cpu/attention/attention.h"
#include "cpu/attention/geometry.h"
#include "deploykit/error.h"

namespace deploykit::cpu {
namespace {

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

}  // namespace

KvGeometry kv_geometry(KvType type, int32_t head_dim, int32_t block_len) {
  KvGeometry g;
  g.tile_keys = block_len < kTileKeys ? block_len : kTileKeys;
  const bool four_bit_values = type == KvType::k8v4 || type == KvType::int4;
  g.value_dims = static_cast<int32_t>(round_up(head_dim, four_bit_values ? 32 : 16));
  g.key_row_bytes = 4;
  int64_t value_bits = 0;
  switch (type) {
    case KvType::f32: g.key_rows = head_dim, value_bits = 32; break;
    case KvType::f16: g.key_rows = head_dim, g.key_row_bytes = 2, value_bits = 16; break;
    case KvType::bf16: g.key_rows = head_dim / 2, value_bits = 16; break;
    case KvType::int8: g.key_rows = head_dim / 4, value_bits = 8; break;
    case KvType::k8v4: g.key_rows = head_dim / 4, value_bits = 4; break;
    case KvType::int4: g.key_rows = head_dim / 8, value_bits = 4; break;
    case KvType::fp8:
      throw Error("unsupported", "KV type fp8 is for GPUs (sm_89 and later); a CPU has int8, k8v4 and int4");
  }
  const bool scaled = type == KvType::int8 || type == KvType::k8v4 || type == KvType::int4;
  const int64_t keys = g.tile_keys, tiles = block_len / g.tile_keys;
  g.key_tile_bytes = int64_t{g.key_rows} * g.key_row_bytes * keys;
  g.value_tile_bytes = value_bits * g.value_dims * keys / 8;
  g.scale_tile_bytes = scaled ? 8 * keys : 0;
  g.value_offset = round_up(g.key_tile_bytes * tiles, 64);
  g.scale_offset = round_up(g.value_offset + g.value_tile_bytes * tiles, 64);
  g.head_bytes = round_up(g.scale_offset + g.scale_tile_bytes * tiles, 64);
  return g;
}

int64_t place_workspace(Workspace& work, uint8_t* base, int32_t head_dim, int32_t group) {
  const int64_t rows = group > kUnitRows ? group : kUnitRows;
  const int64_t dims = round_up(head_dim, 32);
  int64_t used = 0;
  auto bytes = [&](int64_t n) {
    uint8_t* place = base ? base + used : nullptr;
    used += round_up(n, 64);
    return place;
  };
  auto floats = [&](int64_t n) { return reinterpret_cast<float*>(bytes(n * 4)); };
  work.dims = dims;
  work.scores = floats(rows * kScoreStride);
  work.weights = bytes(rows * kScoreStride * 2);
  work.query = bytes(rows * head_dim * 4);
  for (float** each : {&work.query_scale, &work.query_sum, &work.max, &work.sum, &work.span_max, &work.span_sum,
                       &work.weight_scale, &work.weight_zero, &work.old_factor, &work.new_factor}) {
    *each = floats(rows);
  }
  work.token = reinterpret_cast<int32_t*>(bytes(rows * 4));
  work.values = floats(rows * dims);
  work.span_values = floats(rows * dims);
  work.scales = floats(4 * kSpan);
  work.key_tile = floats(kTileKeys * dims);
  work.value_tile = floats(kTileKeys * dims);
  work.edge = bytes(kTileKeys * dims * 4);
  work.joined_stride = 2 * kTileKeys * dims * 4 + 8 * kTileKeys;
  work.joined = bytes(kSpanTiles * work.joined_stride);
  return used;
}

KvLayout make_kv_layout(const ModelDescription& model, KvType type, int32_t block_len) {
  if (block_len != 8 && (block_len < 16 || block_len % 16 != 0)) {
    throw Error("invalid", "block_len " + std::to_string(block_len) + ": a block has 8 tokens or a multiple of 16");
  }
  KvLayout layout;
  layout.type = type;
  layout.block_len = block_len;
  for (size_t i = 0; i < model.layers.size(); ++i) {
    const AttentionSpec& spec = model.layers[i].attention;
    if (spec.head_dim < 32 || spec.head_dim > kMaxHeadDim || spec.head_dim % 8 != 0) {
      throw Error("unsupported", "layer " + std::to_string(i) + ": head_dim " + std::to_string(spec.head_dim) +
                                     "; attention on a CPU takes multiples of 8 from 32 to 256");
    }
    KvLayout::Layer layer;
    layer.kv_heads = spec.kv_heads;
    layer.head_dim = spec.head_dim;
    layer.offset = layout.block_bytes;
    layer.head_bytes = kv_geometry(type, spec.head_dim, block_len).head_bytes;
    layout.block_bytes += layer.head_bytes * layer.kv_heads;
    layout.layers.push_back(layer);
  }
  return layout;
}

}  // namespace deploykit::cpu
