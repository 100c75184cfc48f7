// An engine: weights, KV memory and kernels on one device, executing steps. Called from one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "deploykit/error.h"
#include "deploykit/export.h"
#include "deploykit/model.h"
#include "deploykit/step.h"
#include "deploykit/weights.h"

// Changes with every change of the API or of what it means; the Python side refuses another one.
#define DEPLOYKIT_ABI_VERSION 2

namespace deploykit {

enum class DeviceKind : int32_t { cpu = 0, cuda = 1, null = 2 };

// What the KV memory stores. int8 and int4 are asymmetric, one scale and one zero a token and head, made when stored.
enum class KvType : int32_t { f32 = 0, f16 = 1, bf16 = 2, int8 = 3, k8v4 = 4, int4 = 5, fp8 = 6 };

struct EngineOptions {
  DeviceKind device = DeviceKind::cpu;
  int32_t device_index = 0;
  // Activations. f32 on a CPU computes everything in float32, quantized weights included; otherwise activations
  // that meet quantized weights are int8 in groups of 32, and bf16 or f16 ones that meet 16-bit weights.
  DType dtype = DType::bf16;
  KvType kv = KvType::bf16;
  int32_t block_len = 64;
  int64_t num_blocks = 0;
  int32_t max_rows = 1;
  int32_t session_len = 0;
  int32_t max_step_tokens = 0;
  int32_t threads = 1;
  // The output head in int8 with a float32 scale a row, made while loading of one that is stored plainly (or, on a GPU,
  // in blocks that are unpacked there anyway). A tied model's table stays as it is beside it.
  bool int8_head = false;
  std::string isa;  // CPU: scalar | avx2 | avxvnni | avx512 | neon; empty = the best that this CPU has
};

struct Capacity {
  int32_t max_rows = 0;
  int32_t overlap_depth = 0;
  int32_t block_len = 0;
  int64_t block_bytes = 0;
  int64_t num_blocks = 0;
  int32_t session_len = 0;
  int32_t vocab = 0;
  int32_t max_step_tokens = 0;
  int64_t weight_bytes = 0;   // the arena
  int64_t kv_bytes = 0;
  int64_t scratch_bytes = 0;  // activations, logits, row tables
};

class DEPLOYKIT_EXPORT Engine {
 public:
  virtual ~Engine() = default;

  // Repack one weight. Every weight of the manifest is given exactly once. Throws Error("invalid") with its name.
  virtual void load_weight(const WeightTensor& tensor) = 0;
  // All weights are there: reserve what is left, warm up. Throws Error("missing") that names what was not given.
  virtual Capacity finish_loading() = 0;

  // Begin a step. With overlap depth 1 the next one may be launched before this one is collected.
  virtual void launch(const Step& step) = 0;
  // Masks of the deferred rows of a launched step, by row.
  virtual void sample(int64_t seq, const std::vector<std::pair<int32_t, Mask>>& masks) = 0;
  // Wait for a launched step, in launch order. Throws Error("internal") where the whole step failed.
  virtual StepResult collect(int64_t seq) = 0;
  // Forget every step that was launched and not collected.
  virtual void forget() = 0;

  // Embeddings float32 [count, hidden] for spans that name `handle`; dropped by drop_embeddings.
  virtual void put_embeddings(const std::string& handle, const float* data, int64_t count) = 0;
  virtual void drop_embeddings(const std::string& handle) = 0;

  // Facts for people: isa, threads, kernels chosen, as key and value.
  virtual std::vector<std::pair<std::string, std::string>> info() const = 0;
};

// Throws Error("invalid" | "unsupported" | "memory" | "device").
DEPLOYKIT_EXPORT std::unique_ptr<Engine> create_engine(const ModelDescription& model,
                                                       const std::vector<WeightSpec>& manifest,
                                                       const EngineOptions& options);

// Bytes of one KV block over all layers.
DEPLOYKIT_EXPORT int64_t kv_block_bytes(const ModelDescription& model, KvType kv, int32_t block_len,
                                        DeviceKind device);

// "cpu" and, where the library was built with CUDA, "cuda": the devices that create_engine accepts.
DEPLOYKIT_EXPORT std::vector<std::string> built_devices();
// The instruction sets that this CPU can run, best first.
DEPLOYKIT_EXPORT std::vector<std::string> cpu_isas();
DEPLOYKIT_EXPORT int32_t abi_version() noexcept;

}  // namespace deploykit
