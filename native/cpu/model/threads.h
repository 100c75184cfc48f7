// Worker threads of the CPU engine: they run one function together and meet at barriers.
//
// Waiting spins for a bounded time and then sleeps, so that an idle engine uses no CPU and a process that shares the
// cores gets its turn.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace deploykit::cpu {

// A counter that threads wait on.
class Gate {
 public:
  uint32_t value() const { return value_.load(std::memory_order_acquire); }
  // Count on and let everyone who waits through.
  void open();
  // Until the counter is no longer `seen`: spin for at most spin_ns, then sleep.
  void wait(uint32_t seen, int64_t spin_ns);

 private:
  std::atomic<uint32_t> value_{0};
  std::atomic<int32_t> sleepers_{0};
  std::mutex mutex_;
  std::condition_variable woken_;
};

class ThreadPool {
 public:
  // `threads` workers, the calling thread of run() being worker 0. Where the affinity mask allows as many CPUs,
  // workers 1.. are pinned to CPUs of their own (whole cores first) and run() moves its caller to the CPU that is left.
  explicit ThreadPool(int32_t threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int32_t threads() const { return threads_; }
  bool pinned() const { return !cpus_.empty(); }

  // fn(worker) on every worker at once. The first exception of any worker comes back here, after all have stopped;
  // the others are stopped at their next barrier.
  void run(const std::function<void(int32_t)>& fn);
  // Inside run(), by every worker.
  void barrier();
  // fn(0) .. fn(n - 1), each once, on any worker. Not inside run().
  void parallel_for(int64_t n, const std::function<void(int64_t)>& fn);

 private:
  void work(int32_t worker);
  void call(int32_t worker);
  void place_caller();

  int32_t threads_ = 1;
  int64_t spin_ns_ = 0;
  std::vector<int> cpus_;  // of each worker; empty = not pinned
  std::vector<std::thread> workers_;

  const std::function<void(int32_t)>* task_ = nullptr;
  std::atomic<bool> stop_{false};
  alignas(64) Gate start_;
  alignas(64) Gate done_;
  alignas(64) Gate barrier_;
  alignas(64) std::atomic<int32_t> arrived_{0};
  alignas(64) std::atomic<int32_t> running_{0};
  std::atomic<bool> failed_{false};
  std::mutex error_mutex_;
  std::exception_ptr error_;
};

}  // namespace deploykit::cpu
