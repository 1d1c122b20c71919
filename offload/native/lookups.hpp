// Answers the lookups of one engine core from a Catalogue, and counts the answers.
//
//   the store is down           absent; the key is the one that the store will be tried with
//   a key of another length     absent
//   not known                   asked: the catalogue's next take_asked gives it out; absent where the catalogue has no room for it
//   else                        what is known
//
// Thread safety: one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "offload/native/catalogue.hpp"

namespace kvatlas {

// Lookups since the start, by what was answered.
struct LookupCounts {
  uint64_t present = 0;
  uint64_t absent = 0;
  uint64_t asked = 0;    // also those that the catalogue had no room for
  uint64_t down = 0;
  uint64_t foreign = 0;  // of another length
};

class Lookups {
 public:
  using State = Catalogue::State;

  // REQUIRES: the catalogue outlives this.
  explicit Lookups(Catalogue& catalogue) : catalogue_(catalogue) {}
  Lookups(const Lookups&) = delete;
  Lookups& operator=(const Lookups&) = delete;

  // Never unknown. `now_s()`: by the clock that the catalogue's keys are set by.
  template <class Clock>
  State look_up(const uint8_t* key, size_t n_bytes, Clock now_s);

  void set_down(bool is_down) { is_down_ = is_down; }
  bool is_down() const { return is_down_; }
  // The key to try the store with; empty: nobody has asked for one.
  const std::string& trial_key() const { return trial_key_; }
  void set_trial_key(const uint8_t* key, size_t n_bytes) { trial_key_.assign(reinterpret_cast<const char*>(key), n_bytes); }

  const LookupCounts& counts() const { return counts_; }

 private:
  Catalogue& catalogue_;
  LookupCounts counts_;
  std::string trial_key_;
  bool is_down_ = false;
};

template <class Clock>
Lookups::State Lookups::look_up(const uint8_t* key, size_t n_bytes, Clock now_s) {
  const bool is_foreign = n_bytes != catalogue_.key_bytes();
  if (is_down_) {
    ++counts_.down;
    if (!is_foreign) set_trial_key(key, n_bytes);
    return State::absent;
  }
  if (is_foreign) {
    ++counts_.foreign;
    return State::absent;
  }
  const State state = catalogue_.look_up(key, now_s);
  switch (state) {
    case State::present: ++counts_.present; break;
    case State::absent: ++counts_.absent; break;
    case State::asked:
    case State::unknown: ++counts_.asked; break;
  }
  return state == State::unknown ? State::absent : state;
}

}  // namespace kvatlas
