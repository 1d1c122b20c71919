#include "offload/native/key_table.hpp"

#include <sys/mman.h>

#include <bit>
#include <cassert>
#include <cstring>
#include <new>
#include <random>

namespace kvatlas {
namespace {

constexpr size_t kLargePageBytes = size_t{2} << 20;

// Zeroed, and no page of it touched.
template <class T>
T* zeroed(size_t n) {
  void* memory = std::calloc(n, sizeof(T));
  if (memory == nullptr) throw std::bad_alloc();
  return static_cast<T*>(memory);
}

// Zeroed, and touched where they are many.
uint32_t* cells_of(size_t n) {
  const size_t bytes = n * sizeof(uint32_t);
  if (bytes < kLargePageBytes) return zeroed<uint32_t>(n);
  void* memory = std::aligned_alloc(kLargePageBytes, bytes);  // both are powers of two
  if (memory == nullptr) throw std::bad_alloc();
  madvise(memory, bytes, MADV_HUGEPAGE);  // refused: small pages do as well
  std::memset(memory, 0, bytes);
  return static_cast<uint32_t*>(memory);
}

uint64_t random_seed() {
  std::random_device device;
  return (uint64_t{device()} << 32 | device()) | 1;
}

__extension__ typedef unsigned __int128 uint128;

uint64_t folded(uint64_t a, uint64_t b) {
  const uint128 product = static_cast<uint128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

// Up to 8 bytes, as a number.
uint64_t word_of(const uint8_t* bytes, size_t n) {
  uint64_t word = 0;
  std::memcpy(&word, bytes, n < 8 ? n : 8);
  return word;
}

}  // namespace

KeyTable::KeyTable(uint32_t n_max, uint32_t key_bytes)
    : n_max_(n_max),
      key_bytes_(key_bytes),
      mask_(std::bit_ceil(size_t{n_max} * 2) - 1),
      seed_(random_seed()),
      cells_(cells_of(mask_ + 1)),
      keys_(zeroed<uint8_t>(size_t{n_max} * key_bytes)) {
  assert(n_max >= 1 && n_max < (1u << 30) && key_bytes >= 1);
}

size_t KeyTable::home_of(const uint8_t* key) const {
  uint64_t hash = seed_;
  for (size_t at = 0; at < key_bytes_; at += 8)
    hash = folded(hash ^ word_of(key + at, key_bytes_ - at), 0x9e3779b97f4a7c15ULL);
  return folded(hash, seed_) & mask_;
}

bool KeyTable::equal(uint32_t entry, const uint8_t* key) const { return std::memcmp(key_of(entry), key, key_bytes_) == 0; }

uint32_t KeyTable::find(const uint8_t* key) const {
  for (size_t at = home_of(key); cells_[at] != 0; at = (at + 1) & mask_)
    if (equal(cells_[at] - 1, key)) return cells_[at] - 1;
  return kNone;
}

void KeyTable::insert(const uint8_t* key, uint32_t entry) {
  assert(entry < n_max_ && find(key) == kNone);
  size_t at = home_of(key);
  while (cells_[at] != 0) at = (at + 1) & mask_;
  cells_[at] = entry + 1;
  std::memcpy(keys_.get() + size_t{entry} * key_bytes_, key, key_bytes_);
}

void KeyTable::erase(uint32_t entry) {
  size_t hole = home_of(key_of(entry));
  while (cells_[hole] != entry + 1) {
    assert(cells_[hole] != 0);
    hole = (hole + 1) & mask_;
  }
  for (size_t at = (hole + 1) & mask_; cells_[at] != 0; at = (at + 1) & mask_) {
    const size_t home = home_of(key_of(cells_[at] - 1));
    if (((at - home) & mask_) < ((at - hole) & mask_)) continue;  // the hole lies before where it belongs
    cells_[hole] = cells_[at];
    hole = at;
  }
  cells_[hole] = 0;
}

}  // namespace kvatlas
