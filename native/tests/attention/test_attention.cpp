// Attention against float64 on every instruction set, KV type and shape, with NaN wherever nothing was stored.
#include "attention/fixture.h"
#include "check.h"
#include "deploykit/error.h"

using namespace fixture;

namespace {

// Two rows, one long: prefilled in two chunks, then decoded together. All of the last chunks' tokens are compared.
double worst_error(const Shape& shape, Isa isa) {
  const bool bf16_dot = rounds_to_bf16(isa, shape.type);
  const AttentionKernels& kernels = attention_kernels(isa);
  Rows rows(shape, {299, 21}, 3);
  double worst = 0;
  auto compare = [&](const std::vector<Rows::Piece>& pieces, int32_t threads) {
    const std::vector<float> out = rows.step(kernels, pieces, threads);
    size_t at = 0;
    for (const Rows::Piece& piece : pieces) {
      for (int32_t t = 0; t < piece.count; ++t, ++at) {
        if (piece.count > 8 && t % 7 != 0 && t != piece.count - 1) continue;
        const std::vector<double> exact = rows.reference(piece.row, piece.start + t, bf16_dot);
        const double error = relative_error(&out[at * rows.width()], exact);
        if (!(error <= worst)) worst = error;  // NaN too
      }
    }
  };
  compare({{0, 0, 37}, {1, 0, 18}}, 1);
  compare({{0, 37, 260}, {1, 18, 1}}, 2);
  compare({{0, 297, 1}, {1, 19, 1}}, 2);
  compare({{1, 20, 1}, {0, 298, 1}}, 1);
  return worst;
}

void check_shape(const Shape& shape, const char* what) {
  for (Isa isa : available_isas()) {
    const double error = worst_error(shape, isa);
    if (!(error < 1e-3)) {
      check::fail(__FILE__, __LINE__, std::string(isa_name(isa)) + " " + kv_name(shape.type) + " " + what + ": error " +
                                          check::text(error));
    }
  }
}

}  // namespace

TEST(every_type_and_head_size) {
  for (KvType type : kv_types()) {
    for (int32_t head_dim : {64, 80, 96, 128, 256, 40}) {
      Shape shape;
      shape.type = type;
      shape.head_dim = head_dim;
      shape.heads = head_dim > 96 ? 2 : 3;
      check_shape(shape, ("head_dim " + std::to_string(head_dim)).c_str());
    }
  }
}

TEST(every_type_and_block_length) {
  for (KvType type : kv_types()) {
    for (int32_t block_len : {8, 16, 48, 256, 512}) {
      Shape shape;
      shape.type = type;
      shape.block_len = block_len;
      check_shape(shape, ("block_len " + std::to_string(block_len)).c_str());
    }
  }
}

TEST(every_type_and_group) {
  for (KvType type : kv_types()) {
    for (int32_t group : {1, 4, 8}) {
      Shape shape;
      shape.type = type;
      shape.kv_heads = group == 8 ? 1 : 2;
      shape.heads = group * shape.kv_heads;
      check_shape(shape, ("group " + std::to_string(group)).c_str());
    }
  }
  Shape many;  // more heads a KV head than a unit's usual rows
  many.heads = 71;
  check_shape(many, "group 71");
}

TEST(windows_soft_caps_and_sinks) {
  for (KvType type : kv_types()) {
    for (int32_t window : {1, 5, 16, 100, 257}) {
      Shape shape;
      shape.type = type;
      shape.window = window;
      shape.block_len = window == 5 ? 8 : 16;
      shape.sinks = window == 100;
      check_shape(shape, ("window " + std::to_string(window)).c_str());
    }
    Shape capped;
    capped.type = type;
    capped.softcap = 2.0f;
    check_shape(capped, "softcap");
    Shape sinks;
    sinks.type = type;
    sinks.sinks = true;
    check_shape(sinks, "sinks");
  }
}

TEST(channels_that_are_large_in_every_key_cost_4_bit_keys_little) {
  for (int32_t head_dim : {64, 80, 96, 128}) {
    // Three rows of the same numbers: as they are, through each key's own minimum and maximum, and as KV memory has them.
    Shape shape;
    shape.head_dim = head_dim;
    shape.type = KvType::f32;
    Rows exact(shape, {200}, 6), plain(shape, {200}, 6);
    shape.type = KvType::int4;
    Rows stored(shape, {200}, 6);
    for (Rows* rows : {&exact, &plain, &stored}) {
      std::vector<float>& keys = rows->keys(0);
      for (size_t i = 0; i < keys.size(); i += static_cast<size_t>(head_dim)) keys[i + 3] += 15.0f, keys[i + 40] -= 9.0f;
    }
    for (std::vector<float>* all : {&plain.keys(0), &plain.values(0)}) {
      for (size_t i = 0; i < all->size(); i += static_cast<size_t>(head_dim)) {
        const std::vector<double> y = quantized(all->data() + i, head_dim, 15);
        std::copy(y.begin(), y.end(), all->begin() + static_cast<long>(i));
      }
    }
    for (Isa isa : available_isas()) {
      const AttentionKernels& kernels = attention_kernels(isa);
      const auto run = [&](Rows& rows) { return rows.step(kernels, {{0, 0, 200}}); };
      const std::vector<float> truth = run(exact);
      const std::vector<double> wanted(truth.begin(), truth.end());
      const double before = relative_error(run(plain).data(), wanted), now = relative_error(run(stored).data(), wanted);
      if (!(now < 0.6 * before)) {
        check::fail(__FILE__, __LINE__, std::string(isa_name(isa)) + " head_dim " + std::to_string(head_dim) + ": error " +
                                            check::text(now) + ", by minimum and maximum alone " + check::text(before));
      }
    }
  }
}

TEST(layouts_are_whole_cache_lines_and_no_larger_than_they_say) {
  ModelDescription model;
  model.layers.resize(3);
  for (LayerSpec& layer : model.layers) {
    layer.attention.heads = 9;
    layer.attention.kv_heads = 3;
    layer.attention.head_dim = 64;
  }
  const int64_t per_token[] = {512, 256, 256, 136, 104, 72};
  for (KvType type : kv_types()) {
    for (int32_t block_len : {8, 16, 64, 256}) {
      const KvLayout layout = make_kv_layout(model, type, block_len);
      CHECK_EQ(layout.block_bytes % 64, 0);
      CHECK_EQ(layout.block_bytes, per_token[static_cast<int>(type)] * block_len * 9);
      CHECK_EQ(layout.layers[2].offset, 2 * 3 * layout.layers[0].head_bytes);
    }
  }
  CHECK_THROWS(make_kv_layout(model, KvType::fp8, 64), "unsupported");
  CHECK_THROWS(make_kv_layout(model, KvType::bf16, 24), "invalid");
  CHECK_THROWS(make_kv_layout(model, KvType::bf16, 4), "invalid");
  model.layers[1].attention.head_dim = 512;
  CHECK_THROWS(make_kv_layout(model, KvType::bf16, 64), "unsupported");
#if defined(__x86_64__)
  CHECK_THROWS(attention_kernels(Isa::neon), "unsupported");
#endif
}

CHECK_MAIN
