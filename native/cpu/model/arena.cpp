#include "cpu/model/arena.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

#include "deploykit/error.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace deploykit::cpu {
namespace {

[[noreturn]] void fail(const std::string& what, const std::string& asked, const std::string& why) {
  throw Error("memory", "no memory for " + what + ": " + asked + " asked for (" + why +
                            "); give the engine fewer blocks, tokens a step, or a smaller model");
}

}  // namespace

Mapping::Mapping(int64_t bytes, const std::string& what) {
  if (bytes <= 0) return;
  const std::string asked = std::to_string(bytes) + " bytes";
  if (bytes > std::numeric_limits<int64_t>::max() / 2) fail(what, asked, "more than an address space");
  const int64_t whole = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  // One huge page more than needed: what lies before the alignment and behind the end goes back at once.
  const int64_t extra = whole + kHugePage;
  void* raw = mmap(nullptr, static_cast<size_t>(extra), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) fail(what, asked, std::strerror(errno));
  const auto start = reinterpret_cast<uintptr_t>(raw);
  const uintptr_t aligned = (start + kHugePage - 1) / kHugePage * kHugePage;
  const auto before = static_cast<size_t>(aligned - start);
  const size_t behind = static_cast<size_t>(extra - whole) - before;
  if (before > 0) munmap(raw, before);
  if (behind > 0) munmap(reinterpret_cast<void*>(aligned + static_cast<uintptr_t>(whole)), behind);
  data_ = reinterpret_cast<uint8_t*>(aligned);
  bytes_ = bytes;
  mapped_ = whole;
#if defined(MADV_HUGEPAGE)
  madvise(data_, static_cast<size_t>(mapped_), MADV_HUGEPAGE);  // a wish: without it pages are small
#endif
}

Mapping::~Mapping() {
#if defined(__SANITIZE_ADDRESS__)
  if (data_ != nullptr) ASAN_UNPOISON_MEMORY_REGION(data_, static_cast<size_t>(mapped_));
#endif
  if (data_ != nullptr) munmap(data_, static_cast<size_t>(mapped_));
}

Mapping::Mapping(Mapping&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      mapped_(std::exchange(other.mapped_, 0)) {}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(mapped_, other.mapped_);
  return *this;
}

int64_t Arena::reserve(int64_t bytes) {
  const int64_t offset = bytes_;
  int64_t padded = 0;
  if (bytes < 0 || __builtin_add_overflow(bytes, int64_t{63}, &padded) ||
      __builtin_add_overflow(bytes_, padded / 64 * 64, &bytes_)) {
    fail(what_, "more than 2^63 bytes", "sizes overflow");
  }
#if defined(__SANITIZE_ADDRESS__)
  // A gap after each piece, so that a write past its end is seen.
  if (bytes_ < std::numeric_limits<int64_t>::max() - 64) bytes_ += 64;
  gaps_.emplace_back(offset + bytes, bytes_);
#endif
  return offset;
}

void Arena::allocate() {
  mapping_ = Mapping(bytes_, what_);
#if defined(__SANITIZE_ADDRESS__)
  for (const auto& [begin, end] : gaps_) ASAN_POISON_MEMORY_REGION(at(begin), static_cast<size_t>(end - begin));
#endif
}

int64_t Arena::reserve(int64_t count, int64_t size) {
  int64_t bytes = 0;
  if (__builtin_mul_overflow(count, size, &bytes)) {
    fail(what_, std::to_string(count) + " times " + std::to_string(size) + " bytes", "sizes overflow");
  }
  return reserve(bytes);
}

}  // namespace deploykit::cpu
