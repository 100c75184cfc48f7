// Where a forward's time goes, as its first worker sees it. Off unless a benchmark asks.
#pragma once

#include <array>
#include <cstdint>
#include <ctime>

namespace deploykit::cpu {

enum class Stage : int32_t { embed, norm, qkv, finish, attention, output, expand, down, head, wait, count };

struct Profile {
  std::array<int64_t, static_cast<size_t>(Stage::count)> ns{};
  int64_t last = 0;
  bool cpu_time = false;  // of the worker, which counts nothing while another process has its CPU

  int64_t now() const {
    timespec time{};
    clock_gettime(cpu_time ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
    return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
  }
  void start() { last = now(); }
  // What went by since the last lap was this stage.
  void lap(Stage stage) {
    const int64_t time = now();
    ns[static_cast<size_t>(stage)] += time - last;
    last = time;
  }
};

}  // namespace deploykit::cpu
