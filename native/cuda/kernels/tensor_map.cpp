// Tensor maps come from the driver; its entry point is asked of the runtime, so nothing links the driver's library.
#include <algorithm>

#include "cuda/kernels/pipeline.cuh"

namespace deploykit::cuda {
namespace {

using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*,
                            const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                            CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

Encode encoder() {
  static const Encode found = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
    check_cuda(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &result),
               "tensor map");
    if (result != cudaDriverEntryPointSuccess) {
      throw Error("device", "the driver has no cuTensorMapEncodeTiled: it is older than CUDA 12");
    }
    return reinterpret_cast<Encode>(entry);
  }();
  return found;
}

}  // namespace

CUtensorMap tensor_map(CUtensorMapDataType type, int rank, const void* data, const uint64_t* sizes,
                       const uint64_t* strides, const uint32_t* box, int swizzle) {
  require(rank >= 2 && rank <= 5, "tensor_map", "2 to 5 dimensions");
  CUtensorMapSwizzle kind = CU_TENSOR_MAP_SWIZZLE_NONE;
  if (swizzle == 32) kind = CU_TENSOR_MAP_SWIZZLE_32B;
  if (swizzle == 64) kind = CU_TENSOR_MAP_SWIZZLE_64B;
  if (swizzle == 128) kind = CU_TENSOR_MAP_SWIZZLE_128B;
  cuuint64_t size[5], stride[4];
  std::copy(sizes, sizes + rank, size);
  std::copy(strides, strides + rank - 1, stride);
  const cuuint32_t each[5] = {1, 1, 1, 1, 1};
  CUtensorMap map;
  const CUresult status =
      encoder()(&map, type, static_cast<cuuint32_t>(rank), const_cast<void*>(data), size, stride, box, each,
                CU_TENSOR_MAP_INTERLEAVE_NONE, kind, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) {
    throw Error("device", "cuTensorMapEncodeTiled refuses the map: CUDA error " + std::to_string(status));
  }
  return map;
}

}  // namespace deploykit::cuda
