// A sample of the segments that lookups used, for a table whose writer is another process.
//
// One use in 4, drawn by chance, is looked at; of those since the last telling each is as likely to be among the
// kMost that are kept as any other (reservoir sampling, Vitter 1985). A use that finds the sample busy is not counted.
//
// Thread safety: any thread may call any method.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

namespace kvatlas {

class Touched {
 public:
  static constexpr size_t kMost = 1024;
  static constexpr uint32_t kOneIn = 4;

  void add(const uint64_t* segment_keys, size_t n) {
    for (size_t i = 0; i < n; ++i)
      if (random() % kOneIn == 0) keep(segment_keys[i]);
  }

  std::vector<uint64_t> take() {
    std::lock_guard guard(mutex_);
    n_seen_ = 0;
    return std::exchange(keys_, {});
  }

 private:
  void keep(uint64_t segment_key) {
    const std::unique_lock guard(mutex_, std::try_to_lock);
    if (!guard) return;
    ++n_seen_;
    if (keys_.size() < kMost) return keys_.push_back(segment_key);
    const size_t at = random() % n_seen_;
    if (at < kMost) keys_[at] = segment_key;
  }

  // xorshift64*, one a thread.
  static uint64_t random() {
    static thread_local uint64_t state = 0x9e3779b97f4a7c15ULL;
    state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
    return (state * 0x2545f4914f6cdd1dULL) >> 32;
  }

  std::mutex mutex_;
  std::vector<uint64_t> keys_;
  uint64_t n_seen_ = 0;
};

}  // namespace kvatlas
