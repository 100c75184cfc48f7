#include <string>

#include "core/host_engine.h"
#include "core/manifest.h"
#include "core/null_model.h"
#include "cpu/attention/attention.h"
#include "cpu/isa.h"
#include "cpu/model/model.h"
#include "deploykit/engine.h"
#ifdef DEPLOYKIT_WITH_CUDA
#include "cuda/create.h"
#endif

namespace deploykit {
namespace {

constexpr int64_t kMaxPool = int64_t{1} << 40;  // int32 entries of a token pool

void in_range(const char* field, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return;
  throw Error("invalid", std::string("options: ") + field + " is " + std::to_string(value) + ", not in " +
                             std::to_string(low) + " to " + std::to_string(high));
}

void check_block_len(int32_t block_len) {
  in_range("block_len", block_len, 1, 4096);
  if ((block_len & (block_len - 1)) != 0) {
    throw Error("invalid", "options: block_len is " + std::to_string(block_len) + ", not a power of two");
  }
}

void check_options(const EngineOptions& o) {
  in_range("device", static_cast<int32_t>(o.device), 0, static_cast<int32_t>(DeviceKind::null));
  in_range("dtype", static_cast<int32_t>(o.dtype), 0, static_cast<int32_t>(DType::bf16));
  in_range("kv", static_cast<int32_t>(o.kv), 0, static_cast<int32_t>(KvType::fp8));
  check_block_len(o.block_len);
  in_range("num_blocks", o.num_blocks, 1, INT32_MAX);
  in_range("max_rows", o.max_rows, 1, 1 << 16);
  in_range("session_len", o.session_len, 1, 1 << 28);
  in_range("max_rows * session_len", int64_t{o.max_rows} * o.session_len, 1, kMaxPool);
  in_range("max_step_tokens", o.max_step_tokens, 1, 1 << 24);
  in_range("threads", o.threads, 1, 1024);
}

#ifndef DEPLOYKIT_WITH_CUDA
[[noreturn]] void no_cuda() {
  throw Error("unsupported", "this library was built without CUDA: build it with DEPLOYKIT_CUDA=ON");
}
#endif

}  // namespace

std::unique_ptr<Engine> create_engine(const ModelDescription& model, const std::vector<WeightSpec>& manifest,
                                      const EngineOptions& options) {
  model.validate();
  check_options(options);
  std::unique_ptr<ForwardModel> forward;
  switch (options.device) {
    case DeviceKind::null:  // weights are optional: whatever the manifest promises is taken and checked
      forward = std::make_unique<NullModel>(model.hidden, model.vocab, options.block_len, options.num_blocks);
      break;
    case DeviceKind::cpu:
      check_manifest(model, manifest);
      forward = cpu::create_cpu_model(model, manifest, options);
      break;
    case DeviceKind::cuda:
#ifdef DEPLOYKIT_WITH_CUDA
      return cuda::create_cuda_engine(model, manifest, options);
#else
      no_cuda();
#endif
  }
  return std::make_unique<HostEngine>(std::move(forward), model.hidden, model.vocab, manifest, options);
}

int64_t kv_block_bytes(const ModelDescription& model, KvType kv, int32_t block_len, DeviceKind device) {
  model.validate();
  in_range("kv", static_cast<int32_t>(kv), 0, static_cast<int32_t>(KvType::fp8));
  check_block_len(block_len);
  switch (device) {
    case DeviceKind::null: return NullModel::block_bytes(block_len);
    case DeviceKind::cpu: return cpu::make_kv_layout(model, kv, block_len).block_bytes;
    case DeviceKind::cuda:
#ifdef DEPLOYKIT_WITH_CUDA
      return cuda::kv_block_bytes(model, kv, block_len);
#else
      no_cuda();
#endif
  }
  throw Error("invalid", "unknown device " + std::to_string(static_cast<int32_t>(device)));
}

std::vector<std::string> built_devices() {
  std::vector<std::string> devices = {"cpu"};
#ifdef DEPLOYKIT_WITH_CUDA
  devices.push_back("cuda");
#endif
  devices.push_back("null");
  return devices;
}

std::vector<std::string> cpu_isas() {
  std::vector<std::string> names;
  for (cpu::Isa isa : cpu::available_isas()) names.push_back(cpu::isa_name(isa));
  return names;
}

int32_t abi_version() noexcept { return DEPLOYKIT_ABI_VERSION; }

}  // namespace deploykit
