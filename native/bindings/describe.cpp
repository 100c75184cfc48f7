#include "bindings/describe.h"

#include <cstring>
#include <utility>

#include "bindings/buffers.h"

namespace deploykit::bindings {
namespace {

template <class T>
using Names = std::vector<std::pair<const char*, T>>;

const Names<NormKind> kNorms = {{"rms", NormKind::rms}, {"layer", NormKind::layer}};
const Names<Activation> kActivations = {{"silu", Activation::silu},
                                        {"gelu", Activation::gelu},
                                        {"gelu_tanh", Activation::gelu_tanh},
                                        {"relu", Activation::relu}};
const Names<QkNorm> kQkNorms = {{"none", QkNorm::none}, {"head", QkNorm::head}, {"full", QkNorm::full}};
const Names<DType> kDTypes = {{"f32", DType::f32}, {"f16", DType::f16}, {"bf16", DType::bf16}};
const Names<DeviceKind> kDevices = {{"cpu", DeviceKind::cpu}, {"cuda", DeviceKind::cuda}, {"null", DeviceKind::null}};
const Names<KvType> kKvTypes = {{"f32", KvType::f32},   {"f16", KvType::f16},   {"bf16", KvType::bf16},
                                {"int8", KvType::int8}, {"k8v4", KvType::k8v4}, {"int4", KvType::int4},
                                {"fp8", KvType::fp8}};
const Names<WeightFormat> kFormats = {
    {"f32", WeightFormat::f32},   {"f16", WeightFormat::f16},   {"bf16", WeightFormat::bf16},
    {"int8", WeightFormat::int8}, {"q4_0", WeightFormat::q4_0}, {"q4_1", WeightFormat::q4_1},
    {"q5_0", WeightFormat::q5_0}, {"q5_1", WeightFormat::q5_1}, {"q8_0", WeightFormat::q8_0},
    {"q4_k", WeightFormat::q4_k}, {"q5_k", WeightFormat::q5_k}, {"q6_k", WeightFormat::q6_k},
    {"awq", WeightFormat::awq},   {"gptq", WeightFormat::gptq}};

template <class T>
T by_name(const Names<T>& names, const std::string& name, const std::string& what) {
  std::string all;
  for (const auto& [known, value] : names) {
    if (name == known) return value;
    all += (all.empty() ? "" : ", ") + std::string(known);
  }
  throw Error("invalid", what + ": unknown '" + name + "'; it is one of " + all);
}

// The values of a dict, each read once: what was not read is an unknown key.
class Fields {
 public:
  Fields(py::handle object, std::string where) : where_(std::move(where)) {
    if (!py::isinstance<py::dict>(object)) {
      throw Error("invalid", where_ + ": a " + std::string(Py_TYPE(object.ptr())->tp_name) + " is no dict");
    }
    dict_ = py::reinterpret_borrow<py::dict>(object);
  }

  void get(const char* key, int32_t& out) { read(key, [&](py::handle v, const char* at) { out = to_int(v, at); }); }
  void get(const char* key, int64_t& out) { read(key, [&](py::handle v, const char* at) { out = to_int64(v, at); }); }
  void get(const char* key, bool& out) { read(key, [&](py::handle v, const char* at) { out = to_bool(v, at); }); }
  void get(const char* key, std::string& out) {
    read(key, [&](py::handle v, const char* at) { out = to_string(v, at); });
  }
  void get(const char* key, float& out) {
    read(key, [&](py::handle v, const char* at) { out = static_cast<float>(to_double(v, at)); });
  }
  template <class T>
  void get(const char* key, T& out, const Names<T>& names) {
    read(key, [&](py::handle v, const char* at) { out = by_name(names, to_string(v, at), at); });
  }
  // fn(value, where)
  template <class F>
  void read(const char* key, F fn) {
    const py::handle value = PyDict_GetItemString(dict_.ptr(), key);
    if (!value) return;
    ++seen_;
    known_.emplace_back(key);
    fn(value, (where_ + "." + key).c_str());
  }
  template <class F>
  void each(const char* key, F fn) {
    read(key, [&](py::handle list, const char* at) {
      size_t index = 0;
      for (py::handle item : items(list, at)) fn(item, std::string(at) + "[" + std::to_string(index++) + "]");
    });
  }
  static std::vector<py::object> items(py::handle list, const char* at) {
    if (!PyList_Check(list.ptr()) && !PyTuple_Check(list.ptr())) {
      throw Error("invalid", std::string(at) + ": a " + Py_TYPE(list.ptr())->tp_name + " is no list");
    }
    std::vector<py::object> all;
    for (py::handle item : list) all.push_back(py::reinterpret_borrow<py::object>(item));
    return all;
  }
  // All keys were known ones.
  void end() const {
    if (seen_ == static_cast<Py_ssize_t>(dict_.size())) return;
    for (const auto& entry : dict_) {
      const std::string key = to_string(entry.first, where_.c_str());
      bool known = false;
      for (const char* name : known_) known |= key == name;
      if (!known) throw Error("invalid", where_ + ": unknown key '" + key + "'");
    }
  }

