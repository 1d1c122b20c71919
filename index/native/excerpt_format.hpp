// An excerpt's bytes, checked, and how they become a generation (private to excerpt*.cpp).
//
// Thread safety: one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "index/native/generation.hpp"

namespace kvatlas {

inline constexpr char kExcerptMagic[4] = {'k', 'v', 'a', 'x'};
inline constexpr uint16_t kExcerptVersion = 1;
inline constexpr uint16_t kExcerptWhole = 1;

struct ExcerptHeader {
  char magic[4];
  uint16_t version;
  uint16_t flags;
  uint32_t n_keys, n_lanes, n_sets, n_elements, n_runs;
  uint32_t zero;
};
static_assert(sizeof(ExcerptHeader) == 32);

struct ExcerptRun {
  uint32_t set;
  uint32_t length;
};

inline uint64_t excerpt_bytes(const ExcerptHeader& h) {
  return sizeof h + 4 * (uint64_t{h.n_lanes} + h.n_sets + h.n_elements + 2 * uint64_t{h.n_runs});
}

class ExcerptView {
 public:
  // Throws Error{decode}, with the number of the part, unless all of it is as it should be.
  ExcerptView(const uint8_t* bytes, size_t n_bytes, size_t n_keys, size_t part);

  const ExcerptHeader& header() const { return header_; }
  bool whole() const { return (header_.flags & kExcerptWhole) != 0; }
  uint32_t lane(uint32_t i) const { return word(i); }
  uint32_t count(uint32_t i) const { return word(uint64_t{header_.n_lanes} + i); }
  uint32_t element(uint64_t i) const { return word(uint64_t{header_.n_lanes} + header_.n_sets + i); }
  ExcerptRun run(uint32_t i) const {
    const uint64_t at = uint64_t{header_.n_lanes} + header_.n_sets + header_.n_elements + 2 * uint64_t{i};
    return {word(at), word(at + 1)};
  }
  uint64_t arena_bytes() const { return 16 * uint64_t{header_.n_sets} + 4 * uint64_t{header_.n_elements}; }  // at most

 private:
  uint32_t word(uint64_t i) const {
    uint32_t value;
    std::memcpy(&value, words_ + 4 * i, sizeof value);
    return value;
  }
  void check_lanes(size_t part) const;
  void check_sets(size_t part) const;
  void check_runs(size_t part) const;

  ExcerptHeader header_{};
  const uint8_t* words_;
};

// The lanes of all parts, ascending; closed where every part that names one says so.
std::vector<uint32_t> merged_lanes(const std::vector<ExcerptView>& views);

// Writes the sets and keys of parts into a generation that has room for them.
class ExcerptWriter {
 public:
  explicit ExcerptWriter(Generation& g) : g_(g) {}
  void put(const ExcerptView& view, const std::vector<uint32_t>& lanes, const uint64_t* keys);

 private:
  void put_sets(const ExcerptView& view, const std::vector<uint32_t>& lanes);
  void put_key(uint64_t key, uint32_t set);

  Generation& g_;
  uint64_t used_ = 8;
  std::vector<uint32_t> numbers_{};  // of the view's sets in the generation
};

}  // namespace kvatlas
