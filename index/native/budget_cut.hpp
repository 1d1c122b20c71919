// Which buckets of segments are left behind at the byte budget: the coldest that together cost enough.
//
//   coldness = age x (bytes of an entry with its share of sets / bytes of an entry) / (1 + lookups)
//   level    = 11 bits of coldness, logarithmic in steps of 3 %, and 5 bits that tell equal ones apart
//
// Found by two passes over the buckets, in steps, so that no update waits for all of them: one counts the bytes of
// each level, the other marks the levels that go. What a bucket is used meanwhile counts as far as the first pass
// has not seen it.
//
// Thread safety: one writer. Heat may be used by anyone meanwhile.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "index/native/heat.hpp"
#include "index/native/zeroed.hpp"

namespace kvatlas {

// What a generation holds, by bucket.
struct Contents {
  explicit Contents(uint32_t n_buckets) : entries(n_buckets), set_units(n_buckets) {}

  Zeroed<uint32_t> entries;
  Zeroed<uint16_t> set_units;  // of 16 bytes: sets that were first made for it, at most 1 MiB
  uint64_t set_units_in_all = 0;

  void charge_sets(uint32_t bucket, uint64_t bytes) {
    const uint64_t units = std::min<uint64_t>((bytes + 15) / 16, 65535u - set_units[bucket]);
    set_units[bucket] = static_cast<uint16_t>(set_units[bucket] + units);
    set_units_in_all += units;
  }
  uint64_t bytes() const { return entries.bytes() + set_units.bytes(); }
  static constexpr uint64_t kBytesOfBucket = sizeof(uint32_t) + sizeof(uint16_t);
};

class BudgetCut {
 public:
  struct Costs {
    double entry_bytes, set_unit_bytes;  // in the next generation
    double bytes_to_drop;
  };
  // Nothing is cold.
  BudgetCut() = default;
  BudgetCut(Heat& heat, Costs costs);

  // Looks at so many buckets more; true when it is known what goes.
  bool step(const Contents& live, uint64_t n_buckets);

  bool is_cold(uint32_t bucket) const { return !cold_.empty() && cold_[bucket]; }
  // Of a cold one: nobody looked it up of late.
  bool is_unused(uint32_t bucket) const { return unused_[bucket]; }
  bool leaves_something() const { return !cold_.empty(); }
  double dropped_set_bytes() const { return dropped_set_bytes_; }
  uint64_t bytes() const;

 private:
  void count(const Contents& live, uint32_t bucket);
  void choose();  // the warmest level that goes
  void mark(const Contents& live, uint32_t bucket);
  double bytes_of(const Contents& live, uint32_t bucket) const {
    return live.entries[bucket] * costs_.entry_bytes + live.set_units[bucket] * costs_.set_unit_bytes;
  }

  Heat* heat_ = nullptr;
  Costs costs_{};
  uint64_t next_ = 0;               // buckets looked at, in both passes
  Zeroed<uint16_t> levels_;         // by bucket, 0: empty
  Zeroed<double> level_bytes_;      // by level
  uint32_t cold_from_ = 0;          // this level and all above go
  std::vector<bool> cold_, unused_;  // by bucket
  double dropped_set_bytes_ = 0;
};

}  // namespace kvatlas
