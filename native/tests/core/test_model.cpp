#include <limits>

#include "check.h"
#include "core/manifest.h"
#include "deploykit/error.h"
#include "deploykit/model.h"
#include "deploykit/weights.h"

using namespace deploykit;

namespace {

ModelDescription small() {
  ModelDescription m;
  m.hidden = 64;
  m.vocab = 100;
  m.ropes.push_back({{1.0f, 0.1f}, 1.0f, false});
  LayerSpec layer;
  layer.attention.heads = 4;
  layer.attention.kv_heads = 2;
  layer.attention.head_dim = 16;
  layer.attention.scale = 0.25f;
  layer.attention.rope = 0;
  layer.mlp.intermediate = 128;
  m.layers.assign(2, layer);
  return m;
}

// The description with `change` is refused, and the message names `field`.
template <class F>
void refused(F change, const char* field) {
  ModelDescription m = small();
  change(m);
  try {
    m.validate();
    check::fail(__FILE__, __LINE__, std::string("accepted: ") + field);
  } catch (const Error& error) {
    CHECK(error.code() == "invalid" || error.code() == "unsupported");
    if (std::string(error.what()).find(field) == std::string::npos) {
      check::fail(__FILE__, __LINE__, std::string(field) + " is not named: " + error.what());
    }
  }
}

std::vector<std::string> names(const std::vector<WeightSpec>& specs) {
  std::vector<std::string> all;
  for (const WeightSpec& spec : specs) all.push_back(spec.name);
  return all;
}

StoredBytes bytes_of(WeightFormat format, int64_t rows, int64_t cols, int32_t group = 0) {
  return stored_bytes({"w", format, rows, cols, group});
}

}  // namespace

TEST(a_sound_description) { small().validate(); }

TEST(every_field_is_checked) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  refused([](auto& m) { m.hidden = 0; }, "hidden");
  refused([](auto& m) { m.vocab = -1; }, "vocab");
  refused([](auto& m) { m.vocab = INT32_MAX; }, "vocab");
  refused([](auto& m) { m.layers.clear(); }, "layers");
  refused([](auto& m) { m.norm.kind = static_cast<NormKind>(7); }, "norm.kind");
  refused([&](auto& m) { m.norm.eps = nan; }, "norm.eps");
  refused([](auto& m) { m.norm.eps = -1; }, "norm.eps");
  refused([&](auto& m) { m.norm.weight_offset = inf; }, "norm.weight_offset");
  refused([](auto& m) { m.ropes[0].inv_freq.clear(); }, "ropes[0].inv_freq");
  refused([&](auto& m) { m.ropes[0].inv_freq[1] = nan; }, "ropes[0].inv_freq");
  refused([&](auto& m) { m.ropes[0].attention_factor = nan; }, "ropes[0].attention_factor");
  refused([](auto& m) { m.ropes[0].inv_freq.resize(9, 1.0f); }, "layers[0].attention.rope");
  refused([](auto& m) { m.layers[1].attention.rope = 1; }, "layers[1].attention.rope");
  refused([](auto& m) { m.layers[1].attention.rope = -2; }, "layers[1].attention.rope");
  refused([](auto& m) { m.layers[1].attention.heads = 0; }, "layers[1].attention.heads");
  refused([](auto& m) { m.layers[1].attention.kv_heads = 3; }, "layers[1].attention.kv_heads");
  refused([](auto& m) { m.layers[1].attention.kv_heads = 0; }, "layers[1].attention.kv_heads");
  refused([](auto& m) { m.layers[1].attention.head_dim = 0; }, "layers[1].attention.head_dim");
  refused([](auto& m) { m.layers[1].attention.scale = 0; }, "layers[1].attention.scale");
  refused([](auto& m) { m.layers[1].attention.window = -1; }, "layers[1].attention.window");
  refused([](auto& m) { m.layers[1].attention.softcap = -1; }, "layers[1].attention.softcap");
  refused([](auto& m) { m.layers[1].attention.qk_norm = static_cast<QkNorm>(-1); }, "layers[1].attention.qk_norm");
  refused([](auto& m) { m.layers[1].attention.logn_trained_len = 1; }, "layers[1].attention.logn_trained_len");
  refused([](auto& m) { m.layers[0].mlp.intermediate = 0; }, "layers[0].mlp.intermediate");
  refused([](auto& m) { m.layers[0].mlp.activation = static_cast<Activation>(9); }, "layers[0].mlp.activation");
  refused([](auto& m) { m.layers[0].mlp.moe.experts = -1; }, "layers[0].mlp.moe.experts");
  refused([](auto& m) { m.layers[0].mlp.moe.top_k = 1; }, "layers[0].mlp.moe.top_k");
  refused([](auto& m) { m.layers[0].mlp.moe = {4, 5, false, false, false}; }, "layers[0].mlp.moe.top_k");
  refused([](auto& m) { m.layers[0].mlp.moe = {4, 2, false, true, true}; }, "softmax_after_topk");
  refused([&](auto& m) { m.layers[0].residual_multiplier = nan; }, "layers[0].residual_multiplier");
  refused([&](auto& m) { m.embedding_multiplier = nan; }, "embedding_multiplier");
  refused([&](auto& m) { m.logits_multiplier = inf; }, "logits_multiplier");
  refused([](auto& m) { m.logits_softcap = -3; }, "logits_softcap");
  refused([](auto& m) { m.tied = m.head_bias = true; }, "head_bias");
}

