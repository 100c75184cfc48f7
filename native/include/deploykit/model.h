// A decoder-only transformer described by data: what the library computes, without a class per family.
//
// Weights are named by their role (`layers.3.q.weight`), see weights.h. All linear layers are [out, in] row-major,
// as checkpoints store them.
#pragma once

#include <cstdint>
#include <vector>

#include "deploykit/export.h"

namespace deploykit {

enum class NormKind : int32_t { rms = 0, layer = 1 };
enum class Activation : int32_t { silu = 0, gelu = 1, gelu_tanh = 2, relu = 3 };

// Normalization of Q and K before the rotation: none, over each head, or over all heads of the projection together.
enum class QkNorm : int32_t { none = 0, head = 1, full = 2 };

struct Norm {
  NormKind kind = NormKind::rms;
  float eps = 1e-5f;
  float weight_offset = 0.0f;  // 1 where the checkpoint stores weight - 1 (Gemma)
};

// Rotation of the first 2 * inv_freq.size() dimensions of a head; the others pass unchanged.
// angle(position, i) = position * inv_freq[i], in float32. cos and sin are multiplied by attention_factor.
// All scalings (linear, dynamic, llama3, yarn, longrope) are already in inv_freq and attention_factor.
struct Rope {
  std::vector<float> inv_freq;
  float attention_factor = 1.0f;
  bool interleaved = false;  // pairs (2i, 2i + 1) instead of (i, i + dims / 2)
};

struct AttentionSpec {
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  float scale = 0.0f;            // of q . k
  int32_t rope = -1;             // index into ModelDescription::ropes; -1 = no rotation
  int32_t window = 0;            // a query sees itself and window - 1 tokens before it; 0 = all
  float softcap = 0.0f;          // cap * tanh(score / cap); 0 = off
  QkNorm qk_norm = QkNorm::none;
  bool qkv_bias = false;
  bool o_bias = false;
  bool sinks = false;            // a learned logit a head that takes part in the softmax's sum alone
  int32_t logn_trained_len = 0;  // q *= max(1, log(position + 1) / log(trained_len)); 0 = off
};

// Routed experts: softmax (or sigmoid) over all router logits, the best top_k, their weights normalized to 1 if asked.
struct MoeSpec {
  int32_t experts = 0;  // 0 = a dense MLP
  int32_t top_k = 0;
  bool normalize = false;
  bool sigmoid = false;
  bool softmax_after_topk = false;  // softmax over the chosen logits alone (Mixtral's result is the same either way)
};

struct MlpSpec {
  int32_t intermediate = 0;  // of one expert where there are experts
  Activation activation = Activation::silu;
  bool gated = true;  // down(act(gate(x)) * up(x)); else down(act(up(x)))
  bool bias = false;
  MoeSpec moe;
};

// x += m * post(attention(pre(x))); x += m * post(mlp(pre(x))), m = residual_multiplier. Norms not present are identity.
struct LayerSpec {
  AttentionSpec attention;
  MlpSpec mlp;
  bool attn_norm = true;        // layers.N.attn_norm
  bool attn_post_norm = false;  // layers.N.attn_post_norm, on attention's output
  bool mlp_norm = true;         // layers.N.mlp_norm
  bool mlp_post_norm = false;   // layers.N.mlp_post_norm, on the MLP's output
  float residual_multiplier = 1.0f;
};

struct ModelDescription {
  int32_t hidden = 0;
  int32_t vocab = 0;  // rows of the output head: the width of the logits
  Norm norm;          // all norms of the model, Q and K norms included
  bool norm_bias = false;
  std::vector<Rope> ropes;
  std::vector<LayerSpec> layers;
  float embedding_multiplier = 1.0f;
  float logits_multiplier = 1.0f;
  float logits_softcap = 0.0f;  // 0 = off
  bool tied = false;            // the output head is the embedding table
  bool head_bias = false;

  // Throws Error("invalid" | "unsupported") that names the layer and the field.
  DEPLOYKIT_EXPORT void validate() const;
};

}  // namespace deploykit
