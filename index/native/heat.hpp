// How much a table's segments are in use: what the byte budget goes by.
//
// A bucket of segments (by the upper bits of their tag) has one word: when its segments were last added to or
// looked up, and how often they were looked up of late.
//
//     word   = clock << 4 | lookups                 lookups 0 to 15, halved for every two turnovers without a use
//     clock  = keys applied >> tick bits            about 1 024 ticks are one turnover of a full table
//
// What goes first is what has the most  age x cost of an entry / (1 + lookups):  a segment that was looked up f
// times is kept until it has been idle 1 + f times as long as one that nobody ever asked for. So newcomers have
// their window, between two turns of a chat, and a scan of prompts that do not come back drives out itself.
// Heads of chains are used whenever their tails are, so tails go first.
//
// Prior art: LRFU and GDSF (worth by recency, frequency and cost in one number), the aged 4-bit counters of
// W-TinyLFU. Its count-min sketch would have one row here: there are more buckets than segments, and what shares
// a bucket is dropped together anyway. benchmarks/bench_budget.py holds this against LRU.
//
// Thread safety: any thread may call any method; of two uses at the same instant one may be lost.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdint>

#include "index/native/generation.hpp"
#include "index/native/zeroed.hpp"

namespace kvatlas {

class Heat {
 public:
  static constexpr uint32_t kLookupsMax = 15;
  static constexpr int kHalvingBits = 11;  // ticks after which lookups count half: two turnovers

  // One bucket for each 512 bytes of the budget, 2^12 to 2^22 of them.
  explicit Heat(uint64_t budget_bytes)
      : bucket_bits_(std::clamp(static_cast<int>(std::bit_width(budget_bytes >> 9)) - 1, 12, 22)),
        tick_bits_(std::max(static_cast<int>(std::bit_width(budget_bytes)) - 1 - 15, 0)),
        words_(size_t{1} << bucket_bits_) {}

  uint32_t n_buckets() const { return static_cast<uint32_t>(words_.size()); }
  uint64_t bytes() const { return words_.bytes(); }
  uint32_t bucket_of(uint32_t tag) const { return tag >> (32 - bucket_bits_); }

  // Time passes by keys applied, not by the clock: nothing ages while nothing comes. Told after the
  // keys: segments of a chain that come at once are as old as each other. One thread at a time.
  void pass(uint64_t n_keys) { keys_applied_.store(keys_applied_.load(std::memory_order_relaxed) + n_keys, std::memory_order_relaxed); }
  void added(uint32_t bucket) { use(bucket, 0); }
  void looked_up(uint32_t bucket) { use(bucket, 1); }

  struct Use {
    uint32_t age_ticks;
    uint32_t lookups;
  };
  Use use_of(uint32_t bucket) const { return decoded(load(bucket), now()); }
  // As use_of; and ages end, long before the clock comes round.
  Use settled_use_of(uint32_t bucket) {
    const Use seen = use_of(bucket);
    if (seen.age_ticks > kAgeMax) store(bucket, ((now() - kAgeMax) & kClockMask) << 4);
    return seen;
  }

 private:
  static constexpr uint32_t kClockMask = (1u << 28) - 1;
  static constexpr uint32_t kAgeMax = 1u << 24;

  uint32_t load(uint32_t bucket) const { return std::atomic_ref<uint32_t>(const_cast<uint32_t&>(words_[bucket])).load(std::memory_order_relaxed); }
  void store(uint32_t bucket, uint32_t word) { std::atomic_ref<uint32_t>(words_[bucket]).store(word, std::memory_order_relaxed); }
  uint32_t now() const { return static_cast<uint32_t>(keys_applied_.load(std::memory_order_relaxed) >> tick_bits_) & kClockMask; }
  static Use decoded(uint32_t word, uint32_t now) {
    const uint32_t age = (now - (word >> 4)) & kClockMask, halvings = std::min(age >> kHalvingBits, 4u);
    return {age, (word & kLookupsMax) >> halvings};
  }
  void use(uint32_t bucket, uint32_t lookups) {
    const uint32_t at = now();
    const uint32_t counted = decoded(load(bucket), at).lookups + lookups;
    store(bucket, at << 4 | std::min(counted, kLookupsMax));
  }

  const int bucket_bits_, tick_bits_;
  std::atomic<uint64_t> keys_applied_{0};
  Zeroed<uint32_t> words_;
};

}  // namespace kvatlas
