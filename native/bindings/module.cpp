// The Python module `_deploykit_native`: the step API of libdeploykit_engine, nothing else.
//
// What each thing takes and returns, as Python would declare it. `Buffer` is anything with the buffer protocol that is
// C-contiguous (bytes, memoryview, numpy arrays, memory maps): read in place, never copied unless it says so. A dict
// has the field names of the C++ struct it describes; what is left out has the struct's default, an unknown key is an
// error. Names of enumerators are strings ("rms", "gelu_tanh", "q4_1", "bf16", "cpu", ...).
//
//   class NativeError(RuntimeError):           # every deploykit::Error
//       code: str                              # invalid | unsupported | missing | memory | device | internal
//
//   SOURCE_HASH: str                           # "" unless the build defined DEPLOYKIT_SOURCE_HASH
//   def abi_version() -> int                   # of the library that was loaded
//   ABI_VERSION: int                           # of the headers that this module was compiled with
//   def built_devices() -> list[str]           # "cpu", "cuda", "null"
//   def cpu_isas() -> list[str]                # best first
//   def kv_block_bytes(model: dict, kv: str, block_len: int, device: str) -> int
//   def required_weights(model: dict) -> list[dict]   # {"name", "format": "f32", "rows", "cols", "group": 0} each
//   def stored_bytes(spec: dict) -> tuple[int, int, int]   # data, scales, zeros
//   def validate(model: dict) -> None
//   def sample_logits(logits: Buffer,          # float32[vocab]
//                     params: SamplingParams, seed: int, prompt_ids: Sequence[int], output_ids: Sequence[int],
//                     eos_ids: Sequence[int] = (), mask: Buffer | None = None
//                     ) -> tuple[int, Logprob | None, tuple[str, str] | None]   # token, logprob, (code, reason)
//
//   class Engine:
//       def __init__(self, model: dict, manifest: list[dict], options: dict) -> None
//           # model: {"hidden", "vocab", "norm": {"kind", "eps", "weight_offset"}, "norm_bias",
//           #   "ropes": [{"inv_freq": [float, ...], "attention_factor", "interleaved"}],
//           #   "layers": [{"attention": {...}, "mlp": {..., "moe": {...}}, "attn_norm", ...}], "tied", ...}
//           # manifest: [{"name", "format", "rows", "cols", "group"}]
//           # options: {"device", "device_index", "dtype", "kv", "block_len", "num_blocks", "max_rows",
//           #   "session_len", "max_step_tokens", "threads", "int8_head", "isa"}
//       def load_weight(self, name: str, data: Buffer, scales: Buffer | None = None, zeros: Buffer | None = None,
//                       zero_offset: int = 0) -> None
//           # Format and shape are the manifest's. Elements: bytes (uint8) always; or float32 for f32; float16 or
//           # 16-bit integers for f16 and bf16; int8 for int8; int32 or uint32 for awq and gptq (zeros too). Scales:
//           # float32 for int8, float16 for awq and gptq. Sizes must be those of stored_bytes.
//       def finish_loading(self) -> dict       # Capacity: its fields by name
//       def launch(self, seq: int, rows: Buffer, epochs: Buffer, num_tokens: Buffer, flags: Buffer,
//                  releases: Sequence[Release] = (), admits: Sequence[Admit] = (), extends: Sequence[Extend] = (),
//                  trims: Sequence[Trim] = (), copies: Sequence[Copy] = (), iterations: int = 1) -> None
//           # The fields of engine/types.py's Step: int32 bytes, and objects with the attributes of its structs.
//       def sample(self, seq: int, masks: dict[int, Buffer]) -> None   # uint32[ceil(vocab / 32)] by row; copied
//       def collect(self, seq: int) -> Result
//       def forget(self) -> None
//       def put_embeddings(self, handle: str, data: Buffer) -> None    # float32[count, hidden]; copied
//       def drop_embeddings(self, handle: str) -> None
//       def info(self) -> dict[str, str]
//       def close(self) -> None                # gives all memory back; anything after it is an error
//
//   Logprob = tuple[int, float, int, tuple[tuple[int, float], ...]]    # token, logprob, rank, top: TokenLogprob(*it)
//   Result = tuple[
//       bytes, bytes, bytes,                   # offsets int32[n + 1], tokens int32[offsets[n]], finish int32[n]
//       dict[int, tuple[Logprob, ...]],        # logprobs by row
//       dict[int, tuple[Logprob, ...]],        # prompt_logprobs by row
//       dict[int, bytes],                      # pooled float32[hidden] by row
//       tuple[tuple[int, int, str, str], ...], # failures: row, epoch, code, reason
//       float, float]                          # forward_s, sample_s
//
// rows and epochs of a result are those of the step. The interpreter lock is released while the engine is made, loads,
// launches and collects; calls from several threads wait for each other.
#include <pybind11/pybind11.h>

