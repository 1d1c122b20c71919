// Delta records of many mirrors in the order in which they were made, until somebody takes them.
//
// Bounded: what comes beyond `bytes_max` makes it drop all that waits, and counts that; whoever takes
// must then read the mirrors' whole content.
//
// Thread safety: any thread may call any method.
#pragma once

#include <cstdint>
#include <deque>
#include <mutex>
#include <utility>
#include <vector>

namespace kvatlas {

class DeltaLog {
 public:
  explicit DeltaLog(uint64_t bytes_max) : bytes_max_(bytes_max) {}

  // Whole records.
  void append(const uint8_t* delta, size_t bytes) {
    if (bytes == 0) return;
    std::lock_guard guard(mutex_);
    if (bytes_ + bytes > bytes_max_) {
      pieces_.clear();
      bytes_ = 0;
      ++lost_;
      return;
    }
    if (pieces_.empty() || pieces_.back().size() + bytes > kPieceBytes) pieces_.emplace_back();
    pieces_.back().insert(pieces_.back().end(), delta, delta + bytes);
    bytes_ += bytes;
  }
  // The oldest piece: what was appended by some calls in a row, at most kPieceBytes unless one call
  // has appended more. Empty: there is none.
  std::vector<uint8_t> take() {
    std::lock_guard guard(mutex_);
    if (pieces_.empty()) return {};
    std::vector<uint8_t> piece = std::move(pieces_.front());
    pieces_.pop_front();
    bytes_ -= piece.size();
    return piece;
  }
  uint64_t bytes() const {
    std::lock_guard guard(mutex_);
    return bytes_;
  }
  // Times that what waited was dropped.
  uint64_t lost() const {
    std::lock_guard guard(mutex_);
    return lost_;
  }

 private:
  static constexpr size_t kPieceBytes = 4 << 20;
  const uint64_t bytes_max_;
  mutable std::mutex mutex_;
  std::deque<std::vector<uint8_t>> pieces_;
  uint64_t bytes_ = 0;
  uint64_t lost_ = 0;
};

}  // namespace kvatlas
