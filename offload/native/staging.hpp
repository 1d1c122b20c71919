// A bounded pool of page-aligned buffers, all of one size: what is read lands here first.
//
// One range of memory, in huge pages where the kernel gives them, near a NUMA node where one is asked for, and locked where
// the process's limit allows: then no read waits for a page.
//
// Thread safety: `take` and `give` are the board's, under its mutex; the rest does not change.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace kvatlas {

class StagingPool {
 public:
  // As many buffers as fit into bytes_max, at least 1, at most `most`. Throws Error{store}: no memory.
  StagingPool(size_t buffer_bytes, size_t bytes_max, size_t most, int numa_node);
  ~StagingPool();
  StagingPool(const StagingPool&) = delete;

  uint8_t* take();  // nullptr: all are in use
  void give(uint8_t* buffer) { free_.push_back(buffer); }

  size_t buffer_bytes() const { return buffer_bytes_; }
  size_t bytes() const { return bytes_; }
  size_t free_bytes() const { return free_.size() * buffer_bytes_; }
  bool is_locked() const { return is_locked_; }

 private:
  const size_t buffer_bytes_;
  size_t bytes_ = 0;
  uint8_t* memory_ = nullptr;
  std::vector<uint8_t*> free_;
  bool is_locked_ = false;
};

}  // namespace kvatlas
