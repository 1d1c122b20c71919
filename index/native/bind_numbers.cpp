#include "index/native/bind_numbers.hpp"

#include <nanobind/stl/string.h>

#include <cstring>
#include <string>

#include "index/native/error.hpp"

namespace nb = nanobind;

namespace kvatlas {
namespace {

struct Expected {
  const char* name;
  const char* letters;  // of the buffer protocol
  Py_ssize_t bytes;
};
constexpr Expected kExpected[] = {{"uint32", "IL", 4}, {"float32", "f", 4}, {"float64", "d", 8}};

std::string shown(nb::handle value) {
  nb::object text = nb::steal(PyObject_Repr(value.ptr()));
  if (!text.is_valid()) PyErr_Clear();
  const std::string whole = text.is_valid() ? nb::cast<std::string>(text) : Py_TYPE(value.ptr())->tp_name;
  return whole.size() > 80 ? whole.substr(0, 80) + "..." : whole;
}

}  // namespace

ColumnSpan::ColumnSpan(nb::handle column, const char* name, Type type, size_t columns) {
  if (column.is_none()) return;
  const Expected& expected = kExpected[static_cast<size_t>(type)];
  const auto refuse = [&](const std::string& got) -> Error {
    const std::string shape = columns == 0 ? "[n]" : "[n, " + std::to_string(columns) + "]";
    return Error(ErrorKind::input, std::string(name) + ": expected a contiguous array of " + expected.name + " " + shape + ", got " + got);
  };
  if (!PyObject_CheckBuffer(column.ptr()) || PyObject_GetBuffer(column.ptr(), &view_, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) != 0) {
    PyErr_Clear();
    throw refuse(Py_TYPE(column.ptr())->tp_name);
  }
  const char* format = view_.format == nullptr ? "B" : view_.format;
  const bool is_type = std::strchr(expected.letters, format[0]) != nullptr && format[0] != 0 && format[1] == 0 && view_.itemsize == expected.bytes;
  const bool is_shaped = columns == 0 ? view_.ndim == 1 : view_.ndim == 2 && view_.shape[1] == static_cast<Py_ssize_t>(columns);
  if (!is_type || !is_shaped) {
    const std::string got = std::to_string(view_.ndim) + " dimensions of format '" + format + "'";
    PyBuffer_Release(&view_);
    throw refuse(got);
  }
  has_view_ = true;
}

ColumnSpan::~ColumnSpan() {
  if (has_view_) PyBuffer_Release(&view_);
}

int64_t count_of(nb::handle value, const char* name, int64_t most) {
  int overflow = 0;
  long long got = -1;
  if (PyLong_Check(value.ptr()) && !PyBool_Check(value.ptr())) {
    got = PyLong_AsLongLongAndOverflow(value.ptr(), &overflow);
  } else if (nb::object number = nb::steal(PyNumber_Index(value.ptr())); number.is_valid() && !PyBool_Check(value.ptr())) {  // numpy scalars
    got = PyLong_AsLongLongAndOverflow(number.ptr(), &overflow);
  } else {
    PyErr_Clear();
  }
  if (overflow != 0 || got < 0 || got > most)
    throw Error(ErrorKind::input, std::string(name) + ": expected an int from 0 to " + std::to_string(most) + ", got " + shown(value));
  return got;
}

double number_of(nb::handle value, const char* name, double least, double most) {
  const double got = PyFloat_AsDouble(value.ptr());
  const bool is_none = got == -1.0 && PyErr_Occurred() != nullptr;
  if (is_none) PyErr_Clear();
  if (is_none || !(got >= least && got <= most))
    throw Error(ErrorKind::input, std::string(name) + ": expected a number from " + std::to_string(least) + " to " + std::to_string(most) + ", got " + shown(value));
  return got;
}

}  // namespace kvatlas
