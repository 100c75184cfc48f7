// Owned device things: memory, pinned host memory, streams, events, graphs. Every failure is Error("device" | "memory").
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <string>
#include <utility>

#include "deploykit/error.h"

namespace deploykit::cuda {

inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // a sticky error stays; a launch error must not be reported twice
  const char* code = status == cudaErrorMemoryAllocation ? "memory" : "device";
  throw Error(code, std::string(what) + ": " + cudaGetErrorString(status));
}

#define DK_CUDA(call) ::deploykit::cuda::check((call), #call)

// `count` elements of T on the device, not initialized.
template <class T>
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  explicit DeviceBuffer(int64_t count) { allocate(count); }
  DeviceBuffer(DeviceBuffer&& other) noexcept { *this = std::move(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(count_, other.count_);
    return *this;
  }
  ~DeviceBuffer() { cudaFree(data_); }

  void allocate(int64_t count) {
    cudaFree(data_);
    data_ = nullptr;
    count_ = 0;
    if (count == 0) return;
    const cudaError_t status = cudaMalloc(reinterpret_cast<void**>(&data_), static_cast<size_t>(count) * sizeof(T));
    if (status != cudaSuccess) {
      cudaGetLastError();
      throw Error(status == cudaErrorMemoryAllocation ? "memory" : "device",
                  "the device has no " + std::to_string(count * static_cast<int64_t>(sizeof(T))) + " bytes left (" +
                      cudaGetErrorString(status) + ")");
    }
    count_ = count;
  }
  T* get() const { return data_; }
  int64_t count() const { return count_; }
  int64_t bytes() const { return count_ * static_cast<int64_t>(sizeof(T)); }

 private:
  T* data_ = nullptr;
  int64_t count_ = 0;
};

// Page-locked host memory, zeroed.
template <class T>
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  explicit PinnedBuffer(int64_t count) { allocate(count); }
  PinnedBuffer(const PinnedBuffer&) = delete;
  PinnedBuffer& operator=(const PinnedBuffer&) = delete;
  ~PinnedBuffer() { cudaFreeHost(data_); }

  void allocate(int64_t count) {
    cudaFreeHost(data_);
    data_ = nullptr;
    DK_CUDA(cudaMallocHost(reinterpret_cast<void**>(&data_), static_cast<size_t>(count) * sizeof(T)));
    for (int64_t i = 0; i < count; ++i) data_[i] = T{};
    count_ = count;
  }
  T* get() const { return data_; }
  int64_t count() const { return count_; }

 private:
  T* data_ = nullptr;
  int64_t count_ = 0;
};

class Stream {
 public:
  Stream() { DK_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() { cudaStreamDestroy(stream_); }
  cudaStream_t get() const { return stream_; }
  void synchronize() const { DK_CUDA(cudaStreamSynchronize(stream_)); }

 private:
  cudaStream_t stream_ = nullptr;
};

class Event {
 public:
  explicit Event(unsigned flags = cudaEventDisableTiming) { DK_CUDA(cudaEventCreateWithFlags(&event_, flags)); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event() { cudaEventDestroy(event_); }
  cudaEvent_t get() const { return event_; }
  void record(cudaStream_t stream) const { DK_CUDA(cudaEventRecord(event_, stream)); }
  void record(const Stream& stream) const { record(stream.get()); }
  // Waits for the recorded work; a failed kernel shows here.
  void wait() const { DK_CUDA(cudaEventSynchronize(event_)); }

 private:
  cudaEvent_t event_ = nullptr;
};

// A captured sequence of device work.
class Graph {
 public:
  Graph() = default;
  Graph(Graph&& other) noexcept : exec_(std::exchange(other.exec_, nullptr)) {}
  Graph& operator=(Graph&& other) noexcept {
    std::swap(exec_, other.exec_);
    return *this;
  }
  ~Graph() {
    if (exec_ != nullptr) cudaGraphExecDestroy(exec_);
  }

  // Capture what `work` puts on the stream.
  template <class Work>
  static Graph capture(const Stream& stream, Work&& work) {
    DK_CUDA(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal));
    cudaGraph_t graph = nullptr;
    try {
      work();
    } catch (...) {
      cudaStreamEndCapture(stream.get(), &graph);
      if (graph != nullptr) cudaGraphDestroy(graph);
      cudaGetLastError();
      throw;
    }
    DK_CUDA(cudaStreamEndCapture(stream.get(), &graph));
    Graph made;
    const cudaError_t status = cudaGraphInstantiate(&made.exec_, graph, 0);
    cudaGraphDestroy(graph);
    check(status, "cudaGraphInstantiate");
    return made;
  }
  void launch(const Stream& stream) const { DK_CUDA(cudaGraphLaunch(exec_, stream.get())); }
  bool ready() const { return exec_ != nullptr; }

 private:
  cudaGraphExec_t exec_ = nullptr;
};

}  // namespace deploykit::cuda
