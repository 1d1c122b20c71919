// One growable range of memory: private (anonymous) or a shared-memory file.
//
// Addresses are reserved up front and backed by memory in steps, so nothing moves while
// readers look, and a full /dev/shm is an error at back() and never a SIGBUS later.
//
// Thread safety: back() by one thread; the memory itself is the caller's business.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>

namespace kvatlas {

class Region {
 public:
  // Private zeroed memory of at most reserve_bytes.
  static Region anonymous(size_t reserve_bytes);
  // A new file, readable by its owner only. Throws Error{table_file} when it exists.
  static Region create(const std::string& path, size_t reserve_bytes);
  // An existing file of the same user, read-only. The address range may be larger than the file:
  // what the writer commits later becomes readable in place.
  static Region open(const std::string& path, size_t bytes_min);

  Region() = default;
  Region(Region&& other) noexcept { swap(other); }
  Region& operator=(Region&& other) noexcept {
    swap(other);
    return *this;
  }
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;
  ~Region();

  // Makes [begin, end) usable, zeroed. Throws Error{table_file} when there is no room.
  void back(size_t begin, size_t end);
  // A hint for large ranges: fewer TLB misses.
  void prefer_huge_pages(size_t begin, size_t end);
  // Private memory for another use: of what was written, the first so many bytes stay, and back() zeroes them.
  void note_written(size_t bytes) { written_ = std::max(written_, bytes); }
  void keep_written(size_t bytes);
  size_t written_bytes() const { return written_; }
  // Read-only regions: widen the mapped range to what the header says is reserved.
  void widen(size_t reserve_bytes);

  uint8_t* data() const { return data_; }
  size_t reserved_bytes() const { return reserved_; }
  bool is_file() const { return fd_ >= 0; }
  size_t file_bytes() const;  // the file's size now

 private:
  void swap(Region& other) noexcept;

  uint8_t* data_ = nullptr;
  size_t reserved_ = 0;
  size_t written_ = 0;
  int fd_ = -1;
};

}  // namespace kvatlas
