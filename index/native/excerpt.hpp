// What a source knows of some keys, as bytes: so that a reader elsewhere can match them.
//
//   excerpt  := "kvax" | version u16 = 1 | flags u16 | n_keys u32 | n_lanes u32 | n_sets u32 | n_elements u32 | n_runs u32 | 0 u32
//               lane_word u32 x n_lanes | count u32 x n_sets | element u32 x n_elements | (set u32 | length u32) x n_runs
//   flags     = 1: the source was whole
//   lane_word = lane | closed << 24         ascending
//   element   = place among the lanes << 8 | tier mask, ascending in a set; a set has `count` of them, 1 at least
//   run       : so many keys, in the order asked, have set number 1 .. n_sets, or 0: nobody holds them
//
// Little-endian. Thread safety: excerpt_of by any thread; Excerpt as any source.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "index/native/table.hpp"
#include "index/native/touched.hpp"

namespace kvatlas {

std::vector<uint8_t> excerpt_of(Source& source, const uint64_t* keys, size_t n_keys);

// Excerpts put together, as a source that knows their keys and no others.
class Excerpt final : public Source {
 public:
  struct Part {
    const uint64_t* keys;  // those asked for
    size_t n_keys;
    const uint8_t* bytes;  // what came
    size_t n_bytes;
  };
  // Keeps nothing of what the parts point at. Throws Error{decode} for bytes that excerpt_of would
  // not have written for these keys.
  explicit Excerpt(const std::vector<Part>& parts);

  std::shared_ptr<const Generation> pin() override { return generation_; }
  void touch(const uint64_t* segment_keys, size_t n) override { touched_.add(segment_keys, n); }
  std::vector<uint64_t> take_touched() { return touched_.take(); }
  bool whole() const override { return whole_; }  // every part's source was

 private:
  std::shared_ptr<const Generation> generation_;
  Touched touched_;
  bool whole_ = true;
};

}  // namespace kvatlas
