// Descriptions of tiny models, one for each thing that a family may need.
#pragma once

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "deploykit/model.h"

namespace shapes {

using namespace deploykit;

inline Rope rope(int32_t dims, float theta = 10000.0f, bool interleaved = false) {
  Rope r;
  r.interleaved = interleaved;
  for (int32_t i = 0; i < dims / 2; ++i) {
    r.inv_freq.push_back(std::pow(theta, -2.0f * static_cast<float>(i) / static_cast<float>(dims)));
  }
  return r;
}

// Grouped queries, RMSNorm, gated SiLU: a Llama. 64 wide, so that formats in blocks of 32 fit too.
inline ModelDescription llama(int32_t heads = 4, int32_t kv_heads = 2, int32_t head_dim = 32, int32_t layers = 2) {
  ModelDescription d;
  d.hidden = 64;
  d.vocab = 77;
  d.ropes = {rope(head_dim)};
  LayerSpec layer;
  layer.attention.heads = heads;
  layer.attention.kv_heads = kv_heads;
  layer.attention.head_dim = head_dim;
  layer.attention.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  layer.attention.rope = 0;
  layer.mlp.intermediate = 96;
  d.layers.assign(static_cast<size_t>(layers), layer);
  return d;
}

inline ModelDescription tied() {
  ModelDescription d = llama(6, 3, 32);
  d.vocab = 96;
  d.tied = true;
  d.embedding_multiplier = 3.0f;
  d.logits_multiplier = 0.25f;
  for (LayerSpec& layer : d.layers) layer.residual_multiplier = 0.5f;
  d.ropes = {rope(32, 5000.0f, true)};
  return d;
}

inline ModelDescription biases() {  // Qwen2, with o and head biases as well
  ModelDescription d = llama(4, 4, 32);
  for (LayerSpec& layer : d.layers) {
    layer.attention.qkv_bias = layer.attention.o_bias = layer.mlp.bias = true;
  }
  d.head_bias = true;
  return d;
}

inline ModelDescription head_norms() {  // Qwen3; heads that are not whole tiles
  ModelDescription d = llama(4, 2, 40);
  for (LayerSpec& layer : d.layers) layer.attention.qk_norm = QkNorm::head;
  d.ropes = {rope(24)};  // a part of the head
  return d;
}

inline ModelDescription full_norms() {  // OLMo2: norms after the blocks alone
  ModelDescription d = llama();
  for (LayerSpec& layer : d.layers) {
    layer.attention.qk_norm = QkNorm::full;
    layer.attn_norm = layer.mlp_norm = false;
    layer.attn_post_norm = layer.mlp_post_norm = true;
  }
  return d;
}

inline ModelDescription gemma() {  // windows on some layers, caps, four norms, weight - 1, two ropes
  ModelDescription d = llama(4, 2, 32, 3);
  d.norm.weight_offset = 1.0f;
  d.embedding_multiplier = 8.0f;
  d.logits_softcap = 20.0f;
  d.ropes = {rope(32), rope(32, 1000.0f)};
  for (LayerSpec& layer : d.layers) {
    layer.attn_post_norm = layer.mlp_post_norm = true;
    layer.attention.softcap = 5.0f;
    layer.mlp.activation = Activation::gelu_tanh;
  }
  d.layers[0].attention.window = d.layers[2].attention.window = 7;
  d.layers[0].attention.rope = 1;
  return d;
}

inline ModelDescription layer_norm() {  // LayerNorm with biases, an MLP without a gate, no rotation
  ModelDescription d = llama();
  d.norm.kind = NormKind::layer;
  d.norm_bias = true;
  for (LayerSpec& layer : d.layers) {
    layer.attention.rope = -1;
    layer.mlp.gated = false;
    layer.mlp.bias = true;
    layer.mlp.activation = Activation::gelu;
  }
  return d;
}

inline ModelDescription log_n() {
  ModelDescription d = llama();
  for (LayerSpec& layer : d.layers) layer.attention.logn_trained_len = 8;
  return d;
}

inline ModelDescription sinks() {  // a layer's heads differ from the other's
  ModelDescription d = llama();
  for (LayerSpec& layer : d.layers) layer.attention.sinks = true;
  d.layers[1].attention.heads = 8;
  d.layers[1].attention.kv_heads = 1;
  d.layers[1].attention.window = 5;
  return d;
}

inline ModelDescription experts(bool sigmoid = false) {
  ModelDescription d = llama();
  for (LayerSpec& layer : d.layers) {
    layer.mlp.intermediate = 32;
    layer.mlp.moe.experts = 6;
    layer.mlp.moe.top_k = 2;
    layer.mlp.moe.normalize = !sigmoid;
    layer.mlp.moe.sigmoid = sigmoid;
  }
  if (sigmoid) {
    d.layers[0].mlp.moe = {};  // a dense layer among them
    d.layers[1].mlp_post_norm = true;
    d.layers[1].mlp.bias = true;
    d.layers[1].mlp.moe.top_k = 3;
  }
  return d;
}

inline std::vector<std::pair<std::string, ModelDescription>> all() {
  ModelDescription softmax = experts();
  for (LayerSpec& layer : softmax.layers) layer.mlp.moe.normalize = false;
  return {{"llama", llama()},         {"tied", tied()},     {"biases", biases()},     {"head_norms", head_norms()},
          {"full_norms", full_norms()}, {"gemma", gemma()},   {"layer_norm", layer_norm()}, {"log_n", log_n()},
          {"sinks", sinks()},         {"experts", experts()}, {"softmax", softmax},     {"sigmoid", experts(true)}};
}

}  // namespace shapes
