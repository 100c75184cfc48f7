// What the programs of the 4-bit products share: the kernels behind the door, a stream with a watchdog, the shapes.
#pragma once

#include <chrono>
#include <thread>

#include <unistd.h>

#include "bench.cuh"
#include "cuda/kernels/kernels.h"

namespace deploykit::cuda {  // internal: the kernels behind the door
void w4_gemv_variant(int variant, const LinearCall& call, const W4Weight& w, cudaStream_t stream);
void w4_mma_variant(int variant, const LinearCall& call, const W4Weight& w, cudaStream_t stream);
void w4_wgmma_variant(int variant, const LinearCall& call, const W4Weight& w, cudaStream_t stream);
}  // namespace deploykit::cuda

using namespace bench;

namespace {

cudaStream_t stream;

// Wait for the stream, but not for ever: a kernel whose barriers don't match must not hold the device.
void finish(const char* what) {
  const auto start = std::chrono::steady_clock::now();
  for (;;) {
    const cudaError_t status = cudaStreamQuery(stream);
    if (status == cudaSuccess) return;
    if (status != cudaErrorNotReady) {
      std::printf("%s: %s\n", what, cudaGetErrorString(status));
      std::fflush(stdout);
      _exit(2);
    }
    if (std::chrono::steady_clock::now() - start > std::chrono::seconds(patience(4))) {
      std::printf("%s: doesn't end\n", what);
      std::fflush(stdout);
      _exit(3);
    }
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
}

struct Size {
  const char* name;
  int64_t n, k;
};
const Size kSizes[] = {{"qkv", 6144, 4096}, {"o", 4096, 4096}, {"gate_up", 28672, 4096}, {"down", 4096, 14336}};

}  // namespace
