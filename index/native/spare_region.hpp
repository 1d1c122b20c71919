// Memory of a retired generation that is kept for the next one.
//
// At the byte budget a table makes generations without end. Fresh memory costs them a page fault each 4 KiB (or one of
// some milliseconds each 2 MiB, where a virtual machine's host has to find it), and giving back the old one costs as
// much again, within one update. What is kept is part of the budget either way: two generations have room in it.
//
// Thread safety: any thread may call any method.
#pragma once

#include <cstdint>
#include <mutex>
#include <utility>

#include "index/native/region.hpp"

namespace kvatlas {

class SpareRegion {
 public:
  // The next region that is given is kept.
  void want() {
    std::lock_guard guard(mutex_);
    is_wanted_ = true;
  }
  // From whoever held a generation last; unmapped where none is wanted.
  void give(Region region) {
    std::lock_guard guard(mutex_);
    if (!is_wanted_ || region_.data() != nullptr) return;
    region_ = std::move(region);
  }
  // The kept one, or an empty one; none is wanted from now on.
  Region take() {
    std::lock_guard guard(mutex_);
    is_wanted_ = false;
    return std::exchange(region_, Region());
  }
  uint64_t bytes() {
    std::lock_guard guard(mutex_);
    return region_.written_bytes();
  }

 private:
  std::mutex mutex_;
  bool is_wanted_ = false;
  Region region_;
};

}  // namespace kvatlas
