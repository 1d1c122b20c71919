// Lists of entry numbers without memory of their own: each entry is in one list at a time, or in none.
//
// All operations take O(1), but `begin` to end. Thread safety: the owner's lock.
#pragma once

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "offload/native/key_table.hpp"

namespace kvatlas {

struct EntryLinks {
  uint32_t before = kNone;
  uint32_t after = kNone;
};

// From the least to the most recently added.
class EntryList {
 public:
  explicit EntryList(std::vector<EntryLinks>& links) : links_(links) {}

  uint32_t size() const { return size_; }
  uint32_t first() const { return first_; }  // kNone: empty

  // REQUIRES: the entry is in no list.
  void add(uint32_t entry) {
    links_[entry] = {last_, kNone};
    (last_ == kNone ? first_ : links_[last_].after) = entry;
    last_ = entry;
    ++size_;
  }
  // REQUIRES: the entry is in this list.
  void remove(uint32_t entry) {
    const EntryLinks link = links_[entry];
    (link.before == kNone ? first_ : links_[link.before].after) = link.after;
    (link.after == kNone ? last_ : links_[link.after].before) = link.before;
    assert(size_ > 0);
    --size_;
  }
  void renew(uint32_t entry) {
    remove(entry);
    add(entry);
  }

 private:
  std::vector<EntryLinks>& links_;
  uint32_t first_ = kNone;
  uint32_t last_ = kNone;
  uint32_t size_ = 0;
};

}  // namespace kvatlas
