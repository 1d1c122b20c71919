// Which key lies in which slot of pinned memory. Knows no memory: a slot is a number.
//
//            fill               ready                pin
//   (free) --------> FILLING ---------> READY idle <-------> READY pinned
//      ^               | drop             |           unpin
//      '---------------+------------------'  drop, clear, or evicted by another fill
//
// Always so: (1) a slot is in exactly one of these; (2) each key has at most one slot; (3) only what is READY and idle is evicted, the
// least recently used first: used means made ready, touched, unpinned, or asked for again by fill; (4) n_slots slots, never more.
//
// Thread safety: all methods, from any thread (one mutex, held for O(keys)).
#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "offload/native/entry_lists.hpp"
#include "offload/native/key_table.hpp"

namespace kvatlas {

struct SlotStatistics {
  uint64_t slots = 0;
  uint64_t free = 0;
  uint64_t filling = 0;
  uint64_t ready = 0;    // pinned ones among them
  uint64_t pinned = 0;
  uint64_t filled = 0;   // since the start: slots taken
  uint64_t evicted = 0;  // keys, for others
  uint64_t dropped = 0;  // slots given back
  uint64_t refused = 0;  // fills that found no room
};

class Slots {
 public:
  static constexpr int32_t kAbsent = -1;
  static constexpr int32_t kFilling = -2;

  // Throws Error{input}: n_slots outside 1 .. 2^30 - 1, key_bytes outside 1 .. 1024.
  Slots(int64_t n_slots, int64_t key_bytes);
  Slots(const Slots&) = delete;
  Slots& operator=(const Slots&) = delete;

  uint32_t key_bytes() const { return table_.key_bytes(); }

  // The slot of a key that is READY, or kAbsent, or kFilling.
  int32_t find(const uint8_t* key) const;

  // Takes a slot for each of n packed keys that has none; `slots` [n] gets it, or -1 for a key that has one already, and such a key
  // is not evicted. `evicted` gets the packed keys that had to go. False: no room, nothing changed.
  bool fill(const uint8_t* keys, size_t n, int32_t* slots, std::string& evicted);

  // FILLING to READY. Throws Error{input}, and changes nothing, if one of them is not FILLING.
  void ready(const int32_t* slots, size_t n);
  // FILLING or READY to free. Throws Error{input}, and changes nothing, if one is free or pinned or given twice.
  void drop(const int32_t* slots, size_t n);

  // One more pin on each key that is READY; `slots` [n] gets its slot, or kAbsent or kFilling: then nothing is pinned for it.
  void pin(const uint8_t* keys, size_t n, int32_t* slots);
  // One less. Throws Error{input}, and changes nothing, if one has no pin (left).
  void unpin(const uint8_t* keys, size_t n);
  // Makes keys that are READY the most recently used; others are passed over.
  void touch(const uint8_t* keys, size_t n);
  // Forgets everything that is READY and idle.
  void clear();

  SlotStatistics statistics() const;

 private:
  enum class State : uint8_t { free, filling, ready };
  struct Slot {
    State state = State::free;
    uint32_t pins = 0;
  };
  uint32_t checked(int32_t slot, State expected) const;
  size_t absent_of(const uint8_t* keys, size_t n, uint32_t& idle) const;
  uint32_t take(std::string& evicted);
  void release(uint32_t slot);
  void unpin_one(uint32_t slot);
  void pin_one(uint32_t slot);

  mutable std::mutex mutex_;
  KeyTable table_;
  std::vector<Slot> slots_;
  std::vector<EntryLinks> links_;
  EntryList free_;
  EntryList idle_;  // READY without pins
  uint32_t n_filling_ = 0;
  uint32_t n_pinned_ = 0;
  uint64_t filled_ = 0;
  uint64_t evicted_ = 0;
  uint64_t dropped_ = 0;
  uint64_t refused_ = 0;
};

}  // namespace kvatlas
