// Definitions of mirror.hpp that its callers instantiate or inline; included at its end.
#pragma once

#include "ingest/native/mirror.hpp"

namespace kvatlas {

// What the copies of a node in one group add to the sums; `sign` 1, or -1 to take it out.
inline void Mirror::count_copies(const Node& node, const Copies& copies, uint64_t sign) {
  if (copies.none()) return;
  const uint8_t mask = copies.mask();
  sums_.gpu += sign * (mask & 1);
  sums_.cpu += sign * (mask >> 1 & 1);
  sums_.other += sign * (mask >> 4 & 1);
  sums_.gpu_copies += sign * copies.gpu;
  if (mask != 0 && !node.is(kIndexed)) sums_.unindexed += sign;
  if (copies.stale != 0) sums_.stale += sign * static_cast<uint64_t>((copies.stale & 1) + (copies.stale >> 1 & 1) + (copies.stale >> 4 & 1));
  if (copies.gpu_more && copies.gpu == 0) sums_.maybe_gpu += sign;
  if (copies.cpu_unknown) sums_.maybe_cpu += sign;
}

template <class Visit>
void Mirror::each_key(NodeId id, uint32_t begin, Visit visit) const {
  const Node& node = nodes_[id];
  const Shape& shape = shapes_[node.shape];
  if (shape.is_inline()) {
    if (begin == 0) visit(segments_[node.segment].first_key, node.key);
    return;
  }
  const uint64_t* keys = &shape.keys[node.key * shape.stride];
  uint64_t segment_key = shape.segment_keys[node.key];
  for (uint32_t i = 0; i < n_keys(node); ++i) {
    if (i > 0 && (shape.first_blocks[node.key] + i) % kSegmentBlocks == 0) segment_key = keys[i];
    if (i >= begin) visit(segment_key, keys[i]);
  }
}

template <class Sink>
void Mirror::flush(Sink sink) {
  std::lock_guard turn(mutex_);
  for (uint32_t shard = 0; shard < out_.size(); ++shard) {
    sink(shard, out_[shard].bytes());
    out_[shard].clear();
  }
}

template <class Visit>
void Mirror::each_resident(Visit visit) {
  std::lock_guard turn(mutex_);
  for (NodeId id = 0; id < nodes_.end(); ++id) {
    const Node& node = nodes_[id];
    if (!node.is_found() || !node.is(kIndexed)) continue;
    for (uint16_t group = 0; group < 64; ++group) {
      if ((groups_ >> group & 1) == 0) continue;
      const uint8_t held = copies(id, group).mask();
      const auto found = part_of(node) == nullptr ? emitted_.end() : emitted_.find(copies_key(id, group));
      const uint8_t first = part_of(node) == nullptr ? held : found == emitted_.end() ? uint8_t{0} : found->second;
      uint32_t i = 0;
      each_key(id, 0, [&](uint64_t, uint64_t key) {
        if (const uint8_t mask = i++ == 0 ? first : held; mask != 0) visit(group, mask, key);
      });
    }
  }
}

}  // namespace kvatlas