 private:
  std::string where_;
  py::dict dict_;
  Py_ssize_t seen_ = 0;
  std::vector<const char*> known_;
};

Norm read_norm(py::handle object, const std::string& where) {
  Fields f(object, where);
  Norm norm;
  f.get("kind", norm.kind, kNorms);
  f.get("eps", norm.eps);
  f.get("weight_offset", norm.weight_offset);
  f.end();
  return norm;
}

Rope read_rope(py::handle object, const std::string& where) {
  Fields f(object, where);
  Rope rope;
  f.each("inv_freq", [&](py::handle value, const std::string& at) {
    rope.inv_freq.push_back(static_cast<float>(to_double(value, at.c_str())));
  });
  f.get("attention_factor", rope.attention_factor);
  f.get("interleaved", rope.interleaved);
  f.end();
  return rope;
}

AttentionSpec read_attention(py::handle object, const std::string& where) {
  Fields f(object, where);
  AttentionSpec a;
  f.get("heads", a.heads);
  f.get("kv_heads", a.kv_heads);
  f.get("head_dim", a.head_dim);
  f.get("scale", a.scale);
  f.get("rope", a.rope);
  f.get("window", a.window);
  f.get("softcap", a.softcap);
  f.get("qk_norm", a.qk_norm, kQkNorms);
  f.get("qkv_bias", a.qkv_bias);
  f.get("o_bias", a.o_bias);
  f.get("sinks", a.sinks);
  f.get("logn_trained_len", a.logn_trained_len);
  f.end();
  return a;
}

MlpSpec read_mlp(py::handle object, const std::string& where) {
  Fields f(object, where);
  MlpSpec m;
  f.get("intermediate", m.intermediate);
  f.get("activation", m.activation, kActivations);
  f.get("gated", m.gated);
  f.get("bias", m.bias);
  f.read("moe", [&](py::handle value, const char* at) {
    Fields moe(value, at);
    moe.get("experts", m.moe.experts);
    moe.get("top_k", m.moe.top_k);
    moe.get("normalize", m.moe.normalize);
    moe.get("sigmoid", m.moe.sigmoid);
    moe.get("softmax_after_topk", m.moe.softmax_after_topk);
    moe.end();
  });
  f.end();
  return m;
}

LayerSpec read_layer(py::handle object, const std::string& where) {
  Fields f(object, where);
  LayerSpec layer;
  f.read("attention", [&](py::handle value, const char* at) { layer.attention = read_attention(value, at); });
  f.read("mlp", [&](py::handle value, const char* at) { layer.mlp = read_mlp(value, at); });
  f.get("attn_norm", layer.attn_norm);
  f.get("attn_post_norm", layer.attn_post_norm);
  f.get("mlp_norm", layer.mlp_norm);
  f.get("mlp_post_norm", layer.mlp_post_norm);
  f.get("residual_multiplier", layer.residual_multiplier);
  f.end();
  return layer;
}

}  // namespace

DeviceKind read_device(const std::string& name) { return by_name(kDevices, name, "device"); }
KvType read_kv(const std::string& name) { return by_name(kKvTypes, name, "kv"); }

ModelDescription read_model(py::handle object) {
  Fields f(object, "model");
  ModelDescription m;
  f.get("hidden", m.hidden);
  f.get("vocab", m.vocab);
  f.read("norm", [&](py::handle value, const char* at) { m.norm = read_norm(value, at); });
  f.get("norm_bias", m.norm_bias);
  f.each("ropes", [&](py::handle value, const std::string& at) { m.ropes.push_back(read_rope(value, at)); });
  f.each("layers", [&](py::handle value, const std::string& at) { m.layers.push_back(read_layer(value, at)); });
  f.get("embedding_multiplier", m.embedding_multiplier);
  f.get("logits_multiplier", m.logits_multiplier);
  f.get("logits_softcap", m.logits_softcap);
  f.get("tied", m.tied);
  f.get("head_bias", m.head_bias);
  f.end();
  return m;
}

EngineOptions read_options(py::handle object) {
  Fields f(object, "options");
  EngineOptions o;
  f.get("device", o.device, kDevices);
  f.get("device_index", o.device_index);
  f.get("dtype", o.dtype, kDTypes);
  f.get("kv", o.kv, kKvTypes);
  f.get("block_len", o.block_len);
  f.get("num_blocks", o.num_blocks);
  f.get("max_rows", o.max_rows);
  f.get("session_len", o.session_len);
  f.get("max_step_tokens", o.max_step_tokens);
  f.get("threads", o.threads);
  f.get("int8_head", o.int8_head);
  f.get("isa", o.isa);
  f.end();
  return o;
}

WeightSpec read_weight_spec(py::handle object) {
  Fields f(object, "weight");
  WeightSpec spec;
  f.get("name", spec.name);
  f.get("format", spec.format, kFormats);
  f.get("rows", spec.rows);
  f.get("cols", spec.cols);
  f.get("group", spec.group);
  f.end();
  return spec;
}

std::vector<WeightSpec> read_manifest(py::handle list) {
  std::vector<WeightSpec> manifest;
  for (const py::object& item : Fields::items(list, "manifest")) manifest.push_back(read_weight_spec(item));
  return manifest;
}

py::dict write_weight_spec(const WeightSpec& spec) {
  const char* format = "";
  for (const auto& [name, value] : kFormats) {
    if (value == spec.format) format = name;
  }
  py::dict out;
  out["name"] = spec.name;
  out["format"] = format;
  out["rows"] = spec.rows;
  out["cols"] = spec.cols;
  out["group"] = spec.group;
  return out;
}

py::dict write_capacity(const Capacity& c) {
  py::dict out;
  out["max_rows"] = c.max_rows;
  out["overlap_depth"] = c.overlap_depth;
  out["block_len"] = c.block_len;
  out["block_bytes"] = c.block_bytes;
  out["num_blocks"] = c.num_blocks;
  out["session_len"] = c.session_len;
  out["vocab"] = c.vocab;
  out["max_step_tokens"] = c.max_step_tokens;
  out["weight_bytes"] = c.weight_bytes;
  out["kv_bytes"] = c.kv_bytes;
  out["scratch_bytes"] = c.scratch_bytes;
  return out;
}

}  // namespace deploykit::bindings
