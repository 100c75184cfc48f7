#include "bindings/steps.h"

#include <cstring>

#include "bindings/buffers.h"

namespace deploykit::bindings {
namespace {

// An attribute's name, interned once: reading an attribute by it is a pointer comparison.
class Name {
 public:
  explicit Name(const char* text) : text_(text), object_(PyUnicode_InternFromString(text)) {}
  // Throws Error("invalid") where the object has no such attribute.
  py::object of(py::handle object) const {
    PyObject* value = PyObject_GetAttr(object.ptr(), object_);
    if (value == nullptr) {
      PyErr_Clear();
      throw Error("invalid", std::string("step: a ") + Py_TYPE(object.ptr())->tp_name + " has no '" + text_ + "'");
    }
    return py::reinterpret_steal<py::object>(value);
  }
  int32_t integer(py::handle object) const { return to_int(of(object), text_); }
  float real(py::handle object) const { return static_cast<float>(to_double(of(object), text_)); }
  double wide(py::handle object) const { return to_double(of(object), text_); }
  std::vector<int32_t> integers(py::handle object) const { return int_list(of(object), text_); }
  int32_t optional(py::handle object) const {
    const py::object value = of(object);
    return value.is_none() ? -1 : to_int(value, text_);
  }
  const char* text() const { return text_; }

