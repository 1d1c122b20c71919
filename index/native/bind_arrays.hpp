// Buffers in and numpy arrays out, without a Python object per element.
//
// Thread safety: needs the GIL; a TokenSpan's data may be read without it.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <vector>

namespace kvatlas {

// Token ids as contiguous uint32: borrowed from a buffer of uint32 (or bytes of little-endian
// uint32), converted from other integer buffers and from sequences of int.
// Throws Error{input}: wrong type, more than one dimension, an id outside 0 .. 2^32-1 (and where).
class TokenSpan {
 public:
  explicit TokenSpan(nanobind::handle tokens);
  TokenSpan(const TokenSpan&) = delete;
  ~TokenSpan();

  const uint32_t* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  void take_buffer();
  void take_sequence(nanobind::handle tokens);

  Py_buffer view_{};
  bool has_view_ = false;
  std::vector<uint32_t> converted_;
  const uint32_t* data_ = nullptr;
  size_t size_ = 0;
};

// Block keys: a contiguous one-dimensional buffer of uint64, borrowed. Throws Error{input}.
class KeySpan {
 public:
  KeySpan(nanobind::handle keys, const char* name);
  KeySpan(const KeySpan&) = delete;
  ~KeySpan() { PyBuffer_Release(&view_); }

  const uint64_t* data() const { return static_cast<const uint64_t*>(view_.buf); }
  size_t size() const { return static_cast<size_t>(view_.len) / 8; }

 private:
  Py_buffer view_{};
};

// Any contiguous buffer as bytes. Throws Error{input}.
class ByteSpan {
 public:
  ByteSpan(nanobind::handle bytes, const char* name);
  ByteSpan(const ByteSpan&) = delete;
  ~ByteSpan() { PyBuffer_Release(&view_); }

  const uint8_t* data() const { return static_cast<const uint8_t*>(view_.buf); }
  size_t size() const { return static_cast<size_t>(view_.len); }

 private:
  Py_buffer view_{};
};

// A new numpy array of n (times `columns`, when not 0) elements, and where its data lies.
struct NewArray {
  nanobind::object array;
  void* data;
};
enum class Dtype : uint8_t { uint32, uint64, float32, float64 };
NewArray new_array(Dtype dtype, size_t n, size_t columns = 0);
nanobind::object array_of(const std::vector<uint32_t>& numbers);
nanobind::object array_of(const std::vector<uint64_t>& numbers);
nanobind::bytes bytes_of(const std::vector<uint8_t>& bytes);

}  // namespace kvatlas
