// From keys to small numbers: open addressing over keys of one length, for a fixed number of entries.
//
//   cells_   [2^k, at least 2 * n_max]   entry number + 1, or 0: empty
//   keys_    [n_max][key_bytes]          the key of each entry
//
// A key lies in the first empty cell from where its hash points (linear probing); erasing moves later ones back, so there are no
// marks of what was. find, insert and erase take O(1), about one cache miss each for the cell and the key. Memory never
// grows: (8 to 16 + key_bytes) * n_max. Keys are touched as entries are used; all cells at once, in large pages where the kernel
// has them, for they are hit at random: of a table that is new each insertion would wait for a page of the kernel's.
//
// The hash is seeded anew in each process: keys come from requests, and nobody should be able to make them collide.
//
// Thread safety: the owner's lock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

namespace kvatlas {

inline constexpr uint32_t kNone = 0xffffffff;  // no entry

class KeyTable {
 public:
  // REQUIRES: 1 <= n_max < 2^30, 1 <= key_bytes. Throws std::bad_alloc.
  KeyTable(uint32_t n_max, uint32_t key_bytes);

  uint32_t n_max() const { return n_max_; }
  uint32_t key_bytes() const { return key_bytes_; }

  uint32_t find(const uint8_t* key) const;  // the entry, or kNone
  // REQUIRES: the key is absent, the entry holds none, entry < n_max.
  void insert(const uint8_t* key, uint32_t entry);
  // REQUIRES: the entry holds a key.
  void erase(uint32_t entry);
  const uint8_t* key_of(uint32_t entry) const { return keys_.get() + size_t{entry} * key_bytes_; }

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  size_t home_of(const uint8_t* key) const;
  bool equal(uint32_t entry, const uint8_t* key) const;

  uint32_t n_max_;
  uint32_t key_bytes_;
  size_t mask_;
  uint64_t seed_;
  std::unique_ptr<uint32_t[], Free> cells_;
  std::unique_ptr<uint8_t[], Free> keys_;
};

}  // namespace kvatlas
