// Memory of the CPU engine: anonymous mappings, laid out before they are made and never grown.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace deploykit::cpu {

inline constexpr int64_t kHugePage = int64_t{1} << 21;

// One anonymous mapping, zeros, aligned to a huge page. Pages become resident when they are first written.
class Mapping {
 public:
  Mapping() = default;
  // Throws Error("memory") that names `what` and the bytes asked for.
  Mapping(int64_t bytes, const std::string& what);
  ~Mapping();
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  uint8_t* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  uint8_t* data_ = nullptr;
  int64_t bytes_ = 0;
  int64_t mapped_ = 0;  // `bytes_` rounded up to whole huge pages
};

// Pieces of one mapping: every piece is reserved, then all of them are made at once.
class Arena {
 public:
  explicit Arena(std::string what) : what_(std::move(what)) {}
  // Offset of `bytes` more, 64-byte aligned. Throws Error("memory") where the sum can't be counted.
  int64_t reserve(int64_t bytes);
  // count * size bytes; both factors may come from a description.
  int64_t reserve(int64_t count, int64_t size);
  void allocate();
  uint8_t* at(int64_t offset) const { return mapping_.data() + offset; }
  float* floats(int64_t offset) const { return reinterpret_cast<float*>(at(offset)); }
  int64_t bytes() const { return bytes_; }

 private:
  std::string what_;
  Mapping mapping_;
  int64_t bytes_ = 0;
  std::vector<std::pair<int64_t, int64_t>> gaps_;  // between pieces, under the address sanitizer alone
};

}  // namespace deploykit::cpu
