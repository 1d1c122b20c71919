// Arrays and numbers of given types in, each checked, with the name of what was wrong.
//
// Thread safety: needs the GIL.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <span>

namespace kvatlas {

// A contiguous numpy array, or other buffer, of exactly this element type, borrowed. `columns` 0: one dimension.
// None is empty. Throws Error{input}.
class ColumnSpan {
 public:
  enum class Type : uint8_t { uint32, float32, float64 };
  ColumnSpan(nanobind::handle column, const char* name, Type type, size_t columns = 0);
  ColumnSpan(const ColumnSpan&) = delete;
  ~ColumnSpan();

  // REQUIRES: T is the type given.
  template <class T>
  std::span<const T> of() const {
    return {static_cast<const T*>(view_.buf), static_cast<size_t>(view_.len) / sizeof(T)};
  }

 private:
  Py_buffer view_{};
  bool has_view_ = false;
};

// An int from 0 to `most`. Throws Error{input}.
int64_t count_of(nanobind::handle value, const char* name, int64_t most);
// A number, and no NaN or infinity, from `least` to `most`. Throws Error{input}.
double number_of(nanobind::handle value, const char* name, double least, double most);

}  // namespace kvatlas