TEST(required_weights_in_order) {
  ModelDescription m = small();
  m.layers.resize(1);
  CHECK((names(required_weights(m)) ==
         std::vector<std::string>{"embed.weight", "layers.0.attn_norm.weight", "layers.0.q.weight", "layers.0.k.weight",
                                  "layers.0.v.weight", "layers.0.o.weight", "layers.0.mlp_norm.weight",
                                  "layers.0.gate.weight", "layers.0.up.weight", "layers.0.down.weight",
                                  "final_norm.weight", "head.weight"}));
  m.tied = true;
  m.norm_bias = true;
  AttentionSpec& a = m.layers[0].attention;
  a.qkv_bias = a.o_bias = a.sinks = true;
  a.qk_norm = QkNorm::full;
  m.layers[0].attn_norm = m.layers[0].mlp_norm = false;
  m.layers[0].attn_post_norm = m.layers[0].mlp_post_norm = true;
  m.layers[0].mlp.moe = {2, 1, false, false, false};
  m.layers[0].mlp.gated = false;
  const std::vector<WeightSpec> all = required_weights(m);
  CHECK((names(all) ==
         std::vector<std::string>{
             "embed.weight", "layers.0.q.weight", "layers.0.q.bias", "layers.0.k.weight", "layers.0.k.bias",
             "layers.0.v.weight", "layers.0.v.bias", "layers.0.q_norm.weight", "layers.0.k_norm.weight",
             "layers.0.sinks", "layers.0.o.weight", "layers.0.o.bias", "layers.0.attn_post_norm.weight",
             "layers.0.attn_post_norm.bias", "layers.0.router.weight", "layers.0.experts.0.up.weight",
             "layers.0.experts.0.down.weight", "layers.0.experts.1.up.weight", "layers.0.experts.1.down.weight",
             "layers.0.mlp_post_norm.weight", "layers.0.mlp_post_norm.bias", "final_norm.weight", "final_norm.bias"}));
  for (const WeightSpec& spec : all) {
    if (spec.name == "layers.0.k_norm.weight") CHECK(spec.rows == 1 && spec.cols == 32);
    if (spec.name == "layers.0.o.weight") CHECK(spec.rows == 64 && spec.cols == 64);
    if (spec.name == "layers.0.experts.1.down.weight") CHECK(spec.rows == 64 && spec.cols == 128);
  }
}

TEST(stored_bytes_of_every_format) {
  CHECK_EQ(bytes_of(WeightFormat::f32, 3, 5).data, 60);
  CHECK_EQ(bytes_of(WeightFormat::bf16, 3, 5).data, 30);
  CHECK_EQ(bytes_of(WeightFormat::int8, 3, 5).data, 15);
  CHECK_EQ(bytes_of(WeightFormat::int8, 3, 5).scales, 12);
  CHECK_EQ(bytes_of(WeightFormat::q4_0, 3, 64).data, 3 * 2 * 18);
  CHECK_EQ(bytes_of(WeightFormat::q4_1, 3, 64).data, 3 * 2 * 20);
  CHECK_EQ(bytes_of(WeightFormat::q5_0, 3, 64).data, 3 * 2 * 22);
  CHECK_EQ(bytes_of(WeightFormat::q5_1, 3, 64).data, 3 * 2 * 24);
  CHECK_EQ(bytes_of(WeightFormat::q8_0, 3, 64).data, 3 * 2 * 34);
  CHECK_EQ(bytes_of(WeightFormat::q4_k, 3, 512).data, 3 * 2 * 144);
  CHECK_EQ(bytes_of(WeightFormat::q5_k, 3, 512).data, 3 * 2 * 176);
  CHECK_EQ(bytes_of(WeightFormat::q6_k, 3, 512).data, 3 * 2 * 210);
  for (WeightFormat format : {WeightFormat::awq, WeightFormat::gptq}) {
    const StoredBytes bytes = bytes_of(format, 16, 256, 128);
    CHECK_EQ(bytes.data, 16 * 256 / 2);
    CHECK_EQ(bytes.scales, 2 * 16 * 2);
    CHECK_EQ(bytes.zeros, 2 * 16 / 2);
  }
}

