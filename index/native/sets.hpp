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

class SetArena {
 public:
  explicit SetArena(Generation& generation);

  // The set with tier bits `tiers` of physical lane `phys` added to / taken from `set`.
  // Throws Error{table_file} when the arena has no room; nothing is changed then.
  uint32_t with(uint32_t set, uint32_t phys, uint8_t tiers) { return transition(set, phys, tiers, true); }
  uint32_t without(uint32_t set, uint32_t phys, uint8_t tiers) { return transition(set, phys, tiers, false); }

  // The number of the set with these elements (ascending by lane); 0 for none.
  uint32_t intern(const uint32_t* elements, uint32_t count);

  uint64_t used_bytes() const { return used_; }
  uint64_t n_sets() const { return n_sets_; }
  uint64_t private_bytes() const;  // memo and intern index

 private:
  struct Memo {
    uint64_t question;
    uint32_t answer;
  };

  uint32_t transition(uint32_t set, uint32_t phys, uint8_t tiers, bool add);
  uint32_t compute(uint32_t set, uint32_t phys, uint8_t tiers, bool add);
  void index(uint32_t set, uint32_t hash);

  Generation& generation_;
  uint64_t used_ = 8;
  uint64_t n_sets_ = 0;
  uint64_t last_question_ = ~0ull;
  uint32_t last_answer_ = 0;
  std::vector<Memo> memo_;         // direct mapped
  std::vector<uint32_t> interned_;  // open addressing, set numbers, 0 empty
  std::vector<uint32_t> scratch_;
};

}  // namespace kvatlas
