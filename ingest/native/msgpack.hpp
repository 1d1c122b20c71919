// Reads msgpack in place, one value at a time, from bytes that nobody vouches for.
//
// Every read is bounded by the buffer's end; lengths in headers are claims and cost nothing until
// the bytes are there; nesting is bounded. What cannot be read throws Broken.
//
// Source: https://github.com/msgpack/msgpack/blob/master/spec.md
#pragma once

#include <cstdint>
#include <cstring>
#include <exception>
#include <string_view>

namespace kvatlas {

// The bytes end inside a value, hold 0xc1, or nest too deep: nothing behind can be read.
struct Broken : std::exception {
  const char* what() const noexcept override { return "broken msgpack"; }
};

enum class Kind : uint8_t { nil, boolean, integer, floating, str, bin, array, map, ext, invalid };

class MsgpackCursor {
 public:
  static constexpr int kNestingMax = 512;  // containers inside one another, the outermost counted

  MsgpackCursor(const uint8_t* begin, const uint8_t* end) : at_(begin), end_(end) {}

  Kind kind() const {
    if (at_ == end_) throw Broken();
    return kind_of(*at_);
  }

  void read_nil() { ++at_; }

  // An integer of any width. `negative`: value is its two's complement. REQUIRES: kind() integer.
  uint64_t read_integer(bool& negative) {
    const uint8_t tag = *at_++;
    negative = false;
    if (tag <= 0x7f) return tag;
    if (tag >= 0xe0) {
      negative = true;
      return static_cast<uint64_t>(static_cast<int64_t>(static_cast<int8_t>(tag)));
    }
    const unsigned width = 1u << (tag & 3);  // 0xcc..0xcf unsigned, 0xd0..0xd3 signed
    uint64_t value = read_be(width);
    if (tag >= 0xd0) {
      const unsigned unused = 64 - 8 * width;
      const int64_t extended = static_cast<int64_t>(value << unused) >> unused;
      negative = extended < 0;
      value = static_cast<uint64_t>(extended);
    }
    return value;
  }

  // REQUIRES: kind() floating.
  double read_float() {
    const uint8_t tag = *at_++;
    if (tag == 0xca) {
      const uint32_t bits = static_cast<uint32_t>(read_be(4));
      float value;
      std::memcpy(&value, &bits, sizeof value);
      return static_cast<double>(value);
    }
    const uint64_t bits = read_be(8);
    double value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }

  // REQUIRES: kind() str or bin.
  std::string_view read_bytes() {
    const uint8_t tag = *at_++;
    uint64_t length;
    if (tag <= 0xbf) length = tag & 0x1f;
    else length = read_be(tag <= 0xc6 ? 1u << (tag - 0xc4) : 1u << (tag - 0xd9));
    return take(length);
  }

  // REQUIRES: kind() array.
  uint64_t read_array() {
    const uint8_t tag = *at_++;
    return tag <= 0x9f ? tag & 0x0f : read_be(tag == 0xdc ? 2 : 4);
  }
  // REQUIRES: kind() map.
  uint64_t read_map() {
    const uint8_t tag = *at_++;
    return tag <= 0x8f ? tag & 0x0f : read_be(tag == 0xde ? 2 : 4);
  }

  // Steps over one value. `depth`: containers that are open around it.
  void skip(int depth);

  const uint8_t* position() const { return at_; }
  const uint8_t* end() const { return end_; }
  void seek(const uint8_t* at) { at_ = at; }  // REQUIRES: within the buffer

 private:
  static Kind kind_of(uint8_t tag);

  uint64_t read_be(unsigned width) {
    if (static_cast<uint64_t>(end_ - at_) < width) throw Broken();
    uint64_t value = 0;
    for (unsigned i = 0; i < width; ++i) value = value << 8 | at_[i];
    at_ += width;
    return value;
  }
  std::string_view take(uint64_t length) {
    if (static_cast<uint64_t>(end_ - at_) < length) throw Broken();
    const auto* from = reinterpret_cast<const char*>(at_);
    at_ += length;
    return {from, static_cast<size_t>(length)};
  }

  const uint8_t* at_;
  const uint8_t* end_;
};

inline Kind MsgpackCursor::kind_of(uint8_t tag) {
  if (tag <= 0x7f || tag >= 0xe0) return Kind::integer;
  if (tag <= 0x8f) return Kind::map;
  if (tag <= 0x9f) return Kind::array;
  if (tag <= 0xbf) return Kind::str;
  switch (tag) {
    case 0xc0: return Kind::nil;
    case 0xc1: return Kind::invalid;
    case 0xc2: case 0xc3: return Kind::boolean;
    case 0xc4: case 0xc5: case 0xc6: return Kind::bin;
    case 0xc7: case 0xc8: case 0xc9: return Kind::ext;
    case 0xca: case 0xcb: return Kind::floating;
    case 0xd4: case 0xd5: case 0xd6: case 0xd7: case 0xd8: return Kind::ext;
    case 0xd9: case 0xda: case 0xdb: return Kind::str;
    case 0xdc: case 0xdd: return Kind::array;
    case 0xde: case 0xdf: return Kind::map;
    default: return Kind::integer;  // 0xcc .. 0xd3
  }
}

inline void MsgpackCursor::skip(int depth) {
  uint64_t left[kNestingMax];  // values still to come in each container opened here
  int open = 0;
  for (;;) {
    switch (kind()) {
      case Kind::invalid: throw Broken();
      case Kind::nil: case Kind::boolean: ++at_; break;
      case Kind::integer: {
        bool negative;
        read_integer(negative);
        break;
      }
      case Kind::floating: read_float(); break;
      case Kind::str: case Kind::bin: read_bytes(); break;
      case Kind::ext: {
        const uint8_t tag = *at_++;
        const uint64_t length = tag >= 0xd4 ? 1ull << (tag - 0xd4) : read_be(1u << (tag - 0xc7));
        take(length + 1);  // the type byte comes first
        break;
      }
      case Kind::array: case Kind::map: {
        const uint64_t n = kind() == Kind::map ? 2 * read_map() : read_array();
        if (depth + open + 1 > kNestingMax) throw Broken();
        left[open++] = n;
        break;
      }
    }
    while (open > 0 && left[open - 1] == 0) --open;
    if (open == 0) return;
    --left[open - 1];
  }
}

}  // namespace kvatlas
