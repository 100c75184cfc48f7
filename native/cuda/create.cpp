#include "cuda/create.h"

#include "cuda/engine/cuda_engine.h"
#include "cuda/model/transformer.h"

namespace deploykit::cuda {

std::unique_ptr<Engine> create_cuda_engine(const ModelDescription& model, const std::vector<WeightSpec>& manifest,
                                           const EngineOptions& options) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || options.device_index < 0 || options.device_index >= count) {
    cudaGetLastError();
    throw Error("device", "there is no CUDA device " + std::to_string(options.device_index) + ": " +
                              (status != cudaSuccess ? cudaGetErrorString(status) : std::to_string(count) + " are there"));
  }
  DK_CUDA(cudaSetDevice(options.device_index));
  return std::make_unique<CudaEngine>(model, options, std::make_unique<Transformer>(model, manifest, options));
}

int64_t kv_block_bytes(const ModelDescription& model, KvType kv, int32_t block_len) {
  int64_t bytes = 0;
  for (const LayerSpec& layer : model.layers) {
    bytes += layer.attention.kv_heads * kv_head_bytes(kv, block_len, layer.attention.head_dim);
    bytes = (bytes + 15) / 16 * 16;
  }
  return bytes;
}

}  // namespace deploykit::cuda
