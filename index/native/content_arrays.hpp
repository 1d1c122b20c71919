// Content from plain arrays, checked: what an index that is no table has to tell (docs/dump_format.md).
//
// Thread safety: plain functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "index/native/section.hpp"

namespace kvatlas {

struct ContentArrays {
  std::vector<uint32_t> lanes;        // with their bits, each once, in any order
  const uint64_t* keys = nullptr;     // [n_keys]
  size_t n_keys = 0;
  std::vector<uint32_t> tags, sets;   // [n_keys] of each key: its segment's, and which set holds it
  std::vector<uint32_t> set_sizes;    // [n_sets] elements of each set
  std::vector<uint32_t> elements;     // of one set after the other: lane << 8 | tier bits, in any order
  bool knows_tags = true;
};

// Entries in the order of the keys: sort() before sections are written. Throws Error{input} where the arrays do
// not fit each other.
Content content_of(ContentArrays arrays);

}  // namespace kvatlas
