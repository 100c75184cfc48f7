#include "cpu/model/threads.h"

#include <ctime>
#include <numeric>
#include <stdexcept>

#include "check.h"

using deploykit::cpu::ThreadPool;

TEST(every_worker_runs_once) {
  for (const int32_t threads : {1, 2, 3, 7}) {
    ThreadPool pool(threads);
    std::vector<int32_t> calls(static_cast<size_t>(threads), 0);
    for (int i = 0; i < 200; ++i) pool.run([&](int32_t worker) { ++calls[static_cast<size_t>(worker)]; });
    for (const int32_t count : calls) CHECK_EQ(count, 200);
  }
}

TEST(barriers_order_what_workers_write) {
  for (const int32_t threads : {2, 4}) {
    ThreadPool pool(threads);
    const auto n = static_cast<size_t>(threads);
    std::vector<int64_t> now(n, 1), next(n, 0);
    pool.run([&](int32_t id) {
      const auto worker = static_cast<size_t>(id);
      for (int round = 0; round < 300; ++round) {
        next[worker] = std::accumulate(now.begin(), now.end(), int64_t{0}) % 1000003;
        pool.barrier();
        now[worker] = next[worker] + static_cast<int64_t>(worker);
        pool.barrier();
      }
    });
    std::vector<int64_t> should(n, 1);
    for (int round = 0; round < 300; ++round) {
      const int64_t sum = std::accumulate(should.begin(), should.end(), int64_t{0}) % 1000003;
      for (size_t worker = 0; worker < n; ++worker) should[worker] = sum + static_cast<int64_t>(worker);
    }
    CHECK(now == should);
  }
}

TEST(exceptions_come_back_and_free_the_others) {
  ThreadPool pool(3);
  for (int32_t failing = 0; failing < 3; ++failing) {
    for (int round = 0; round < 20; ++round) {
      std::string what;
      try {
        pool.run([&](int32_t worker) {
          pool.barrier();
          if (worker == failing) throw std::runtime_error("worker " + std::to_string(worker));
          pool.barrier();
          pool.barrier();
        });
      } catch (const std::runtime_error& error) {
        what = error.what();
      }
      CHECK_EQ(what, "worker " + std::to_string(failing));
    }
  }
  int32_t ran = 0;
  pool.run([&](int32_t worker) {
    pool.barrier();
    if (worker == 0) ran = 1;
  });
  CHECK_EQ(ran, 1);
}

TEST(parallel_for_takes_every_index_once) {
  ThreadPool pool(4);
  std::vector<int32_t> calls(1000, 0);
  pool.parallel_for(1000, [&](int64_t i) { ++calls[static_cast<size_t>(i)]; });
  for (const int32_t count : calls) CHECK_EQ(count, 1);
  pool.parallel_for(0, [&](int64_t) { CHECK(false); });
  bool thrown = false;
  try {
    pool.parallel_for(50, [&](int64_t i) {
      if (i == 20) throw std::runtime_error("twenty");
    });
  } catch (const std::runtime_error&) {
    thrown = true;
  }
  CHECK(thrown);
}

TEST(idle_workers_use_no_cpu) {
  ThreadPool pool(3);
  pool.run([](int32_t) {});
  const auto sleep = [](int64_t ms) {
    const timespec time{ms / 1000, ms % 1000 * 1000000};
    nanosleep(&time, nullptr);
  };
  sleep(20);
  const auto used = [] {
    timespec time{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
  };
  const double before = used();
  sleep(200);
  CHECK(used() - before < 0.02);  // spinning would be 0.4
}

TEST(a_worker_that_waits_long_sleeps) {
  ThreadPool pool(2);
  const auto used = [] {
    timespec time{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
  };
  double waiting = 1;
  pool.run([&](int32_t worker) {
    if (worker == 0) {
      const timespec time{0, 200 * 1000000};
      nanosleep(&time, nullptr);
    }
    const double before = used();
    pool.barrier();
    if (worker == 1) waiting = used() - before;
  });
  CHECK(waiting < 0.05);
}

CHECK_MAIN
