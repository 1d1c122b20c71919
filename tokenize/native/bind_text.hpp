// A Python str as UTF-8.
//
// Thread safety: construction and slice() need the GIL; encode() and utf8() do not, one thread at a time.
#pragma once

#include <nanobind/nanobind.h>

#include <memory>
#include <string>
#include <string_view>

namespace kvatlas {

class Utf8Text {
 public:
  // Keeps the str; ASCII is read in place. Throws Error{input}: not a str. `name` is for errors.
  Utf8Text(nanobind::handle text, std::string name);

  // Throws Error{input} for lone surrogates. To be called once, before utf8().
  void encode();

  // Bytes in memory, of what encode() has to go through.
  size_t n_bytes() const { return n_characters_ * static_cast<size_t>(width_); }
  std::string_view utf8() const { return utf8_; }
  nanobind::object slice(size_t begin, size_t end) const;

 private:
  std::string name_;
  nanobind::object text_;
  const void* characters_;
  size_t n_characters_;
  int width_;
  bool is_ascii_;
  std::unique_ptr<char[]> encoded_;
  std::string_view utf8_;
};

}  // namespace kvatlas
