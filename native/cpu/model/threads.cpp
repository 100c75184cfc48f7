#include "cpu/model/threads.h"

#include <algorithm>
#include <chrono>
#include <fstream>
#include <set>
#include <string>
#include <system_error>

#include "deploykit/error.h"

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace deploykit::cpu {
namespace {

// Long enough for an uneven stage, short beside a step.
constexpr int64_t kSpinNs = 50'000;
// With more threads than CPUs, whoever spins may keep the one it waits for from running.
constexpr int64_t kCrowdedSpinNs = 1'000;

// What stops a worker at a barrier after another one failed.
struct Cancelled {};

void pause_cpu() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

#if defined(__linux__)

// CPUs that this thread may run on: the first of each core, then their siblings.
std::vector<int> allowed_cpus() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  if (sched_getaffinity(0, sizeof mask, &mask) != 0) return {};
  std::vector<int> first, siblings;
  std::set<std::string> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &mask)) continue;
    std::ifstream file("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list");
    std::string core;
    if (!std::getline(file, core)) core = "cpu " + std::to_string(cpu);
    (cores.insert(core).second ? first : siblings).push_back(cpu);
  }
  first.insert(first.end(), siblings.begin(), siblings.end());
  return first;
}

bool pin(pthread_t thread, int cpu) {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  CPU_SET(cpu, &mask);
  return pthread_setaffinity_np(thread, sizeof mask, &mask) == 0;
}

#else

std::vector<int> allowed_cpus() { return {}; }

#endif

}  // namespace

void Gate::open() {
  value_.fetch_add(1, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) > 0) {
    // A sleeper counts itself before it looks at the counter, with the mutex held.
    { std::lock_guard<std::mutex> lock(mutex_); }
    woken_.notify_all();
  }
}

void Gate::wait(uint32_t seen, int64_t spin_ns) {
  int64_t until = 0;
  for (int32_t turn = 1;; ++turn) {
    if (value_.load(std::memory_order_acquire) != seen) return;
    pause_cpu();
    if (turn % 32 != 0) continue;
    const int64_t now = now_ns();
    if (until == 0) until = now + spin_ns;
    if (now >= until) break;
  }
  std::unique_lock<std::mutex> lock(mutex_);
  sleepers_.fetch_add(1, std::memory_order_seq_cst);
  woken_.wait(lock, [&] { return value_.load(std::memory_order_seq_cst) != seen; });
  sleepers_.fetch_sub(1, std::memory_order_seq_cst);
}

ThreadPool::ThreadPool(int32_t threads) : threads_(std::max(threads, 1)) {
  std::vector<int> allowed = allowed_cpus();
  const auto wanted = static_cast<size_t>(threads_);
  const bool crowded = allowed.empty() ? wanted > std::max(1u, std::thread::hardware_concurrency())
                                       : wanted > allowed.size();
  spin_ns_ = crowded ? kCrowdedSpinNs : kSpinNs;
  if (threads_ > 1 && !crowded) cpus_.assign(allowed.begin(), allowed.begin() + std::min(wanted, allowed.size()));

#if defined(__linux__)
  // Signals are the business of the caller's threads.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
#endif
  std::string why;
  try {
    for (int32_t worker = 1; worker < threads_; ++worker) workers_.emplace_back([this, worker] { work(worker); });
  } catch (const std::system_error& error) {
    why = error.what();
  }
#if defined(__linux__)
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  for (size_t i = 0; why.empty() && i < workers_.size() && !cpus_.empty(); ++i) {
    pthread_setname_np(workers_[i].native_handle(), "dk-worker");
    if (!pin(workers_[i].native_handle(), cpus_[i + 1])) cpus_.clear();
  }
#endif
  if (!why.empty()) {
    stop_.store(true);
    start_.open();
    for (std::thread& thread : workers_) thread.join();
    throw Error("memory", "can't start " + std::to_string(threads_) + " threads: " + why);
  }
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  start_.open();
  for (std::thread& thread : workers_) thread.join();
}

void ThreadPool::work(int32_t worker) {
  uint32_t seen = 0;
  while (true) {
    start_.wait(seen, spin_ns_);
    ++seen;
    if (stop_.load()) return;
    call(worker);
    if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) done_.open();
  }
}

void ThreadPool::call(int32_t worker) {
  try {
    (*task_)(worker);
  } catch (const Cancelled&) {
  } catch (...) {
    {
      std::lock_guard<std::mutex> lock(error_mutex_);
      if (!error_) error_ = std::current_exception();
    }
    failed_.store(true);
    barrier_.open();
  }
}

// The caller's thread belongs to the program: it is moved, not pinned. The pinned workers keep the others of its CPUs
// busy, so it stays.
void ThreadPool::place_caller() {
#if defined(__linux__)
  if (cpus_.empty() || sched_getcpu() == cpus_[0]) return;
  cpu_set_t before;
  if (pthread_getaffinity_np(pthread_self(), sizeof before, &before) != 0) return;
  if (pin(pthread_self(), cpus_[0])) pthread_setaffinity_np(pthread_self(), sizeof before, &before);
#endif
}

void ThreadPool::run(const std::function<void(int32_t)>& fn) {
  if (threads_ == 1) return fn(0);
  place_caller();
  task_ = &fn;
  running_.store(threads_ - 1, std::memory_order_relaxed);
  const uint32_t done = done_.value();
  start_.open();
  call(0);
  done_.wait(done, spin_ns_);
  task_ = nullptr;
  if (!failed_.load()) return;
  failed_.store(false);
  arrived_.store(0);
  std::exception_ptr error;
  std::swap(error, error_);
  std::rethrow_exception(error);
}

void ThreadPool::barrier() {
  if (threads_ == 1) return;
  const uint32_t seen = barrier_.value();
  // After the counter is read: a failure that is missed here opens the gate after it.
  if (failed_.load()) throw Cancelled{};
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
    arrived_.store(0, std::memory_order_relaxed);
    barrier_.open();
    return;
  }
  barrier_.wait(seen, spin_ns_);
  if (failed_.load()) throw Cancelled{};
}

void ThreadPool::parallel_for(int64_t n, const std::function<void(int64_t)>& fn) {
  if (n <= 0) return;
  if (threads_ == 1 || n == 1) {
    for (int64_t i = 0; i < n; ++i) fn(i);
    return;
  }
  std::atomic<int64_t> next{0};
  run([&](int32_t) {
    for (int64_t i = next.fetch_add(1); i < n; i = next.fetch_add(1)) fn(i);
  });
}

}  // namespace deploykit::cpu
