// Plain values in and out of bytes: little-endian, packed, each read checked.
//
// Thread safety: plain data.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "index/native/error.hpp"

namespace kvatlas {

static_assert(std::endian::native == std::endian::little);

using Bytes = std::vector<uint8_t>;

template <class T>
void append_all(Bytes& out, const T* values, size_t n) {
  const size_t at = out.size();
  out.resize(at + n * sizeof(T));
  if (n > 0) std::memcpy(out.data() + at, values, n * sizeof(T));
}
template <class T>
void append(Bytes& out, T value) {
  static_assert(std::is_integral_v<T>);
  append_all(out, &value, 1);
}

// Reads what append() wrote. Throws Error{checkpoint}, saying where, when the bytes end too soon.
class ByteReader {
 public:
  ByteReader(std::string_view bytes, std::string name) : begin_(bytes.data()), at_(begin_), end_(begin_ + bytes.size()), name_(std::move(name)) {}

  bool at_end() const { return at_ == end_; }
  template <class T>
  T take() {
    static_assert(std::is_integral_v<T>);
    T value;
    take_all(&value, 1);
    return value;
  }
  template <class T>
  void take_all(T* values, size_t n) {
    if (static_cast<size_t>(end_ - at_) / sizeof(T) < n) refuse(std::to_string(n * sizeof(T)) + " bytes", std::to_string(end_ - at_));
    if (n > 0) std::memcpy(values, at_, n * sizeof(T));
    at_ += n * sizeof(T);
  }
  // REQUIRES: memory for n elements is only taken when so many are there.
  template <class T>
  std::vector<T> take_vector(size_t n) {
    if (static_cast<size_t>(end_ - at_) / sizeof(T) < n) refuse(std::to_string(n) + " elements", "the end");
    std::vector<T> values(n);
    take_all(values.data(), n);
    return values;
  }
  std::string_view take_text(size_t n) {
    if (static_cast<size_t>(end_ - at_) < n) refuse(std::to_string(n) + " bytes", std::to_string(end_ - at_));
    const std::string_view text(at_, n);
    at_ += n;
    return text;
  }
  [[noreturn]] void refuse(const std::string& expected, const std::string& got) const {
    throw Error(ErrorKind::checkpoint, name_ + ", byte " + std::to_string(at_ - begin_) + ": expected " + expected + ", got " + got);
  }
  void require(bool good, const char* expected, uint64_t got) const {
    if (!good) refuse(expected, std::to_string(got));
  }

 private:
  const char* begin_;
  const char* at_;
  const char* end_;
  std::string name_;
};

}  // namespace kvatlas
