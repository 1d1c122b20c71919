#include "offload/native/staging.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "index/native/error.hpp"
#include "offload/native/chunk_file.hpp"
#include "offload/native/numa.hpp"

namespace kvatlas {

StagingPool::StagingPool(size_t buffer_bytes, size_t bytes_max, size_t most, int numa_node)
    : buffer_bytes_((buffer_bytes + kPageBytes - 1) / kPageBytes * kPageBytes) {
  const size_t n = std::clamp<size_t>(bytes_max / buffer_bytes_, 1, std::max<size_t>(most, 1));
  bytes_ = n * buffer_bytes_;
  void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    throw Error(ErrorKind::store, "expected " + std::to_string(bytes_) + " bytes for staging, got " + std::strerror(errno));
  }
  memory_ = static_cast<uint8_t*>(memory);
  madvise(memory_, bytes_, MADV_HUGEPAGE);  // a hint: fewer pages to pin for each direct read
  prefer_node(memory_, bytes_, numa_node);
  is_locked_ = mlock(memory_, bytes_) == 0;
  free_.reserve(n);
  for (size_t i = n; i-- > 0;) free_.push_back(memory_ + i * buffer_bytes_);
}

StagingPool::~StagingPool() { munmap(memory_, bytes_); }

uint8_t* StagingPool::take() {
  if (free_.empty()) return nullptr;
  uint8_t* buffer = free_.back();  // the one used last: its bytes may still be in a cache
  free_.pop_back();
  return buffer;
}

}  // namespace kvatlas
