// Definitions of store.hpp that its callers instantiate; included at its end.
#pragma once

#include "index/native/match.hpp"
#include "ingest/native/store.hpp"

namespace kvatlas {

// visit(segment key, block key) for each block key of the entry.
template <class Visit>
void Store::each_key(const Entry& entry, Visit visit) const {
  if (entry.placed == 0 || entry.shape == kNoKeys) return;
  const Shape& shape = shapes_[entry.shape];
  if (shape.is_inline()) return visit(segments_[entry.segment].first_key, entry.key);
  const uint64_t* keys = &shape.keys[entry.key * shape.stride];
  uint64_t segment_key = shape.segment_keys[entry.key];
  for (uint32_t i = 0; i < shape.stride; ++i) {
    if (i > 0 && (shape.first_blocks[entry.key] + i) % kSegmentBlocks == 0) segment_key = keys[i];
    visit(segment_key, keys[i]);
  }
}

// visit(id) for each block that the file holds, its own first.
template <class Visit>
void Store::each_covered(EntryId id, Visit visit) const {
  uint32_t left = entries_[id].chunk_blocks();
  for (EntryId at = id; at != kNoEntry && left > 0; at = entries_[at].parent, --left) visit(at);
}

}  // namespace kvatlas
