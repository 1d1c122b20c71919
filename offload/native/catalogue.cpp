#include "offload/native/catalogue.hpp"

#include <algorithm>
#include <cassert>
#include <string>

#include "index/native/error.hpp"
#include "offload/native/ranges.hpp"

namespace kvatlas {
namespace {

// Keys for which the lock is held at once: an engine waits for it, tens of microseconds at most.
constexpr size_t kPortion = 128;

double checked_seconds(double absent_s) {
  if (!(absent_s >= 0)) throw Error(ErrorKind::input, "absent_s: expected 0 or more, got " + std::to_string(absent_s));
  return absent_s;
}

}  // namespace

Catalogue::Catalogue(int64_t entries_max, int64_t key_bytes, double absent_s)
    : absent_s_(checked_seconds(absent_s)),
      table_(in_range("entries_max", entries_max, (1 << 30) - 1), in_range("key_bytes", key_bytes, 1024)),
      entries_(table_.n_max()),
      links_(table_.n_max()),
      free_(links_),
      known_(links_),
      waiting_(links_) {
  for (uint32_t entry = 0; entry < table_.n_max(); ++entry) free_.add(entry);
}

Catalogue::State Catalogue::find(const uint8_t* key, double now_s) {
  const std::lock_guard locked(mutex_);
  const uint32_t entry = table_.find(key);
  if (entry == kNone) return State::unknown;
  const Entry& known = entries_[entry];
  if (known.state == State::absent && now_s >= known.until_s) {
    remove(entry);
    ++expired_;
    return State::unknown;
  }
  if (!known.is_waiting) known_.renew(entry);
  return known.state;
}

template <class Work>
void Catalogue::by_portions(const uint8_t* keys, size_t n, Work work) {
  for (size_t i = 0; i < n;) {
    const std::lock_guard locked(mutex_);
    for (const size_t end = std::min(n, i + kPortion); i < end; ++i) work(keys + i * key_bytes(), i);
  }
}

// A number that holds no key and is in no list; kNone: everything is waiting.
uint32_t Catalogue::take() {
  if (free_.size() == 0) {
    if (known_.size() == 0) return kNone;
    remove(known_.first());
    ++evicted_;
  }
  const uint32_t entry = free_.first();
  free_.remove(entry);
  return entry;
}

// The entry of a key, made where there is none; kNone: no room.
uint32_t Catalogue::entry_for(const uint8_t* key) {
  const uint32_t entry = table_.find(key);
  return entry != kNone ? entry : add(key);
}

// A new entry. REQUIRES: the key has none. kNone: no room.
uint32_t Catalogue::add(const uint8_t* key) {
  const uint32_t entry = take();
  if (entry == kNone) {
    ++refused_;
    return kNone;
  }
  table_.insert(key, entry);
  entries_[entry] = {};
  ++count_of(State::unknown);
  known_.add(entry);
  return entry;
}

void Catalogue::change(uint32_t entry, State state) {
  list_of(entry).remove(entry);
  --count_of(entries_[entry].state);
  ++count_of(state);
  entries_[entry].state = state;
  entries_[entry].is_waiting = state == State::asked;
  list_of(entry).add(entry);
}

void Catalogue::remove(uint32_t entry) {
  list_of(entry).remove(entry);
  --count_of(entries_[entry].state);
  table_.erase(entry);
  free_.add(entry);
}

bool Catalogue::ask(const uint8_t* key) {
  const std::lock_guard locked(mutex_);
  const uint32_t entry = entry_for(key);
  if (entry == kNone) return false;
  if (entries_[entry].state != State::asked) change(entry, State::asked);
  return true;
}

void Catalogue::take_asked(size_t most, std::string& keys) {
  const std::lock_guard locked(mutex_);
  for (; most > 0 && waiting_.size() > 0; --most) {
    const uint32_t entry = waiting_.first();
    keys.append(reinterpret_cast<const char*>(table_.key_of(entry)), key_bytes());
    waiting_.remove(entry);
    entries_[entry].is_waiting = false;
    known_.add(entry);
  }
}

void Catalogue::set(const uint8_t* keys, size_t n, State state, double now_s) {
  assert(state == State::present || state == State::absent);
  by_portions(keys, n, [&](const uint8_t* key, size_t) { settle(key, state, now_s); });
}

void Catalogue::answer(const uint8_t* keys, const uint8_t* outcomes, size_t n, double now_s) {
  by_portions(keys, n, [&](const uint8_t* key, size_t at) { settle(key, outcomes[at] == 0 ? State::present : State::absent, now_s); });
}

void Catalogue::settle(const uint8_t* key, State state, double now_s) {
  const uint32_t entry = entry_for(key);
  if (entry == kNone) return;
  change(entry, state);
  entries_[entry].until_s = now_s + absent_s_;
}

void Catalogue::forget(const uint8_t* keys, size_t n) {
  by_portions(keys, n, [&](const uint8_t* key, size_t) {
    const uint32_t entry = table_.find(key);
    if (entry != kNone) remove(entry);
  });
}

CatalogueStatistics Catalogue::statistics() const {
  const std::lock_guard locked(mutex_);
  CatalogueStatistics all;
  all.entries_max = table_.n_max();
  all.present = counts_[static_cast<size_t>(State::present)];
  all.absent = counts_[static_cast<size_t>(State::absent)];
  all.asked = counts_[static_cast<size_t>(State::asked)];
  all.waiting = waiting_.size();
  all.evicted = evicted_;
  all.expired = expired_;
  all.refused = refused_;
  return all;
}

}  // namespace kvatlas
