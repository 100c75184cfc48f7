// What the checks and timings of the CUDA kernels share: buffers, random inputs, comparison with a reference, timing in
// a graph over rotating buffers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "cuda/kernels/common.cuh"

namespace bench {

using namespace deploykit;
using namespace deploykit::cuda;

#define CU(call)                                                                              \
  do {                                                                                        \
    const cudaError_t status_ = (call);                                                       \
    if (status_ != cudaSuccess) {                                                             \
      std::printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(status_)); \
      std::exit(2);                                                                           \
    }                                                                                         \
  } while (false)

inline int& failures() {
  static int count = 0;
  return count;
}

// BENCH_PART=i/n: of all cases every n-th alone, from the i-th (0 .. n - 1) on, so that several programs share a checker's
// time; BENCH_FROM=k: and none before the k-th. Every case asks once.
inline bool mine() {
  static int part = 0, parts = 1, from = 0, next = 0;
  static const bool read = [] {
    const char* given = std::getenv("BENCH_PART");
    if (given != nullptr && (std::sscanf(given, "%d/%d", &part, &parts) != 2 || part < 0 || part >= parts)) {
      std::printf("BENCH_PART=%s: i/n is meant, 0 <= i < n\n", given);
      std::exit(2);
    }
    const char* first = std::getenv("BENCH_FROM");
    if (first != nullptr) from = std::atoi(first);
    return true;
  }();
  static_cast<void>(read);
  const int number = next++;
  return number >= from && number % parts == part;
}

// Seconds before a kernel counts as hung: BENCH_PATIENCE times as many under a checker, which slows it down.
inline int patience(int seconds) {
  const char* given = std::getenv("BENCH_PATIENCE");
  return given == nullptr ? seconds : seconds * std::max(1, std::atoi(given));
}

// Device memory, filled with 0xff (NaN in every float type) unless it is filled otherwise.
template <class T = char>
struct Buffer {
  T* data = nullptr;
  int64_t count = 0;
  explicit Buffer(int64_t n) : count(n) {
    CU(cudaMalloc(&data, static_cast<size_t>(std::max<int64_t>(n, 1)) * sizeof(T)));
    poison();
  }
  ~Buffer() { cudaFree(data); }
  Buffer(const Buffer&) = delete;
  void poison() { CU(cudaMemset(data, 0xff, static_cast<size_t>(count) * sizeof(T))); }
  void zero() { CU(cudaMemset(data, 0, static_cast<size_t>(count) * sizeof(T))); }
  std::vector<T> host() const {
    std::vector<T> v(static_cast<size_t>(count));
    CU(cudaMemcpy(v.data(), data, v.size() * sizeof(T), cudaMemcpyDeviceToHost));
    return v;
  }
  void set(const std::vector<T>& v) { CU(cudaMemcpy(data, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice)); }
  operator T*() const { return data; }
};

__device__ __forceinline__ uint32_t mix(uint64_t x) {
  x ^= x >> 33, x *= 0xff51afd7ed558ccdULL, x ^= x >> 33, x *= 0xc4ceb9fe1a85ec53ULL, x ^= x >> 33;
  return static_cast<uint32_t>(x);
}
__device__ __forceinline__ float uniform01(uint64_t seed, uint64_t i) {
  return (mix(seed * 0x9e3779b97f4a7c15ULL + i) + 0.5f) * 2.3283064e-10f;
}
template <class T>
__device__ __forceinline__ T number(float v) {
  return Num<T>::from_float(v);
}
template <>
__device__ __forceinline__ float number<float>(float v) {
  return v;
}
template <class T>
__global__ void fill_normal(T* p, int64_t n, uint64_t seed, float mean, float deviation) {
  for (int64_t i = blockIdx.x * 256ll + threadIdx.x; i < n; i += gridDim.x * 256ll) {
    const float a = uniform01(seed, 2 * i), b = uniform01(seed, 2 * i + 1);
    p[i] = number<T>(mean + deviation * sqrtf(-2.0f * logf(a)) * cospif(2.0f * b));
  }
}
template <class T>
__global__ void fill_uniform(T* p, int64_t n, uint64_t seed, float lo, float hi) {
  for (int64_t i = blockIdx.x * 256ll + threadIdx.x; i < n; i += gridDim.x * 256ll) {
    p[i] = number<T>(lo + (hi - lo) * uniform01(seed, i));
  }
}
static __global__ void fill_bits(uint32_t* p, int64_t n, uint64_t seed) {
  for (int64_t i = blockIdx.x * 256ll + threadIdx.x; i < n; i += gridDim.x * 256ll) {
    p[i] = mix(seed * 0x9e3779b97f4a7c15ULL + i);
  }
}
inline uint64_t next_seed() {
  static uint64_t seed = [] {
    const char* given = std::getenv("BENCH_SEED");
    const uint64_t value = given != nullptr ? std::strtoull(given, nullptr, 10) : static_cast<uint64_t>(time(nullptr));
    std::printf("BENCH_SEED=%llu\n", static_cast<unsigned long long>(value));
    return value * 1000;
  }();
  return ++seed;
}
template <class T>
void normal(T* p, int64_t n, float deviation = 1.0f, float mean = 0.0f) {
  fill_normal<T><<<1024, 256>>>(p, n, next_seed(), mean, deviation);
}
template <class T>
void uniform(T* p, int64_t n, float lo, float hi) {
  fill_uniform<T><<<1024, 256>>>(p, n, next_seed(), lo, hi);
}
inline void bits(void* p, int64_t bytes) {
  fill_bits<<<1024, 256>>>(static_cast<uint32_t*>(p), bytes / 4, next_seed());
}

