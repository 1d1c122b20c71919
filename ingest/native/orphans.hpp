// Stores that wait for a parent which the mirror does not know (yet).
//
// Bounded by number and bytes: the oldest goes first. What is removed while it waits is marked, so
// that it is not held when its parent comes; what is not is counted in blocks().
//
// Thread safety: none; a mirror owns its orphans.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace kvatlas {

struct Orphan {
  std::string raw;  // the event's msgpack
  uint64_t parent;
  uint16_t group;
  std::vector<uint64_t> hashes;
  std::vector<bool> cancelled;

  uint64_t blocks() const { return static_cast<uint64_t>(std::count(cancelled.begin(), cancelled.end(), false)); }
  uint64_t bytes() const { return raw.capacity() + hashes.capacity() * sizeof(uint64_t) + kOverheadBytes; }
  static constexpr uint64_t kOverheadBytes = 256;  // of the object and its places in the maps
};

class Orphans {
 public:
  Orphans(uint64_t count_max, uint64_t bytes_max) : count_max_(count_max), bytes_max_(bytes_max) {}

  bool empty() const { return waiting_.empty(); }
  size_t size() const { return waiting_.size(); }
  uint64_t bytes() const { return bytes_; }
  uint64_t blocks() const { return blocks_; }  // that wait and were not removed meanwhile

  struct Dropped {
    uint64_t orphans = 0, blocks = 0;
  };
  // Returns what was dropped for room, perhaps the new one itself.
  Dropped add(Orphan orphan) {
    const uint64_t number = next_++;
    bytes_ += orphan.bytes();
    blocks_ += orphan.blocks();
    by_parent_.emplace(orphan.parent, number);
    for (uint64_t hash : orphan.hashes) by_hash_.emplace(hash, number);
    waiting_.emplace(number, std::move(orphan));
    Dropped dropped;
    for (; waiting_.size() > count_max_ || bytes_ > bytes_max_; ++dropped.orphans) dropped.blocks += take(waiting_.begin()->first).blocks();
    return dropped;
  }

  // Calls visit(orphan), the oldest first.
  template <class Visit>
  void each(Visit visit) const {
    for (const auto& [number, orphan] : waiting_) visit(orphan);
  }

  // Numbers of the orphans of this parent are appended.
  void children_of(uint64_t parent, std::vector<uint64_t>& numbers) const {
    for (auto [at, end] = by_parent_.equal_range(parent); at != end; ++at) numbers.push_back(at->second);
  }

  Orphan take(uint64_t number) {
    const auto found = waiting_.find(number);
    Orphan orphan = std::move(found->second);
    waiting_.erase(found);
    bytes_ -= orphan.bytes();
    blocks_ -= orphan.blocks();
    forget(by_parent_, orphan.parent, number);
    for (uint64_t hash : orphan.hashes) forget(by_hash_, hash, number);
    return orphan;
  }

  // A removal of a block that waits: takes the first copy of it of the oldest orphan in the group.
  bool cancel(uint64_t hash, uint16_t group) {
    std::vector<uint64_t> numbers;
    for (auto [at, end] = by_hash_.equal_range(hash); at != end; ++at) numbers.push_back(at->second);
    std::sort(numbers.begin(), numbers.end());
    for (uint64_t number : numbers) {
      Orphan& orphan = waiting_.at(number);
      if (orphan.group != group) continue;
      for (size_t i = 0; i < orphan.hashes.size(); ++i) {
        if (orphan.hashes[i] != hash || orphan.cancelled[i]) continue;
        --blocks_;
        return orphan.cancelled[i] = true;
      }
    }
    return false;
  }

  void clear() {
    waiting_.clear();
    by_parent_.clear();
    by_hash_.clear();
    bytes_ = blocks_ = 0;
  }

 private:
  using Numbers = std::unordered_multimap<uint64_t, uint64_t>;

  static void forget(Numbers& numbers, uint64_t key, uint64_t number) {
    for (auto [at, end] = numbers.equal_range(key); at != end; ++at)
      if (at->second == number) {
        numbers.erase(at);
        return;
      }
  }

  const uint64_t count_max_, bytes_max_;
  uint64_t next_ = 0;
  uint64_t bytes_ = 0, blocks_ = 0;
  std::map<uint64_t, Orphan> waiting_;  // by age
  Numbers by_parent_, by_hash_;
};

}  // namespace kvatlas