 private:
  const char* text_;
  PyObject* object_;  // kept for as long as the process lives
};

struct Names {
  Name row{"row"}, epoch{"epoch"}, group{"group"}, blocks{"blocks"}, num_blocks{"num_blocks"}, src{"src"}, dst{"dst"};
  Name tokens{"tokens"}, prompt_len{"prompt_len"}, computed{"computed"}, limit{"limit"}, sampling{"sampling"};
  Name seed{"seed"}, eos_token_ids{"eos_token_ids"}, adapter{"adapter"}, grammar{"grammar"}, positions{"positions"};
  Name spans{"spans"}, start{"start"}, length{"length"}, handle{"handle"}, bidirectional{"bidirectional"};
  Name temperature{"temperature"}, top_p{"top_p"}, top_k{"top_k"}, min_p{"min_p"};
  Name repetition_penalty{"repetition_penalty"}, frequency_penalty{"frequency_penalty"};
  Name presence_penalty{"presence_penalty"}, logit_bias{"logit_bias"}, min_tokens{"min_tokens"};
  Name stop_token_ids{"stop_token_ids"}, bad_words{"bad_words"}, logprobs{"logprobs"};
  Name prompt_logprobs{"prompt_logprobs"};
};

const Names& names() {
  static const Names* all = new Names();
  return *all;
}

template <class T, class F>
std::vector<T> each(py::handle sequence, const char* what, F fn) {
  const auto items = py::reinterpret_steal<py::object>(PySequence_Fast(sequence.ptr(), ""));
  if (!items) {
    PyErr_Clear();
    throw Error("invalid", std::string("step: ") + what + " are no sequence");
  }
  const Py_ssize_t count = PySequence_Fast_GET_SIZE(items.ptr());
  std::vector<T> all;
  all.reserve(static_cast<size_t>(count));
  for (Py_ssize_t i = 0; i < count; ++i) {
    const auto item = py::reinterpret_borrow<py::object>(PySequence_Fast_GET_ITEM(items.ptr(), i));
    all.push_back(fn(item));
  }
  return all;
}

Span read_span(py::handle object) {
  const Names& n = names();
  Span span;
  span.start = n.start.integer(object);
  span.length = n.length.integer(object);
  span.handle = to_string(n.handle.of(object), "handle");
  span.bidirectional = to_bool(n.bidirectional.of(object), "bidirectional");
  return span;
}

Admit read_admit(py::handle object) {
  const Names& n = names();
  Admit a;
  a.row = n.row.integer(object);
  a.epoch = n.epoch.integer(object);
  a.tokens = Buffer(n.tokens.of(object), "tokens").ints("tokens");
  a.prompt_len = n.prompt_len.integer(object);
  a.computed = n.computed.integer(object);
  a.limit = n.limit.integer(object);
  a.sampling = read_sampling(n.sampling.of(object));
  a.seed = to_uint64(n.seed.of(object), "seed");
  a.eos_token_ids = n.eos_token_ids.integers(object);
  if (const py::object adapter = n.adapter.of(object); !adapter.is_none()) a.adapter = to_string(adapter, "adapter");
  a.grammar = n.grammar.optional(object);
  a.positions = Buffer(n.positions.of(object), "positions").ints("positions");
  a.spans = each<Span>(n.spans.of(object), "spans", read_span);
  return a;
}

template <class T, class F>
py::dict by_row(const std::vector<std::pair<int32_t, T>>& entries, F fn) {
  py::dict out;
  for (const auto& [row, value] : entries) out[py::int_(row)] = fn(value);
  return out;
}

py::tuple write_logprobs(const std::vector<TokenLogprob>& all) {
  py::tuple out(all.size());
  for (size_t i = 0; i < all.size(); ++i) out[i] = write_logprob(all[i]);
  return out;
}

}  // namespace

SamplingParams read_sampling(py::handle object) {
  const Names& n = names();
  SamplingParams p;
  p.temperature = n.temperature.wide(object);
  p.top_p = n.top_p.wide(object);
  p.top_k = n.top_k.integer(object);
  p.min_p = n.min_p.wide(object);
  p.repetition_penalty = n.repetition_penalty.real(object);
  p.frequency_penalty = n.frequency_penalty.real(object);
  p.presence_penalty = n.presence_penalty.real(object);
  const py::object bias = n.logit_bias.of(object);
  if (!PyDict_Check(bias.ptr())) throw Error("invalid", "logit_bias is no dict");
  for (const auto& entry : py::reinterpret_borrow<py::dict>(bias)) {
    p.logit_bias.emplace_back(to_int(entry.first, "logit_bias"),
                              static_cast<float>(to_double(entry.second, "logit_bias")));
  }
  p.min_tokens = n.min_tokens.integer(object);
  p.stop_token_ids = n.stop_token_ids.integers(object);
  p.bad_words = each<std::vector<int32_t>>(n.bad_words.of(object), "bad_words",
                                           [](py::handle word) { return int_list(word, "bad_words"); });
  p.logprobs = n.logprobs.optional(object);
  p.prompt_logprobs = n.prompt_logprobs.optional(object);
  return p;
}

std::vector<Admit> read_admits(py::handle sequence) { return each<Admit>(sequence, "admits", read_admit); }

std::vector<Extend> read_extends(py::handle sequence) {
  return each<Extend>(sequence, "extends", [](py::handle o) {
    const Names& n = names();
    return Extend{n.row.integer(o), n.epoch.integer(o), n.group.integer(o), n.blocks.integers(o)};
  });
}

std::vector<Trim> read_trims(py::handle sequence) {
  return each<Trim>(sequence, "trims", [](py::handle o) {
    const Names& n = names();
    return Trim{n.row.integer(o), n.epoch.integer(o), n.group.integer(o), n.num_blocks.integer(o)};
  });
}

std::vector<Copy> read_copies(py::handle sequence) {
  return each<Copy>(sequence, "copies", [](py::handle o) {
    return Copy{names().src.integer(o), names().dst.integer(o)};
  });
}

std::vector<Release> read_releases(py::handle sequence) {
  return each<Release>(sequence, "releases", [](py::handle o) {
    return Release{names().row.integer(o), names().epoch.integer(o)};
  });
}

Mask read_mask(py::handle object) {
  const Buffer buffer(object, "mask");
  buffer.expect("BIi", "mask");
  if (buffer.bytes() % 4 != 0) {
    throw Error("invalid", "mask: " + std::to_string(buffer.bytes()) + " bytes are no words");
  }
  Mask mask(static_cast<size_t>(buffer.bytes() / 4));
  if (!mask.empty()) std::memcpy(mask.data(), buffer.data(), mask.size() * 4);
  return mask;
}

std::vector<std::pair<int32_t, Mask>> read_masks(py::handle dict) {
  if (!PyDict_Check(dict.ptr())) throw Error("invalid", "masks are no dict");
  std::vector<std::pair<int32_t, Mask>> masks;
  for (const auto& entry : py::reinterpret_borrow<py::dict>(dict)) {
    masks.emplace_back(to_int(entry.first, "masks"), read_mask(entry.second));
  }
  return masks;
}

py::tuple write_logprob(const TokenLogprob& logprob) {
  py::tuple top(logprob.top.size());
  for (size_t i = 0; i < logprob.top.size(); ++i) top[i] = py::make_tuple(logprob.top[i].first, logprob.top[i].second);
  return py::make_tuple(logprob.token, logprob.logprob, logprob.rank, std::move(top));
}

py::tuple write_result(const StepResult& r) {
  py::tuple failures(r.failures.size());
  for (size_t i = 0; i < r.failures.size(); ++i) {
    const RowFailure& f = r.failures[i];
    failures[i] = py::make_tuple(f.row, f.epoch, f.code, f.reason);
  }
  return py::make_tuple(int_bytes(r.offsets), int_bytes(r.tokens), int_bytes(r.finish),
                        by_row(r.logprobs, write_logprobs), by_row(r.prompt_logprobs, write_logprobs),
                        by_row(r.pooled,
                               [](const std::vector<float>& state) {
                                 return py::bytes(reinterpret_cast<const char*>(state.data()), state.size() * 4);
                               }),
                        std::move(failures), r.forward_s, r.sample_s);
}

}  // namespace deploykit::bindings
