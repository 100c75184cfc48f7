// A kernel that waits for ever must not hold the device: the program ends where it shows no sign of life for a while.
#pragma once

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <ctime>
#include <thread>

#include "bench.cuh"

namespace bench {

inline std::atomic<int64_t>& last_sign() {
  static std::atomic<int64_t> seconds{0};
  return seconds;
}
inline void sign_of_life() { last_sign().store(time(nullptr)); }

inline void start_watchdog() {
  sign_of_life();
  std::thread([] {
    for (;;) {
      std::this_thread::sleep_for(std::chrono::seconds(1));
      if (time(nullptr) - last_sign().load() > patience(12)) {
        std::printf("no progress for a while: a kernel hangs\n");
        std::fflush(stdout);
        _exit(3);
      }
    }
  }).detach();
}

}  // namespace bench