#include <memory>
#include <mutex>
#include <new>
#include <unordered_map>

#include "bindings/buffers.h"
#include "bindings/describe.h"
#include "bindings/steps.h"
#include "deploykit/engine.h"
#include "deploykit/sampling.h"

#ifndef DEPLOYKIT_SOURCE_HASH
#define DEPLOYKIT_SOURCE_HASH ""
#endif

namespace deploykit::bindings {
namespace {

// Struct codes of the elements that a part of a weight may come in; "B" is bytes.
struct ElementCodes {
  const char* data = "B";
  const char* scales = "B";
  const char* zeros = "B";
};

ElementCodes element_codes(WeightFormat format) {
  switch (format) {
    case WeightFormat::f32: return {"Bf"};
    case WeightFormat::f16: return {"BeHh"};
    case WeightFormat::bf16: return {"BHh"};
    case WeightFormat::int8: return {"Bb", "Bf"};
    case WeightFormat::awq:
    case WeightFormat::gptq: return {"BiI", "BeHh", "BiI"};
    default: return {};
  }
}

class PyEngine {
 public:
  PyEngine(const ModelDescription& model, const std::vector<WeightSpec>& manifest, const EngineOptions& options)
      : hidden_(model.hidden) {
    for (const WeightSpec& spec : manifest) specs_.emplace(spec.name, spec);
    py::gil_scoped_release released;
    engine_ = create_engine(model, manifest, options);
  }

  void load_weight(const std::string& name, py::handle data, py::handle scales, py::handle zeros, int zero_offset) {
    const auto found = specs_.find(name);
    if (found == specs_.end()) throw Error("invalid", "weight '" + name + "' does not stand in the manifest");
    const std::string parts[] = {"weight '" + name + "'", "scales of '" + name + "'", "zeros of '" + name + "'"};
    const Buffer d(data, parts[0].c_str()), s(scales, parts[1].c_str()), z(zeros, parts[2].c_str());
    const ElementCodes codes = element_codes(found->second.format);
    d.expect(codes.data, parts[0].c_str());
    s.expect(codes.scales, parts[1].c_str());
    z.expect(codes.zeros, parts[2].c_str());
    const WeightTensor tensor{found->second, d.data(),  d.bytes(), s.data(),   s.bytes(),
                              z.data(),      z.bytes(), zero_offset};
    with([&](Engine& engine) { engine.load_weight(tensor); });
  }

  py::dict finish_loading() {
    Capacity capacity;
    with([&](Engine& engine) { capacity = engine.finish_loading(); });
    return write_capacity(capacity);
  }

  void launch(int64_t seq, py::handle rows, py::handle epochs, py::handle num_tokens, py::handle flags,
              py::handle releases, py::handle admits, py::handle extends, py::handle trims, py::handle copies,
              py::handle iterations) {
    Step step;
    step.seq = seq;
    step.rows = Buffer(rows, "rows").ints("rows");
    step.epochs = Buffer(epochs, "epochs").ints("epochs");
    step.num_tokens = Buffer(num_tokens, "num_tokens").ints("num_tokens");
    step.flags = Buffer(flags, "flags").ints("flags");
    step.releases = read_releases(releases);
    step.admits = read_admits(admits);
    step.extends = read_extends(extends);
    step.trims = read_trims(trims);
    step.copies = read_copies(copies);
    step.iterations = to_int(iterations, "iterations");
    with([&](Engine& engine) { engine.launch(step); });
  }

