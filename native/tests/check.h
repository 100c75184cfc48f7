// A small test harness: TEST(name) { CHECK(...); }, one executable a file, non-zero exit on any failure.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

namespace check {

struct Test {
  const char* name;
  std::function<void()> run;
};

inline std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

inline int& failures() {
  static int count = 0;
  return count;
}

struct Register {
  Register(const char* name, std::function<void()> run) { tests().push_back({name, std::move(run)}); }
};

template <class T>
std::string text(const T& value) {
  std::ostringstream out;
  out.precision(9);
  out << value;
  return out.str();
}

inline void fail(const char* file, int line, const std::string& what) {
  if (++failures() <= 50) std::printf("%s:%d: %s\n", file, line, what.c_str());
}

inline int main(int argc, char** argv) {
  int run = 0;
  for (const Test& test : tests()) {
    if (argc > 1 && std::strstr(test.name, argv[1]) == nullptr) continue;
    const int before = failures();
    try {
      test.run();
    } catch (const std::exception& error) {
      fail(test.name, 0, std::string("unexpected exception: ") + error.what());
    }
    std::printf("%s %s\n", failures() == before ? "ok  " : "FAIL", test.name);
    ++run;
  }
  std::printf("%d tests, %d failures\n", run, failures());
  return failures() != 0 || run == 0;
}

}  // namespace check

#define TEST(name)                                                     \
  static void test_##name();                                           \
  static const check::Register register_##name(#name, test_##name);    \
  static void test_##name()

#define CHECK(condition) \
  do {                   \
    if (!(condition)) check::fail(__FILE__, __LINE__, "not true: " #condition); \
  } while (false)

#define CHECK_EQ(a, b)                                                                                             \
  do {                                                                                                             \
    const auto& a_ = (a);                                                                                          \
    const auto& b_ = (b);                                                                                          \
    if (!(a_ == b_)) check::fail(__FILE__, __LINE__, #a " == " #b ": " + check::text(a_) + " != " + check::text(b_)); \
  } while (false)

#define CHECK_NEAR(a, b, tolerance)                                                                          \
  do {                                                                                                       \
    const double a_ = (a), b_ = (b);                                                                         \
    if (!(std::fabs(a_ - b_) <= (tolerance)))                                                                \
      check::fail(__FILE__, __LINE__, #a " near " #b ": " + check::text(a_) + " != " + check::text(b_));     \
  } while (false)

// `statement` throws deploykit::Error with this code.
#define CHECK_THROWS(statement, expected)                                                                   \
  do {                                                                                                      \
    bool thrown_ = false;                                                                                   \
    try {                                                                                                   \
      statement;                                                                                            \
    } catch (const deploykit::Error& error) {                                                               \
      thrown_ = error.code() == (expected);                                                                 \
      if (!thrown_) check::fail(__FILE__, __LINE__, std::string("other error: ") + error.what());           \
    }                                                                                                       \
    if (!thrown_) check::fail(__FILE__, __LINE__, "no Error(" #expected ") from " #statement);              \
  } while (false)

#define CHECK_MAIN \
  int main(int argc, char** argv) { return check::main(argc, argv); }
