#include "offload/native/slots.hpp"

#include <algorithm>
#include <string_view>

#include "index/native/error.hpp"
#include "offload/native/ranges.hpp"

namespace kvatlas {
Slots::Slots(int64_t n_slots, int64_t key_bytes)
    : table_(in_range("n_slots", n_slots, (1 << 30) - 1), in_range("key_bytes", key_bytes, 1024)),
      slots_(table_.n_max()),
      links_(table_.n_max()),
      free_(links_),
      idle_(links_) {
  for (uint32_t slot = 0; slot < table_.n_max(); ++slot) free_.add(slot);
}

int32_t Slots::find(const uint8_t* key) const {
  const std::lock_guard locked(mutex_);
  const uint32_t slot = table_.find(key);
  if (slot == kNone) return kAbsent;
  return slots_[slot].state == State::ready ? static_cast<int32_t>(slot) : kFilling;
}

// How many different keys have no slot; `idle`: how many of the others must be kept from being evicted.
size_t Slots::absent_of(const uint8_t* keys, size_t n, uint32_t& idle) const {
  std::vector<std::string_view> absent;
  std::vector<uint32_t> kept;
  for (size_t i = 0; i < n; ++i) {
    const uint8_t* key = keys + i * key_bytes();
    const uint32_t slot = table_.find(key);
    if (slot == kNone) absent.emplace_back(reinterpret_cast<const char*>(key), key_bytes());
    else if (slots_[slot].state == State::ready && slots_[slot].pins == 0) kept.push_back(slot);
  }
  std::sort(absent.begin(), absent.end());
  std::sort(kept.begin(), kept.end());
  idle = static_cast<uint32_t>(std::unique(kept.begin(), kept.end()) - kept.begin());
  return static_cast<size_t>(std::unique(absent.begin(), absent.end()) - absent.begin());
}

bool Slots::fill(const uint8_t* keys, size_t n, int32_t* slots, std::string& evicted) {
  const std::lock_guard locked(mutex_);
  uint32_t kept = 0;
  if (absent_of(keys, n, kept) > size_t{free_.size()} + idle_.size() - kept) {
    ++refused_;
    return false;
  }
  for (size_t i = 0; i < n; ++i) {  // first, so that they are the last to be evicted
    const uint32_t slot = table_.find(keys + i * key_bytes());
    if (slot != kNone && slots_[slot].state == State::ready && slots_[slot].pins == 0) idle_.renew(slot);
  }
  for (size_t i = 0; i < n; ++i) {
    const uint8_t* key = keys + i * key_bytes();
    slots[i] = kAbsent;
    if (table_.find(key) != kNone) continue;
    const uint32_t slot = take(evicted);
    table_.insert(key, slot);
    slots_[slot].state = State::filling;
    ++n_filling_;
    ++filled_;
    slots[i] = static_cast<int32_t>(slot);
  }
  return true;
}

// A free slot, in no list.
uint32_t Slots::take(std::string& evicted) {
  if (free_.size() == 0) {
    const uint32_t oldest = idle_.first();
    evicted.append(reinterpret_cast<const char*>(table_.key_of(oldest)), key_bytes());
    release(oldest);
    ++evicted_;
  }
  const uint32_t slot = free_.first();
  free_.remove(slot);
  return slot;
}

// REQUIRES: FILLING, or READY and idle.
void Slots::release(uint32_t slot) {
  if (slots_[slot].state == State::filling) --n_filling_;
  else idle_.remove(slot);
  table_.erase(slot);
  slots_[slot].state = State::free;
  free_.add(slot);
}

uint32_t Slots::checked(int32_t slot, State expected) const {
  const bool inside = slot >= 0 && static_cast<uint32_t>(slot) < table_.n_max();
  if (inside && slots_[static_cast<size_t>(slot)].state == expected) return static_cast<uint32_t>(slot);
  const char* got = !inside ? "out of range" : slots_[static_cast<size_t>(slot)].state == State::free ? "free" : "not in that state";
  throw Error(ErrorKind::input, std::string("slots: expected ones that are ") + (expected == State::filling ? "FILLING" : "READY") + ", got " +
                                    std::to_string(slot) + ", " + got);
}

void Slots::ready(const int32_t* slots, size_t n) {
  const std::lock_guard locked(mutex_);
  for (size_t i = 0; i < n; ++i) checked(slots[i], State::filling);
  for (size_t i = 0; i < n; ++i) {
    const auto slot = static_cast<uint32_t>(slots[i]);
    if (slots_[slot].state != State::filling) continue;  // given twice
    slots_[slot].state = State::ready;
    --n_filling_;
    idle_.add(slot);
  }
}

void Slots::drop(const int32_t* slots, size_t n) {
  const std::lock_guard locked(mutex_);
  std::vector<int32_t> sorted(slots, slots + n);
  std::sort(sorted.begin(), sorted.end());
  const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
  if (twice != sorted.end()) throw Error(ErrorKind::input, "slots: expected each once, got " + std::to_string(*twice) + " twice");
  for (const int32_t slot : sorted) {
    const bool is_ready = slot >= 0 && static_cast<uint32_t>(slot) < table_.n_max() && slots_[static_cast<size_t>(slot)].state == State::ready;
    const uint32_t at = checked(slot, is_ready ? State::ready : State::filling);
    if (slots_[at].pins > 0) throw Error(ErrorKind::input, "slots: expected ones without pins, got " + std::to_string(slot));
  }
  for (const int32_t slot : sorted) release(static_cast<uint32_t>(slot));
  dropped_ += n;
}

void Slots::pin_one(uint32_t slot) {
  if (slots_[slot].pins++ > 0) return;
  idle_.remove(slot);
  ++n_pinned_;
}

void Slots::unpin_one(uint32_t slot) {
  if (--slots_[slot].pins > 0) return;
  idle_.add(slot);
  --n_pinned_;
}

void Slots::pin(const uint8_t* keys, size_t n, int32_t* slots) {
  const std::lock_guard locked(mutex_);
  for (size_t i = 0; i < n; ++i) {
    const uint32_t slot = table_.find(keys + i * key_bytes());
    const bool is_ready = slot != kNone && slots_[slot].state == State::ready;
    slots[i] = is_ready ? static_cast<int32_t>(slot) : slot == kNone ? kAbsent : kFilling;
    if (is_ready) pin_one(slot);
  }
}

void Slots::unpin(const uint8_t* keys, size_t n) {
  const std::lock_guard locked(mutex_);
  for (size_t i = 0; i < n; ++i) {
    const uint32_t slot = table_.find(keys + i * key_bytes());
    if (slot != kNone && slots_[slot].pins > 0) {
      unpin_one(slot);
      continue;
    }
    for (size_t done = 0; done < i; ++done) pin_one(table_.find(keys + done * key_bytes()));
    throw Error(ErrorKind::input, "keys[" + std::to_string(i) + "]: expected a key with a pin, got one without");
  }
}

void Slots::touch(const uint8_t* keys, size_t n) {
  const std::lock_guard locked(mutex_);
  for (size_t i = 0; i < n; ++i) {
    const uint32_t slot = table_.find(keys + i * key_bytes());
    if (slot != kNone && slots_[slot].state == State::ready && slots_[slot].pins == 0) idle_.renew(slot);
  }
}

void Slots::clear() {
  const std::lock_guard locked(mutex_);
  while (idle_.size() > 0) release(idle_.first());
}

SlotStatistics Slots::statistics() const {
  const std::lock_guard locked(mutex_);
  SlotStatistics all;
  all.slots = table_.n_max();
  all.free = free_.size();
  all.filling = n_filling_;
  all.pinned = n_pinned_;
  all.ready = uint64_t{idle_.size()} + n_pinned_;
  all.filled = filled_;
  all.evicted = evicted_;
  all.dropped = dropped_;
  all.refused = refused_;
  return all;
}

}  // namespace kvatlas
