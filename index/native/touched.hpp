// A sample of the segments that lookups used, for a table whose writer is another process.
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
  static constexpr size_t kMost = 1024;  // the newest stay

  void add(const uint64_t* segment_keys, size_t n) {
    std::lock_guard guard(mutex_);
    for (size_t i = 0; i < n; ++i, ++n_added_) {
      if (keys_.size() < kMost) keys_.push_back(segment_keys[i]);
      else keys_[n_added_ % kMost] = segment_keys[i];
    }
  }

  std::vector<uint64_t> take() {
    std::lock_guard guard(mutex_);
    n_added_ = 0;
    return std::exchange(keys_, {});
  }

 private:
  std::mutex mutex_;
  std::vector<uint64_t> keys_;
  size_t n_added_ = 0;
};

}  // namespace kvatlas
