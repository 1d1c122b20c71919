// Numbers of a caller, checked (private to this folder).
#pragma once

#include <cstdint>
#include <string>

#include "index/native/error.hpp"

namespace kvatlas {

// Throws Error{input} unless 1 <= value <= most < 2^32.
inline uint32_t in_range(const char* name, int64_t value, int64_t most) {
  if (value < 1 || value > most)
    throw Error(ErrorKind::input, std::string(name) + ": expected 1 to " + std::to_string(most) + ", got " + std::to_string(value));
  return static_cast<uint32_t>(value);
}

}  // namespace kvatlas
