// Interned, immutable residency sets in a generation's arena: the writer's side.
//
// A set says which lanes hold a block in which tiers. Equal sets are one set, so a chain that
// the same workers hold names one set in every slot, and `set + (lane, tier)` is computed once:
//
//     add(lane 7, gpu) to 500 blocks of set 3  ->  one lookup, set 9, 500 stores
//
// Cost: a memoised transition a few ns; a new one O(lanes in the set). Sets are never freed
// here: the table copies what lives into the next generation.
//
// Thread safety: one writer. Readers see a set only after its number was stored in a slot.
#pragma once

#include <cstdint>
#include <vector>

#include "index/native/generation.hpp"

namespace kvatlas {

// Several lanes at once: what a whole set of a content record adds.
struct Elements {
  uint64_t number;                 // no other ones have it, of those that one arena is given
  std::vector<uint32_t> elements;  // ascending by lane
};

class SetArena {
 public:
  // Memory that is there from the start.
  static constexpr uint64_t kMemoBytes = 16ull << 12;

  // bytes_max: what bytes() may become.
  SetArena(Generation& generation, uint64_t bytes_max);

  // The set with tier bits `tiers` of physical lane `phys` added to / taken from `set`.
  // Throws Error{table_file} when the arena has no room; nothing is changed then.
  uint32_t with(uint32_t set, uint32_t phys, uint8_t tiers) { return transition(set, phys, tiers, true); }
  uint32_t without(uint32_t set, uint32_t phys, uint8_t tiers) { return transition(set, phys, tiers, false); }

  // The set with all of `more` added. Throws as `with`.
  uint32_t with_all(uint32_t set, const Elements& more);

  // The number of the set with these elements (ascending by lane); 0 for none.
  uint32_t intern(const uint32_t* elements, uint32_t count);

  uint64_t used_bytes() const { return used_; }
  uint64_t n_sets() const { return n_sets_; }
  // The sets, their index, and the map of half their size that the next generation is made with.
  uint64_t bytes() const { return bytes_with(0, interned_.size()); }
  uint64_t bytes_max() const { return bytes_max_; }
  bool is_full() const { return is_full_; }  // a set had no room
  uint64_t private_bytes() const;  // memo and intern index

 private:
  struct Memo {
    uint64_t question;
    uint32_t answer;
  };

  uint32_t transition(uint32_t set, uint32_t phys, uint8_t tiers, bool add);
  uint32_t compute(uint32_t set, uint32_t phys, uint8_t tiers, bool add);
  uint32_t unite(uint32_t set, const std::vector<uint32_t>& more);
  void require_room(uint64_t bytes);
  void index(uint32_t set, uint32_t hash);
  bool index_is_full() const { return (n_sets_ + 1) * 2 > interned_.size(); }
  uint64_t bytes_with(uint64_t more, uint64_t n_interned) const { return (used_ + more) * 3 / 2 + n_interned * sizeof(uint32_t); }

  Generation& generation_;
  const uint64_t bytes_max_;
  bool is_full_ = false;
  uint64_t used_ = 8;
  uint64_t n_sets_ = 0;
  uint64_t last_question_ = ~0ull;
  uint32_t last_answer_ = 0;
  uint64_t more_number_ = 0;  // of the last with_all: added to which set, and what came of it
  uint32_t more_before_ = 0, more_after_ = 0;
  std::vector<Memo> memo_;         // direct mapped
  std::vector<uint32_t> interned_;  // open addressing, set numbers, 0 empty
  std::vector<uint32_t> scratch_;
};

}  // namespace kvatlas
