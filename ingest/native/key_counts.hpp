// How many engine blocks of one lane and tier mean a block key: needed where engine blocks are not
// index blocks, and two that differ may share some of their keys.
//
// Open addressing, 16 bytes an entry, removal shifts back.
// Thread safety: none; a mirror owns its counts.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace kvatlas {

class KeyCounts {
 public:
  // One more / one fewer; whether it was the first / the last.
  bool enter(uint64_t key, uint16_t group, uint8_t tier) {
    if ((size_ + 1) * 4 > entries_.size() * 3) grow();
    Entry& entry = entries_[place(name(key, group, tier))];
    if (entry.count++ > 0) return false;
    entry.name = name(key, group, tier);
    ++size_;
    return true;
  }
  bool leave(uint64_t key, uint16_t group, uint8_t tier) {
    if (entries_.empty()) return false;
    const size_t at = place(name(key, group, tier));
    if (entries_[at].count == 0 || --entries_[at].count > 0) return false;
    close(at);
    --size_;
    return true;
  }
  void clear() {
    entries_.clear();
    size_ = 0;
  }
  uint64_t bytes() const { return entries_.capacity() * sizeof(Entry); }

 private:
  struct Entry {
    uint64_t name = 0;
    uint64_t count = 0;  // 0: free
  };

  static uint64_t name(uint64_t key, uint16_t group, uint8_t tier) {
    return key ^ ((static_cast<uint64_t>(group) << 8 | tier) * 0x9e3779b97f4a7c15ULL);
  }
  size_t home(uint64_t name) const { return (name * 0x9fb21c651e98df25ULL >> 32) & (entries_.size() - 1); }
  size_t place(uint64_t name) const {
    size_t at = home(name);
    while (entries_[at].count > 0 && entries_[at].name != name) at = (at + 1) & (entries_.size() - 1);
    return at;
  }
  void close(size_t hole) {
    const size_t mask = entries_.size() - 1;
    for (size_t at = (hole + 1) & mask; entries_[at].count > 0; at = (at + 1) & mask) {
      const size_t wanted = home(entries_[at].name);
      if (((at - wanted) & mask) < ((at - hole) & mask)) continue;
      entries_[hole] = entries_[at];
      hole = at;
    }
    entries_[hole] = Entry{};
  }
  void grow() {
    std::vector<Entry> old(entries_.empty() ? 64 : entries_.size() * 2);
    old.swap(entries_);
    for (const Entry& entry : old)
      if (entry.count > 0) entries_[place(entry.name)] = entry;
  }

  std::vector<Entry> entries_;  // a power of two
  size_t size_ = 0;
};

}  // namespace kvatlas