template <class T>
constexpr DType dtype_of() {
  return sizeof(T) == 2 && std::is_same<T, __half>::value ? DType::f16 : DType::bf16;
}

// ||out - ref|| / ||ref|| and the largest |out - ref| over the largest |ref|.
template <class T>
bool compare(const std::string& what, const Buffer<T>& out, const Buffer<double>& ref, double limit,
             bool print = true) {
  CU(cudaDeviceSynchronize());
  const std::vector<T> a = out.host();
  const std::vector<double> b = ref.host();
  double error = 0, size = 0, worst = 0, largest = 0;
  int64_t bad = 0, at = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    const double v = static_cast<double>(static_cast<float>(a[i]));
    if (!std::isfinite(v)) {
      ++bad;
      continue;
    }
    const double d = std::fabs(v - b[i]);
    error += d * d, size += b[i] * b[i];
    if (d > worst) worst = d, at = static_cast<int64_t>(i);
    largest = std::max(largest, std::fabs(b[i]));
  }
  const double relative = std::sqrt(error / std::max(size, 1e-300));
  const bool ok = bad == 0 && relative <= limit && worst <= 8 * limit * largest;
  if (!ok) ++failures();
  if (print || !ok) {
    std::printf("%-4s %-64s rel %.2e  worst %.2e of %.3g at %lld%s\n", ok ? "ok" : "FAIL", what.c_str(), relative,
                worst, largest, static_cast<long long>(at),
                bad != 0 ? (" NOT FINITE: " + std::to_string(bad)).c_str() : "");
  }
  return ok;
}

// Microseconds a call: `calls` calls in a graph, median of replays.
inline double time_us(cudaStream_t stream, int calls, const std::function<void(int)>& call) {
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  CU(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < calls; ++i) call(i);
  CU(cudaStreamEndCapture(stream, &graph));
  CU(cudaGraphInstantiate(&exec, graph, 0));
  cudaEvent_t begin, end;
  CU(cudaEventCreate(&begin));
  CU(cudaEventCreate(&end));
  std::vector<double> times;
  for (int i = 0; i < 7; ++i) {
    CU(cudaEventRecord(begin, stream));
    CU(cudaGraphLaunch(exec, stream));
    CU(cudaEventRecord(end, stream));
    CU(cudaEventSynchronize(end));
    float ms = 0;
    CU(cudaEventElapsedTime(&ms, begin, end));
    if (i >= 2) times.push_back(ms * 1e3 / calls);
  }
  CU(cudaEventDestroy(begin));
  CU(cudaEventDestroy(end));
  CU(cudaGraphExecDestroy(exec));
  CU(cudaGraphDestroy(graph));
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

inline void print_device() {
  cudaDeviceProp p;
  CU(cudaGetDeviceProperties(&p, 0));
  int driver = 0, runtime = 0;
  CU(cudaDriverGetVersion(&driver));
  CU(cudaRuntimeGetVersion(&runtime));
  std::printf("device %s, %d multiprocessors, driver %d, runtime %d\n", p.name, p.multiProcessorCount, driver, runtime);
  if (std::strstr(p.name, "H100") == nullptr) {
    std::printf("not an H100: figures of this card don't count\n");
    std::exit(3);
  }
}

static __global__ void read_kernel(const uint4* p, int64_t n, uint32_t* out) {
  uint32_t x = 0;
  for (int64_t i = blockIdx.x * 512ll + threadIdx.x; i < n; i += gridDim.x * 512ll) {
    const uint4 v = __ldcs(p + i);
    x ^= v.x ^ v.y ^ v.z ^ v.w;
  }
  if (x == 0x12345678u) *out = x;
}
inline void print_bandwidth(cudaStream_t stream) {
  const int64_t bytes = 2ll << 30;
  Buffer<char> a(bytes), b(bytes);
  bits(a, bytes);
  const double read = time_us(stream, 4, [&](int) {
    read_kernel<<<132 * 16, 512, 0, stream>>>(reinterpret_cast<uint4*>(a.data), bytes / 16,
                                              reinterpret_cast<uint32_t*>(b.data));
  });
  const double copy = time_us(stream, 4, [&](int) {
    CU(cudaMemcpyAsync(b.data, a.data, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice, stream));
  });
  std::printf("read %.3f TB/s, copy %.3f TB/s (read + written)\n", bytes / read * 1e-6, 2 * bytes / copy * 1e-6);
}

// A program's main: `run` gets the first argument (or `usual`) and a stream; an exception or a failed check is an exit code.
inline int program(int argc, char** argv, const char* usual, cudaStream_t* stream,
                   const std::function<void(const std::string& mode)>& run) {
  const std::string mode = argc > 1 ? argv[1] : usual;
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  print_device();
  CU(cudaStreamCreate(stream));
  try {
    run(mode);
  } catch (const std::exception& error) {
    std::printf("exception: %s\n", error.what());
    return 2;
  }
  return failures() != 0;
}

}  // namespace bench
