// Reading Python objects: contiguous buffers without copies, integers, strings by name.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <vector>

#include "deploykit/error.h"

namespace deploykit::bindings {

namespace py = pybind11;

// A C-contiguous buffer, held for as long as this lives. None is an empty one.
class Buffer {
 public:
  Buffer() = default;
  // Throws Error("invalid") that names `what` for an object without such a buffer.
  Buffer(py::handle object, const char* what);
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  const void* data() const { return view_.obj == nullptr ? nullptr : view_.buf; }
  int64_t bytes() const { return view_.obj == nullptr ? 0 : static_cast<int64_t>(view_.len); }
  // struct-module code of the elements in native byte order ("B" for plain bytes).
  char code() const { return code_; }
  // Throws Error("invalid") unless the elements are one of `codes` ('i' and 'l' are told apart by size, not name).
  void expect(const char* codes, const char* what) const;
  std::vector<int32_t> ints(const char* what) const;

 private:
  Py_buffer view_{};
  char code_ = 'B';
};

// Integers from a sequence of them. Throws Error("invalid") that names `what`.
std::vector<int32_t> int_list(py::handle object, const char* what);
int32_t to_int(py::handle object, const char* what);
int64_t to_int64(py::handle object, const char* what);
uint64_t to_uint64(py::handle object, const char* what);
double to_double(py::handle object, const char* what);
bool to_bool(py::handle object, const char* what);
std::string to_string(py::handle object, const char* what);
py::bytes int_bytes(const std::vector<int32_t>& values);

}  // namespace deploykit::bindings
