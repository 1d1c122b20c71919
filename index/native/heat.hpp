// How recently each segment was used, in buckets: what the byte budget drops first.
//
// Thread safety: any thread may call any method.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <numeric>
#include <vector>

#include "index/native/generation.hpp"

namespace kvatlas {

class Heat {
 public:
  static constexpr uint32_t kBuckets = 1 << 14;

  Heat() : last_used_(kBuckets) {}

  static uint32_t bucket_of(uint64_t segment_key) {
    return static_cast<uint32_t>(Generation::scramble(segment_key) >> 50);
  }
  void tick() { clock_.fetch_add(1, std::memory_order_relaxed); }
  void used(uint32_t bucket) {
    last_used_[bucket].store(clock_.load(std::memory_order_relaxed), std::memory_order_relaxed);
  }
  void touch(const uint64_t* segment_keys, size_t n) {
    tick();
    for (size_t i = 0; i < n; ++i) used(bucket_of(segment_keys[i]));
  }

  // Marks the coldest buckets that together hold at least n of `entries` (counts by bucket).
  std::vector<bool> coldest(uint64_t n, const std::vector<uint32_t>& entries) const {
    std::vector<uint32_t> order(kBuckets);
    std::iota(order.begin(), order.end(), 0);
    std::vector<uint32_t> age(kBuckets);
    const uint32_t now = clock_.load(std::memory_order_relaxed);
    for (uint32_t b = 0; b < kBuckets; ++b) age[b] = now - last_used_[b].load(std::memory_order_relaxed);
    std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return age[a] > age[b]; });
    std::vector<bool> cold(kBuckets, false);
    for (uint64_t dropped = 0, i = 0; dropped < n && i < kBuckets; ++i) {
      cold[order[i]] = true;
      dropped += entries[order[i]];
    }
    return cold;
  }

 private:
  std::atomic<uint32_t> clock_{1};
  std::vector<std::atomic<uint32_t>> last_used_;
};

}  // namespace kvatlas
