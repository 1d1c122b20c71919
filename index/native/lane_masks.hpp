// Tier masks along a chain, of some lanes: rows of bytes, read off the chain's runs.
//
//   lanes   7: 1 1 1 3 3 0 0     one byte a block: the tiers in which the lane holds it
//           9: 0 0 1 1 1 1 0
//
// Cost of read(): runs x the smaller of lanes in their sets and 8 searches a lane; a byte a block.
//
// Thread safety: one thread at a time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "index/native/generation.hpp"

namespace kvatlas {

// Consecutive blocks of a chain that name one set.
struct Run {
  const Generation* generation;
  SetView set;
  uint32_t length;
};

inline uint8_t live_mask(uint32_t lane_word, uint32_t element) {
  return static_cast<uint8_t>(element & 0xff & (lane_word >> kLaneLiveShift));
}

// The tiers in which `lane` holds the blocks of a run.
inline uint8_t mask_of(const Run& run, uint32_t lane) {
  const Generation& g = *run.generation;
  const uint32_t phys = g.phys_of(lane);
  const uint32_t* end = run.set.elements + run.set.count;
  const uint32_t* at = std::lower_bound(run.set.elements, end, phys << 8);
  if (phys == kNoLane || at == end || *at >> 8 != phys) return 0;
  const uint32_t word = g.lane_word(phys);
  return (word & 0xffff) == lane ? live_mask(word, *at) : 0;
}

class LaneMasks {
 public:
  // Forgets all lanes. Masks will be of so many blocks.
  void begin(size_t n_blocks) {
    n_blocks_ = n_blocks;
    lanes_.clear();
  }

  void add(uint32_t lane) {
    if (has(lane)) return;
    place_of_lane_[lane] = static_cast<uint32_t>(lanes_.size());
    lanes_.push_back(lane);
  }

  size_t bytes() const { return n_blocks_ * (lanes_.size() + 1); }

  void read(const std::vector<Run>& runs) {
    masks_.assign(bytes(), 0);
    size_t begin = 0;
    for (const Run& run : runs) {
      if (run.set.count <= 8 * lanes_.size()) scan(run, begin);
      else search(run, begin);
      begin += run.length;
    }
  }

  // [n_blocks], until the next begin(). REQUIRES: the lane was added before read().
  const uint8_t* of(uint32_t lane) const { return masks_.data() + n_blocks_ * (place_of_lane_[lane] + 1); }
  // Of nothing held.
  const uint8_t* none() const { return masks_.data(); }

 private:
  bool has(uint32_t lane) const {
    const uint32_t place = place_of_lane_[lane];
    return place < lanes_.size() && lanes_[place] == lane;
  }

  void scan(const Run& run, size_t begin) {
    for (uint32_t i = 0; i < run.set.count; ++i) {
      const uint32_t word = run.generation->lane_word(run.set.elements[i] >> 8);
      if (has(word & 0xffff)) fill(word & 0xffff, begin, run.length, live_mask(word, run.set.elements[i]));
    }
  }

  void search(const Run& run, size_t begin) {
    for (uint32_t lane : lanes_) fill(lane, begin, run.length, mask_of(run, lane));
  }

  void fill(uint32_t lane, size_t begin, uint32_t length, uint8_t mask) {
    if (mask == 0) return;  // a lane may have a second, dead element
    std::fill_n(masks_.data() + n_blocks_ * (place_of_lane_[lane] + 1) + begin, length, mask);
  }

  size_t n_blocks_ = 0;
  std::vector<uint32_t> lanes_;
  // By lane; never cleared: a place counts only when the list there names the lane again.
  std::vector<uint32_t> place_of_lane_ = std::vector<uint32_t>(65536, 0);
  std::vector<uint8_t> masks_;
};

}  // namespace kvatlas
