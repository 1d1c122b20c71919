// What is known of a store's keys: which are there, which are not (for a while), which somebody is asking after. Bounded: the least
// recently used are forgotten, which costs a question more and nothing else.
//
//              ask                       set(PRESENT), set(ABSENT)
//   UNKNOWN ---------> ASKED, waiting ---------.-------------> PRESENT or ABSENT
//      ^                  | take_asked         |                   |      ask
//      |                  v                    |                   '----------> ASKED, waiting
//      '--------- ASKED, taken ----------------'
//        forget, evicted; an ABSENT one when its time is over
//
// Always so: (1) what is waiting is given out by take_asked exactly once, in the order in which it was asked for, and is not evicted
// before; (2) at most entries_max keys are known; (3) an answer that never comes leaves its key ASKED until it is set, forgotten or evicted: who
// asks must end each question with one of them.
//
// Times are seconds of the caller's clock; it may be any that does not go back.
//
// Thread safety: all methods, from any thread (one mutex, held for some keys at a time: set and forget are not one step).
#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "offload/native/entry_lists.hpp"
#include "offload/native/key_table.hpp"

namespace kvatlas {

struct CatalogueStatistics {
  uint64_t entries_max = 0;
  uint64_t present = 0;
  uint64_t absent = 0;   // also those whose time is over and that nobody has looked at since
  uint64_t asked = 0;    // waiting ones among them
  uint64_t waiting = 0;
  uint64_t evicted = 0;  // since the start
  uint64_t expired = 0;
  uint64_t refused = 0;  // keys that found no room: everything known was waiting
};

class Catalogue {
 public:
  enum class State : uint8_t { unknown = 0, present = 1, absent = 2, asked = 3 };

  // Throws Error{input}: entries_max outside 1 .. 2^30 - 1, key_bytes outside 1 .. 1024, absent_s negative or not a number.
  Catalogue(int64_t entries_max, int64_t key_bytes, double absent_s);
  Catalogue(const Catalogue&) = delete;
  Catalogue& operator=(const Catalogue&) = delete;

  uint32_t key_bytes() const { return table_.key_bytes(); }

  State find(const uint8_t* key, double now_s);
  // find, and ask for what is unknown. Unknown: there was no room to ask. The time is read only where it matters.
  template <class Clock>
  State look_up(const uint8_t* key, Clock now_s);
  bool is_present(const uint8_t* key, double now_s) { return find(key, now_s) == State::present; }
  // Has a key asked for by the next take_asked, whatever was known of it. False: no room.
  bool ask(const uint8_t* key);
  // Appends up to `most` waiting keys.
  void take_asked(size_t most, std::string& keys);
  // REQUIRES: state is present or absent.
  void set(const uint8_t* keys, size_t n, State state, double now_s);
  // Each key is PRESENT where its outcome is 0, as that of a probe that found it, else ABSENT.
  void answer(const uint8_t* keys, const uint8_t* outcomes, size_t n, double now_s);
  void forget(const uint8_t* keys, size_t n);

  CatalogueStatistics statistics() const;

 private:
  struct Entry {
    double until_s = 0;  // of ABSENT ones
    State state = State::unknown;
    bool is_waiting = false;
  };
  template <class Work>
  void by_portions(const uint8_t* keys, size_t n, Work work);
  uint32_t entry_for(const uint8_t* key);
  uint32_t add(const uint8_t* key);
  void settle(const uint8_t* key, State state, double now_s);
  uint32_t take();
  void change(uint32_t entry, State state);
  void remove(uint32_t entry);
  EntryList& list_of(uint32_t entry) { return entries_[entry].is_waiting ? waiting_ : known_; }
  uint64_t& count_of(State state) { return counts_[static_cast<size_t>(state)]; }

  mutable std::mutex mutex_;
  double absent_s_;
  KeyTable table_;
  std::vector<Entry> entries_;
  std::vector<EntryLinks> links_;
  EntryList free_;
  EntryList known_;  // least recently used first
  EntryList waiting_;
  uint64_t counts_[4] = {};
  uint64_t evicted_ = 0;
  uint64_t expired_ = 0;
  uint64_t refused_ = 0;
};

template <class Clock>
Catalogue::State Catalogue::look_up(const uint8_t* key, Clock now_s) {
  const std::lock_guard locked(mutex_);
  uint32_t entry = table_.find(key);
  if (entry == kNone) {
    entry = add(key);
    if (entry == kNone) return State::unknown;
  } else if (entries_[entry].state != State::absent || now_s() < entries_[entry].until_s) {
    if (!entries_[entry].is_waiting) known_.renew(entry);
    return entries_[entry].state;
  } else {
    ++expired_;
  }
  change(entry, State::asked);
  return State::asked;
}

}  // namespace kvatlas
