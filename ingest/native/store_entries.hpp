// What a store knows of one engine key, in 32 bytes, and where these lie.
//
//   engine key | block key or slot | parent | segment | bits
//
// An entry is *placed* when it is known what its engine key means; a block that cannot be indexed is
// placed too, without block keys. An entry is a *file* when groups are named for it: the file holds
// `chunk` blocks, the last of them this one, the others its parents.
//
// Thread safety: none; a store owns its entries.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "ingest/native/nodes.hpp"

namespace kvatlas {

using EntryId = uint32_t;
inline constexpr EntryId kNoEntry = 0xffffffffu;
inline constexpr EntryId kFreeEntry = 0xfffffffeu;  // as a parent: the entry is not in use
inline constexpr uint32_t kNoKeys = 7;              // as a shape: it cannot be indexed
inline constexpr uint32_t kStoreShapesMax = kNoKeys;
inline constexpr uint32_t kCoversMax = (1u << 12) - 1;
inline constexpr uint32_t kStoreChildrenMax = (1u << 22) - 1;
inline constexpr uint32_t kChunkBlocksMax = 1u << 12;
inline constexpr uint32_t kGroupMasksMax = 16;

struct Entry {
  uint64_t engine_key;
  uint64_t key;      // one block key; or the number of its slot
  EntryId parent;    // the block before it, where that is known
  uint32_t segment;  // of its first index block; inline shapes only
  uint64_t children : 22;  // entries whose parent it is; they keep it
  uint64_t covers : 12;    // files that hold it; kCoversMax: and more, counted elsewhere
  uint64_t chunk : 12;     // a file: its blocks, less one
  uint64_t offset : 7;     // its place in its segment; inline shapes only
  uint64_t shape : 3;
  uint64_t groups : 4;     // a file: number of the set of groups it is there for; 0: no file
  uint64_t placed : 1;
  uint64_t used : 1;       // since the clock's hand came by
  uint64_t covering : 1;   // a file that is counted in `covers`
  uint64_t seen : 1;       // a file named since the inventory began

  bool is_file() const { return groups != 0; }
  uint32_t chunk_blocks() const { return static_cast<uint32_t>(chunk) + 1; }
};
static_assert(sizeof(Entry) == 32);

class EntryPool {
 public:
  Entry& operator[](EntryId id) { return chunks_[id >> kChunkBits][id & kChunkMask]; }
  const Entry& operator[](EntryId id) const { return chunks_[id >> kChunkBits][id & kChunkMask]; }
  EntryId allocate() {  // REQUIRES: fewer than kNodesMax are in use
    if (!free_.empty()) {
      const EntryId id = free_.back();
      free_.pop_back();
      return id;
    }
    if (end_ >> kChunkBits == chunks_.size()) chunks_.push_back(std::make_unique<Entry[]>(size_t{1} << kChunkBits));
    return end_++;
  }
  void release(EntryId id) {
    (*this)[id] = Entry{};
    (*this)[id].parent = kFreeEntry;
    free_.push_back(id);
  }
  EntryId end() const { return end_; }  // ids below it have been allocated at some time
  uint32_t size() const { return end_ - static_cast<uint32_t>(free_.size()); }
  uint64_t bytes() const { return chunks_.size() * (sizeof(Entry) << kChunkBits) + free_.capacity() * sizeof(EntryId); }

 private:
  static constexpr uint32_t kChunkBits = 10;
  static constexpr uint32_t kChunkMask = (1u << kChunkBits) - 1;
  std::vector<std::unique_ptr<Entry[]>> chunks_;
  std::vector<EntryId> free_;
  EntryId end_ = 0;
};

}  // namespace kvatlas