  void sample(int64_t seq, py::handle masks) {
    const auto read = read_masks(masks);
    with([&](Engine& engine) { engine.sample(seq, read); });
  }

  py::tuple collect(int64_t seq) {
    StepResult result;
    with([&](Engine& engine) { result = engine.collect(seq); });
    return write_result(result);
  }

  void forget() {
    with([](Engine& engine) { engine.forget(); });
  }

  void put_embeddings(const std::string& handle, py::handle data) {
    const Buffer buffer(data, "embeddings");
    buffer.expect("f", "embeddings");
    const int64_t row_bytes = int64_t{hidden_} * 4;
    if (buffer.bytes() == 0 || buffer.bytes() % row_bytes != 0) {
      throw Error("invalid", "embeddings: " + std::to_string(buffer.bytes()) + " bytes are no rows of " +
                                 std::to_string(hidden_) + " float32");
    }
    with([&](Engine& engine) {
      engine.put_embeddings(handle, static_cast<const float*>(buffer.data()), buffer.bytes() / row_bytes);
    });
  }

  void drop_embeddings(const std::string& handle) {
    with([&](Engine& engine) { engine.drop_embeddings(handle); });
  }

  py::dict info() {
    std::vector<std::pair<std::string, std::string>> facts;
    with([&](Engine& engine) { facts = engine.info(); });
    py::dict out;
    for (const auto& [key, value] : facts) out[py::str(key)] = value;
    return out;
  }

  void close() {
    py::gil_scoped_release released;
    std::lock_guard<std::mutex> held(lock_);
    engine_.reset();
  }

 private:
  // fn(engine), without the interpreter lock, one caller at a time.
  template <class F>
  void with(F fn) {
    py::gil_scoped_release released;
    std::lock_guard<std::mutex> held(lock_);
    if (engine_ == nullptr) throw Error("invalid", "the engine is closed");
    fn(*engine_);
  }

  std::mutex lock_;
  std::unique_ptr<Engine> engine_;
  std::unordered_map<std::string, WeightSpec> specs_;
  int32_t hidden_;
};

py::tuple sample_logits_py(py::handle logits, py::handle params, py::handle seed, py::handle prompt_ids,
                           py::handle output_ids, py::handle eos_ids, py::handle mask) {
  const Buffer buffer(logits, "logits");
  buffer.expect("f", "logits");
  std::vector<int32_t> tokens = int_list(prompt_ids, "prompt_ids");
  const auto prompt_len = static_cast<int32_t>(tokens.size());
  const std::vector<int32_t> output = int_list(output_ids, "output_ids");
  tokens.insert(tokens.end(), output.begin(), output.end());
  Mask words;
  if (!mask.is_none()) words = read_mask(mask);
  const SampledToken drawn = sample_logits(static_cast<const float*>(buffer.data()), buffer.bytes() / 4,
                                           read_sampling(params), to_uint64(seed, "seed"), tokens, prompt_len,
                                           int_list(eos_ids, "eos_ids"), mask.is_none() ? nullptr : &words);
  const py::object error = drawn.code.empty() ? py::object(py::none()) : py::make_tuple(drawn.code, drawn.reason);
  const py::object logprob = drawn.has_logprob ? py::object(write_logprob(drawn.logprob)) : py::object(py::none());
  return py::make_tuple(drawn.token, logprob, error);
}

PyObject* native_error = nullptr;  // the class; lives as long as the process

void raise(const std::string& code, const std::string& what) {
  const py::object error = py::reinterpret_borrow<py::object>(native_error)(what);
  error.attr("code") = code;
  PyErr_SetObject(native_error, error.ptr());
}

void translate(std::exception_ptr pointer) {
  try {
    if (pointer) std::rethrow_exception(pointer);
  } catch (const Error& error) {
    raise(error.code(), error.what());
  } catch (const std::bad_alloc&) {
    raise("memory", "out of memory");
  }
}

}  // namespace
}  // namespace deploykit::bindings