TEST(shapes_that_no_format_has) {
  CHECK_THROWS(bytes_of(WeightFormat::q4_0, 1, 33), "invalid");
  CHECK_THROWS(bytes_of(WeightFormat::q6_k, 1, 128), "invalid");
  CHECK_THROWS(bytes_of(WeightFormat::awq, 12, 128, 128), "invalid");
  CHECK_THROWS(bytes_of(WeightFormat::awq, 16, 192, 128), "invalid");
  CHECK_THROWS(bytes_of(WeightFormat::gptq, 16, 128, 0), "invalid");
  CHECK_THROWS(bytes_of(WeightFormat::gptq, 16, 12, 12), "invalid");
  CHECK_THROWS(bytes_of(WeightFormat::f32, 0, 4), "invalid");
  CHECK_THROWS(bytes_of(WeightFormat::f32, int64_t{1} << 31, int64_t{1} << 31), "invalid");
  CHECK_THROWS(bytes_of(WeightFormat::f32, INT64_MAX, INT64_MAX), "invalid");
  CHECK_THROWS(bytes_of(static_cast<WeightFormat>(99), 4, 4), "invalid");
}

TEST(a_manifest_is_exactly_what_the_model_needs) {
  const ModelDescription m = small();
  const std::vector<WeightSpec> sound = required_weights(m);
  check_manifest(m, sound);
  std::vector<WeightSpec> bad = sound;
  bad.pop_back();
  CHECK_THROWS(check_manifest(m, bad), "missing");
  bad = sound;
  bad.push_back(bad[3]);
  CHECK_THROWS(check_manifest(m, bad), "invalid");
  bad = sound;
  bad.push_back({"layers.7.q.weight", WeightFormat::f32, 64, 64, 0});
  CHECK_THROWS(check_manifest(m, bad), "invalid");
  bad = sound;
  bad[2].cols += 1;
  CHECK_THROWS(check_manifest(m, bad), "invalid");
  bad = sound;
  bad[1].format = WeightFormat::q8_0;  // a norm
  CHECK_THROWS(check_manifest(m, bad), "invalid");
  bad = sound;
  bad[2].format = WeightFormat::q8_0;  // a matrix
  check_manifest(m, bad);
}

TEST(weights_are_given_once_and_whole) {
  const WeightSpec spec{"w", WeightFormat::int8, 2, 4, 0};
  WeightLedger ledger({spec});
  const char bytes[8] = {};
  WeightTensor tensor{spec, bytes, 8, bytes, 8, nullptr, 0, 0};
  ledger.check(tensor);
  CHECK_THROWS(ledger.check_complete(), "missing");
  WeightTensor bad = tensor;
  bad.data_bytes = 7;
  CHECK_THROWS(ledger.check(bad), "invalid");
  bad = tensor;
  bad.scales = nullptr;
  CHECK_THROWS(ledger.check(bad), "invalid");
  bad = tensor;
  bad.zeros_bytes = 1;
  CHECK_THROWS(ledger.check(bad), "invalid");
  bad = tensor;
  bad.zero_offset = 1;
  CHECK_THROWS(ledger.check(bad), "invalid");
  bad = tensor;
  bad.spec.rows = 4;
  bad.spec.cols = 2;
  CHECK_THROWS(ledger.check(bad), "invalid");
  bad = tensor;
  bad.spec.name = "other";
  CHECK_THROWS(ledger.check(bad), "invalid");
  ledger.given("w");
  ledger.check_complete();
  CHECK_THROWS(ledger.check(tensor), "invalid");
  CHECK_THROWS(WeightLedger({spec, spec}), "invalid");
}

CHECK_MAIN
