// Facts of the current device, and the switch of dependent launch.
#include <atomic>

#include "cuda/kernels/common.cuh"

namespace deploykit::cuda {
namespace {
std::atomic<bool> dependent_on{true};

int32_t attribute(cudaDeviceAttr which) {
  int device = 0, value = 0;
  check_cuda(cudaGetDevice(&device), "device");
  check_cuda(cudaDeviceGetAttribute(&value, which, device), "device attribute");
  return value;
}
}  // namespace

void set_dependent_launch(bool on) { dependent_on.store(on); }

bool dependent_launch() { return compute_capability() >= 90 && dependent_on.load(std::memory_order_relaxed); }

int32_t compute_capability() {
  static const int32_t value =
      attribute(cudaDevAttrComputeCapabilityMajor) * 10 + attribute(cudaDevAttrComputeCapabilityMinor);
  return value;
}

int32_t multiprocessors() {
  static const int32_t count = attribute(cudaDevAttrMultiProcessorCount);
  return count;
}

}  // namespace deploykit::cuda
