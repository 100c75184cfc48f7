// Facts of the current device, and the switch of dependent launch.
#include <atomic>

#include "cuda/kernels/common.cuh"

namespace deploykit::cuda {
namespace {
std::atomic<bool> dependent_on{true}, wgmma_on{true};

__global__ void probe() {}

int32_t attribute(cudaDeviceAttr which) {
  int device = 0, value = 0;
  check_cuda(cudaGetDevice(&device), "device");
  check_cuda(cudaDeviceGetAttribute(&value, which, device), "device attribute");
  return value;
}
}  // namespace

void set_dependent_launch(bool on) { dependent_on.store(on); }

bool dependent_launch() { return generation() >= 90 && dependent_on.load(std::memory_order_relaxed); }

void set_wgmma(bool on) { wgmma_on.store(on); }

bool has_wgmma() { return generation() == 90 && wgmma_on.load(std::memory_order_relaxed); }

int32_t generation() {
  static const int32_t value = [] {
    cudaFuncAttributes found = {};
    check_cuda(cudaFuncGetAttributes(&found, probe), "generation");
    return found.ptxVersion;
  }();
  return value;
}

int32_t multiprocessors() {
  static const int32_t count = attribute(cudaDevAttrMultiProcessorCount);
  return count;
}

}  // namespace deploykit::cuda
