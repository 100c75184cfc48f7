#include "bindings/buffers.h"

#include <cstring>

namespace deploykit::bindings {
namespace {

[[noreturn]] void refuse(const char* what, const std::string& why) {
  PyErr_Clear();
  throw Error("invalid", std::string(what) + ": " + why);
}

std::string type_name(py::handle object) { return Py_TYPE(object.ptr())->tp_name; }

// One letter for a format: its kind by size, so that what C calls int or long does not matter.
char element_code(const Py_buffer& view, const char* what) {
  const char* format = view.format == nullptr ? "B" : view.format;
  if (*format == '@' || *format == '=' || *format == '<' || *format == '|') ++format;  // hosts here are little-endian
  if (format[0] == '\0' || format[1] != '\0') {
    refuse(what, std::string("elements of format '") + (view.format == nullptr ? "" : view.format) + "'");
  }
  switch (*format) {
    case 'i':
    case 'l':
    case 'q': return view.itemsize == 4 ? 'i' : 'q';
    case 'I':
    case 'L':
    case 'Q': return view.itemsize == 4 ? 'I' : 'Q';
    case 'c': return 'B';
    default: return *format;
  }
}

}  // namespace

Buffer::Buffer(py::handle object, const char* what) {
  if (object.is_none()) return;
  if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) != 0) {
    view_.obj = nullptr;
    refuse(what, "a " + type_name(object) + " is no C-contiguous buffer");
  }
  try {
    code_ = element_code(view_, what);
  } catch (...) {
    PyBuffer_Release(&view_);
    view_.obj = nullptr;
    throw;
  }
}

Buffer::~Buffer() {
  if (view_.obj != nullptr) PyBuffer_Release(&view_);
}

void Buffer::expect(const char* codes, const char* what) const {
  if (data() == nullptr || std::strchr(codes, code_) != nullptr) return;
  refuse(what, std::string("elements of type '") + code_ + "', not one of '" + codes + "'");
}

std::vector<int32_t> Buffer::ints(const char* what) const {
  expect("Bi", what);
  if (bytes() % 4 != 0) refuse(what, std::to_string(bytes()) + " bytes are no int32 array");
  std::vector<int32_t> values(static_cast<size_t>(bytes() / 4));
  if (!values.empty()) std::memcpy(values.data(), data(), values.size() * 4);
  return values;
}

int64_t to_int64(py::handle object, const char* what) {
  const int64_t value = PyLong_AsLongLong(object.ptr());
  if (value == -1 && PyErr_Occurred() != nullptr) refuse(what, "a " + type_name(object) + " is no 64-bit integer");
  return value;
}

uint64_t to_uint64(py::handle object, const char* what) {
  if (!PyLong_Check(object.ptr())) refuse(what, "a " + type_name(object) + " is no integer");
  const uint64_t value = PyLong_AsUnsignedLongLong(object.ptr());
  if (value == ~uint64_t{0} && PyErr_Occurred() != nullptr) refuse(what, "not an unsigned 64-bit integer");
  return value;
}

int32_t to_int(py::handle object, const char* what) {
  const int64_t value = to_int64(object, what);
  if (value < INT32_MIN || value > INT32_MAX) refuse(what, std::to_string(value) + " does not fit in 32 bits");
  return static_cast<int32_t>(value);
}

double to_double(py::handle object, const char* what) {
  const double value = PyFloat_AsDouble(object.ptr());
  if (value == -1.0 && PyErr_Occurred() != nullptr) refuse(what, "a " + type_name(object) + " is no number");
  return value;
}

bool to_bool(py::handle object, const char* what) {
  if (object.ptr() == Py_True) return true;
  if (object.ptr() == Py_False) return false;
  refuse(what, "a " + type_name(object) + " is no bool");
}

std::string to_string(py::handle object, const char* what) {
  Py_ssize_t size = 0;
  const char* text = PyUnicode_Check(object.ptr()) ? PyUnicode_AsUTF8AndSize(object.ptr(), &size) : nullptr;
  if (text == nullptr) refuse(what, "a " + type_name(object) + " is no string");
  return {text, static_cast<size_t>(size)};
}

std::vector<int32_t> int_list(py::handle object, const char* what) {
  const auto items = py::reinterpret_steal<py::object>(PySequence_Fast(object.ptr(), ""));
  if (!items) refuse(what, "a " + type_name(object) + " is no sequence");
  const Py_ssize_t count = PySequence_Fast_GET_SIZE(items.ptr());
  std::vector<int32_t> values(static_cast<size_t>(count));
  for (Py_ssize_t i = 0; i < count; ++i) {
    values[static_cast<size_t>(i)] = to_int(PySequence_Fast_GET_ITEM(items.ptr(), i), what);
  }
  return values;
}

py::bytes int_bytes(const std::vector<int32_t>& values) {
  return py::bytes(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(int32_t));
}

}  // namespace deploykit::bindings
