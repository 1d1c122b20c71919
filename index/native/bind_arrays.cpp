#include "index/native/bind_arrays.hpp"

#include <cstring>
#include <string>

#include "index/native/error.hpp"

namespace nb = nanobind;

namespace kvatlas {
namespace {

std::string type_of(nb::handle value) { return Py_TYPE(value.ptr())->tp_name; }

Error bad_token(size_t at, const std::string& got) {
  return Error(ErrorKind::input, "token_ids[" + std::to_string(at) + "]: expected an int from 0 to 4294967295, got " + got);
}

// Buffer formats: native sizes, little-endian ('<', '=', '@' or nothing before the letter).
char letter_of(const Py_buffer& view) {
  const char* format = view.format == nullptr ? "B" : view.format;
  if (*format == '<' || *format == '=' || *format == '@') ++format;
  return format[0] != 0 && format[1] == 0 ? format[0] : '?';
}

template <class T>
void convert(const Py_buffer& view, std::vector<uint32_t>& out) {
  const auto* from = static_cast<const T*>(view.buf);
  out.resize(static_cast<size_t>(view.len) / sizeof(T));
  for (size_t i = 0; i < out.size(); ++i) {
    const T value = from[i];
    if (static_cast<T>(static_cast<uint32_t>(value)) != value || value < T{0}) throw bad_token(i, std::to_string(value));
    out[i] = static_cast<uint32_t>(value);
  }
}

template <class T>
nb::object array_of_all(Dtype dtype, const std::vector<T>& numbers) {
  const NewArray out = new_array(dtype, numbers.size());
  if (!numbers.empty()) std::memcpy(out.data, numbers.data(), numbers.size() * sizeof(T));
  return out.array;
}

}  // namespace

TokenSpan::TokenSpan(nb::handle tokens) {
  if (PyList_CheckExact(tokens.ptr()) || PyTuple_CheckExact(tokens.ptr())) {
    take_sequence(tokens);
    return;
  }
  if (PyObject_CheckBuffer(tokens.ptr())) {
    if (PyObject_GetBuffer(tokens.ptr(), &view_, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) != 0) {
      PyErr_Clear();
      throw Error(ErrorKind::input, "token_ids: expected a contiguous buffer");
    }
    has_view_ = true;
    try {
      take_buffer();
    } catch (...) {
      PyBuffer_Release(&view_);
      throw;
    }
    return;
  }
  nb::object list = nb::steal(PySequence_Check(tokens.ptr()) && !PyUnicode_Check(tokens.ptr()) ? PySequence_List(tokens.ptr()) : nullptr);
  if (!list.is_valid()) {
    PyErr_Clear();
    throw Error(ErrorKind::input, "token_ids: expected a list of int, a uint32 array or bytes, got " + type_of(tokens));
  }
  take_sequence(list);
}

TokenSpan::~TokenSpan() {
  if (has_view_) PyBuffer_Release(&view_);
}

void TokenSpan::take_buffer() {
  if (view_.ndim != 1) throw Error(ErrorKind::input, "token_ids: expected one dimension, got " + std::to_string(view_.ndim));
  const char letter = letter_of(view_);
  const bool is_signed = std::strchr("bhilqn", letter) != nullptr;
  const bool is_unsigned = std::strchr("HILQN", letter) != nullptr;
  if (letter == 'B' || letter == 'c') {  // raw bytes
    if (view_.len % 4 != 0) throw Error(ErrorKind::input, "token_ids: expected bytes of 4 a token, got " + std::to_string(view_.len) + " bytes");
    if (reinterpret_cast<uintptr_t>(view_.buf) % alignof(uint32_t) == 0) {
      data_ = static_cast<const uint32_t*>(view_.buf);
    } else {
      converted_.resize(static_cast<size_t>(view_.len) / 4);
      std::memcpy(converted_.data(), view_.buf, static_cast<size_t>(view_.len));
      data_ = converted_.data();
    }
    size_ = static_cast<size_t>(view_.len) / 4;
    return;
  }
  if (is_unsigned && view_.itemsize == 4) {
    data_ = static_cast<const uint32_t*>(view_.buf);
    size_ = static_cast<size_t>(view_.len) / 4;
    return;
  }
  if (is_signed && view_.itemsize == 8) convert<int64_t>(view_, converted_);
  else if (is_unsigned && view_.itemsize == 8) convert<uint64_t>(view_, converted_);
  else if (is_signed && view_.itemsize == 4) convert<int32_t>(view_, converted_);
  else if (is_signed && view_.itemsize == 2) convert<int16_t>(view_, converted_);
  else if (is_unsigned && view_.itemsize == 2) convert<uint16_t>(view_, converted_);
  else throw Error(ErrorKind::input, std::string("token_ids: expected integers, got a buffer of format '") + (view_.format ? view_.format : "B") + "'");
  data_ = converted_.data();
  size_ = converted_.size();
}

void TokenSpan::take_sequence(nb::handle tokens) {
  const size_t n = static_cast<size_t>(PySequence_Fast_GET_SIZE(tokens.ptr()));
  PyObject** items = PySequence_Fast_ITEMS(tokens.ptr());
  converted_.resize(n);
  for (size_t i = 0; i < n; ++i) {
    PyObject* item = items[i];
    long long value = -1;
    if (PyLong_Check(item) && !PyBool_Check(item)) {
      int overflow = 0;
      value = PyLong_AsLongLongAndOverflow(item, &overflow);
      if (overflow != 0) throw bad_token(i, "an int beyond 64 bits");
    } else if (PyIndex_Check(item) && !PyBool_Check(item)) {  // numpy scalars
      nb::object number = nb::steal(PyNumber_Index(item));
      int overflow = 1;
      if (number.is_valid()) value = PyLong_AsLongLongAndOverflow(number.ptr(), &overflow);
      if (overflow != 0) {
        PyErr_Clear();
        throw bad_token(i, type_of(item));
      }
    } else {
      throw bad_token(i, type_of(item));
    }
    if (value < 0 || value > 0xffffffffLL) throw bad_token(i, std::to_string(value));
    converted_[i] = static_cast<uint32_t>(value);
  }
  data_ = converted_.data();
  size_ = n;
}

KeySpan::KeySpan(nb::handle keys, const char* name) {
  if (!PyObject_CheckBuffer(keys.ptr()) || PyObject_GetBuffer(keys.ptr(), &view_, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) != 0) {
    PyErr_Clear();
    throw Error(ErrorKind::input, std::string(name) + ": expected a contiguous uint64 array, got " + type_of(keys));
  }
  const char letter = letter_of(view_);
  if (view_.ndim != 1 || view_.itemsize != 8 || std::strchr("LQN", letter) == nullptr) {
    const std::string got = view_.format ? view_.format : "B";
    const int ndim = view_.ndim;
    PyBuffer_Release(&view_);
    throw Error(ErrorKind::input, std::string(name) + ": expected one dimension of uint64, got " + std::to_string(ndim) + " of format '" + got + "'");
  }
}

ByteSpan::ByteSpan(nb::handle bytes, const char* name) {
  if (!PyObject_CheckBuffer(bytes.ptr()) || PyObject_GetBuffer(bytes.ptr(), &view_, PyBUF_SIMPLE) != 0) {
    PyErr_Clear();
    throw Error(ErrorKind::input, std::string(name) + ": expected bytes, got " + type_of(bytes));
  }
}

NewArray new_array(Dtype dtype, size_t n, size_t columns) {
  // For the process's life. numpy parses a dtype that comes as text anew at every call.
  static PyObject* empty = nb::object(nb::module_::import_("numpy").attr("empty")).release().ptr();
  static PyObject* dtypes[] = {nb::module_::import_("numpy").attr("dtype")("uint32").release().ptr(),
                               nb::module_::import_("numpy").attr("dtype")("uint64").release().ptr(),
                               nb::module_::import_("numpy").attr("dtype")("float32").release().ptr(),
                               nb::module_::import_("numpy").attr("dtype")("float64").release().ptr()};
  nb::object shape = columns == 0 ? nb::object(nb::int_(n)) : nb::object(nb::make_tuple(n, columns));
  PyObject* arguments[] = {shape.ptr(), dtypes[static_cast<size_t>(dtype)]};
  nb::object array = nb::steal(PyObject_Vectorcall(empty, arguments, 2, nullptr));
  if (!array.is_valid()) throw nb::python_error();
  Py_buffer view;
  if (PyObject_GetBuffer(array.ptr(), &view, PyBUF_C_CONTIGUOUS) != 0) throw nb::python_error();
  void* data = view.buf;
  PyBuffer_Release(&view);  // the array keeps the memory
  return {std::move(array), data};
}

nb::object array_of(const std::vector<uint32_t>& numbers) { return array_of_all(Dtype::uint32, numbers); }

nb::object array_of(const std::vector<uint64_t>& numbers) { return array_of_all(Dtype::uint64, numbers); }

nb::bytes bytes_of(const std::vector<uint8_t>& bytes) { return nb::bytes(reinterpret_cast<const char*>(bytes.data()), bytes.size()); }

}  // namespace kvatlas
