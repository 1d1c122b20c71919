// Looking at contents: which pairs of key and lane there are, and in what two tables differ.
//
// Thread safety: plain functions.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "index/native/section.hpp"
#include "index/native/table.hpp"

namespace kvatlas {

// A lane holds a key in these tiers; its segment has this tag.
struct Holding {
  uint64_t key;
  uint32_t tag, lane, tiers;
};

// What a section says of some lanes in some tiers. `tiers_of_lane` [65536]: those that are wanted, by lane. `keys`: ascending;
// none: all. Stops after `n_max`. Returns how many there are, also beyond that.
uint64_t search_section(const SectionView& section, const std::vector<uint8_t>& tiers_of_lane, const std::vector<uint64_t>* keys, size_t n_max,
                        std::vector<Holding>& out);

// Pairs of a key with a lane and one tier.
struct Difference {
  uint64_t n_left = 0, n_right = 0, n_both = 0;  // only in the first, only in the second, in both
};

// By lane << 8 | tier bit. Lanes of the two are the same where their numbers are. Both are read at one moment each, and
// should be quiet: what is written meanwhile may be counted or not.
std::map<uint32_t, Difference> compare(Table& left, Table& right);

}  // namespace kvatlas