PYBIND11_MODULE(_deploykit_native, m) {
  namespace py = pybind11;
  using namespace deploykit::bindings;
  native_error = PyErr_NewException("_deploykit_native.NativeError", PyExc_RuntimeError, nullptr);
  m.attr("NativeError") = py::handle(native_error);
  py::register_exception_translator(translate);
  m.attr("SOURCE_HASH") = DEPLOYKIT_SOURCE_HASH;
  m.attr("ABI_VERSION") = DEPLOYKIT_ABI_VERSION;
  m.def("abi_version", [] { return deploykit::abi_version(); });
  m.def("built_devices", [] {
    py::list out;
    for (const std::string& name : deploykit::built_devices()) out.append(name);
    return out;
  });
  m.def("cpu_isas", [] {
    py::list out;
    for (const std::string& name : deploykit::cpu_isas()) out.append(name);
    return out;
  });
  m.def("kv_block_bytes",
        [](py::handle model, const std::string& kv, int32_t block_len, const std::string& device) {
          return deploykit::kv_block_bytes(read_model(model), read_kv(kv), block_len, read_device(device));
        },
        py::arg("model"), py::arg("kv"), py::arg("block_len"), py::arg("device"));
  m.def("required_weights",
        [](py::handle model) {
          py::list out;
          for (const auto& spec : deploykit::required_weights(read_model(model))) out.append(write_weight_spec(spec));
          return out;
        },
        py::arg("model"));
  m.def("stored_bytes",
        [](py::handle spec) {
          const deploykit::StoredBytes bytes = deploykit::stored_bytes(read_weight_spec(spec));
          return py::make_tuple(bytes.data, bytes.scales, bytes.zeros);
        },
        py::arg("spec"));
  m.def("validate", [](py::handle model) { read_model(model).validate(); }, py::arg("model"));
  m.def("sample_logits", sample_logits_py, py::arg("logits"), py::arg("params"), py::arg("seed"),
        py::arg("prompt_ids"), py::arg("output_ids"), py::arg("eos_ids") = py::tuple(),
        py::arg("mask") = py::none());

  py::class_<PyEngine>(m, "Engine")
      .def(py::init([](py::handle model, py::handle manifest, py::handle options) {
             return std::make_unique<PyEngine>(read_model(model), read_manifest(manifest), read_options(options));
           }),
           py::arg("model"), py::arg("manifest"), py::arg("options"))
      .def("load_weight", &PyEngine::load_weight, py::arg("name"), py::arg("data"), py::arg("scales") = py::none(),
           py::arg("zeros") = py::none(), py::arg("zero_offset") = 0)
      .def("finish_loading", &PyEngine::finish_loading)
      .def("launch", &PyEngine::launch, py::arg("seq"), py::arg("rows"), py::arg("epochs"), py::arg("num_tokens"),
           py::arg("flags"), py::arg("releases") = py::tuple(), py::arg("admits") = py::tuple(),
           py::arg("extends") = py::tuple(), py::arg("trims") = py::tuple(), py::arg("copies") = py::tuple(),
           py::arg("iterations") = 1)
      .def("sample", &PyEngine::sample, py::arg("seq"), py::arg("masks"))
      .def("collect", &PyEngine::collect, py::arg("seq"))
      .def("forget", &PyEngine::forget)
      .def("put_embeddings", &PyEngine::put_embeddings, py::arg("handle"), py::arg("data"))
      .def("drop_embeddings", &PyEngine::drop_embeddings, py::arg("handle"))
      .def("info", &PyEngine::info)
      .def("close", &PyEngine::close);
}
