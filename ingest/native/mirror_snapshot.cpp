// Writes a mirror's content: see mirror_snapshot.hpp. What reads it back: mirror_restore.cpp.
#include "ingest/native/mirror_snapshot.hpp"

#include <algorithm>

#include "ingest/native/mirror.hpp"

namespace kvatlas {
namespace {

constexpr size_t kKeptBytes = 64 << 10;  // of one buffer of nodes kept

}  // namespace

uint64_t Mirror::begin_snapshot() {
  std::lock_guard turn(mutex_);
  if (snapshot_) throw Error(ErrorKind::checkpoint, "begin_snapshot: expected no other snapshot of the mirror under way");
  snapshot_ = std::make_unique<MirrorSnapshot>();
  snapshot_->number = ++n_snapshots_;
  snapshot_->end = nodes_.end();
  snapshot_->was_kept.resize(nodes_.end());
  snapshot_->kept.push_back(snapshot_head());
  return snapshot_->number;
}

void Mirror::end_snapshot(uint64_t number) {
  std::lock_guard turn(mutex_);
  if (snapshot_ && snapshot_->number == number) snapshot_.reset();
}

bool Mirror::snapshot_part(uint64_t number, size_t bytes_max, Bytes& out) {
  out.clear();
  while (out.empty() || (out.front() == kNodesPart && out.size() < bytes_max)) {
    std::lock_guard turn(mutex_);
    if (!snapshot_ || snapshot_->number != number)
      throw Error(ErrorKind::checkpoint, "snapshot_part: expected a snapshot under way; a clear, a doubt or a restart of the mirror has ended it");
    MirrorSnapshot& snapshot = *snapshot_;
    if (out.empty() && !snapshot.kept.empty()) {
      out = std::move(snapshot.kept.front());
      snapshot.kept.pop_front();
      if (out.front() == kHeadPart) return true;
    } else if (!snapshot.kept.empty()) {
      out.insert(out.end(), snapshot.kept.front().begin() + 1, snapshot.kept.front().end());
      snapshot.kept.pop_front();
    } else if (snapshot.next < snapshot.end) {
      if (out.empty()) out.push_back(kNodesPart);
      const NodeId stop = std::min(snapshot.end, snapshot.next + kSliceNodes);
      for (; snapshot.next < stop; ++snapshot.next)
        if (!snapshot.was_kept[snapshot.next]) write_node(snapshot.next, out);
    } else {
      if (out.empty()) snapshot_.reset();
      return !out.empty();
    }
  }
  return true;
}

void Mirror::keep_as_it_was(NodeId id) {
  MirrorSnapshot& snapshot = *snapshot_;
  if (id >= snapshot.end || id < snapshot.next || snapshot.was_kept[id]) return;
  snapshot.was_kept[id] = true;
  const bool has_room = !snapshot.kept.empty() && snapshot.kept.back().front() == kNodesPart && snapshot.kept.back().size() < kKeptBytes;
  if (!has_room) {
    snapshot.kept.emplace_back().reserve(kKeptBytes + 1024);
    snapshot.kept.back().push_back(kNodesPart);
  }
  write_node(id, snapshot.kept.back());
}

Bytes Mirror::snapshot_head() const {
  Bytes out;
  append(out, kHeadPart);
  append(out, keyspace_.block_size());
  append(out, static_cast<uint8_t>(keyspace_.algorithm()));
  append(out, n_nodes_);
  append(out, static_cast<uint8_t>(shapes_.size()));
  for (const Shape& shape : shapes_) {
    append(out, shape.block_size);
    append(out, static_cast<uint8_t>(shape.parts));
  }
  for (uint64_t sum : {forgotten_maybe_gpu_, forgotten_maybe_cpu_, lost_blocks_, lost_offloaded_, lost_stored_, extras_absent_, offloaded_, count(Count::events_cleared)})
    append(out, sum);
  append(out, static_cast<uint8_t>((incomplete_ ? 1 : 0) | (announced_closed_ ? 2 : 0)));
  append(out, static_cast<uint32_t>(orphans_.size()));
  orphans_.each([&](const Orphan& orphan) {
    append(out, orphan.parent);
    append(out, orphan.group);
    append(out, static_cast<uint32_t>(orphan.hashes.size()));
    append_all(out, orphan.hashes.data(), orphan.hashes.size());
    for (bool cancelled : orphan.cancelled) append(out, static_cast<uint8_t>(cancelled));
    append(out, static_cast<uint32_t>(orphan.raw.size()));
    append_all(out, orphan.raw.data(), orphan.raw.size());
  });
  return out;
}

uint16_t Mirror::copy_bits(const Copies& copies) {
  return static_cast<uint16_t>((copies.gpu_more ? kBitGpuMore : 0) | (copies.cpu ? kBitCpu : 0) |
                               (copies.cpu_unknown ? kBitCpuUnknown : 0) | (copies.cpu_more ? kBitCpuMore : 0) | (copies.other ? kBitOther : 0) | (copies.stale & 1 ? kBitGpuStale : 0) |
                               (copies.stale & 2 ? kBitCpuStale : 0) | (copies.stale & 16 ? kBitOtherStale : 0));
}

void Mirror::write_node(NodeId id, Bytes& out) const {
  const Node& node = nodes_[id];
  if (node.parent == kFree) return;
  const Copies held = copies(id, 0);
  const Part* part = part_of(node);
  const auto salt = part == nullptr ? part_salts_.end() : part_salts_.find(id);
  uint16_t bits = copy_bits(held);
  if (node.is(kIndexed)) bits |= kBitIndexed;
  if (is_unplaced(node)) bits |= kBitUnplaced;
  if (node.is(kGhost)) bits |= kBitGhost;
  if (node.is(kForgotten)) bits |= kBitForgotten;
  if (salt != part_salts_.end()) bits |= kBitSalt;
  Bytes groups;
  if (!group_copies_.empty()) write_groups(id, groups);
  if (!groups.empty()) bits |= kBitGroups;
  append(out, id);
  append(out, bits);
  append(out, static_cast<uint8_t>(node.shape));
  append(out, held.gpu);
  append(out, node.engine_key);
  // A ghost's place in the queue as its age: stamps begin anew in the mirror that reads it.
  append(out, node.is(kGhost) ? ghost_stamp_ - node.parent : node.parent);
  if (!groups.empty()) {
    append(out, static_cast<uint8_t>(groups.size() / 4));
    append_all(out, groups.data(), groups.size());
  }
  if (part != nullptr) write_part(node, *part, out);
  else if (node.is(kIndexed)) write_whole(node, out);
  if (salt == part_salts_.end()) return;
  append(out, static_cast<uint32_t>(salt->second.size()));
  append_all(out, salt->second.data(), salt->second.size());
}

void Mirror::write_groups(NodeId id, Bytes& out) const {
  for (uint16_t group = 1; group < lanes_.size(); ++group) {
    if ((groups_ >> group & 1) == 0) continue;
    const Copies held = copies(id, group);
    if (held.none()) continue;
    append(out, static_cast<uint8_t>(group));
    append(out, static_cast<uint8_t>(copy_bits(held) >> 1));
    append(out, held.gpu);
  }
}

void Mirror::write_whole(const Node& node, Bytes& out) const {
  const Shape& shape = shapes_[node.shape];
  const Segments::Segment& segment = segments_[node.segment];
  if (shape.is_inline()) {
    append(out, node.key);
    append(out, segment.first_key);
    append(out, segment.base + node.offset);
    return;
  }
  append_all(out, &shape.keys[node.key * shape.stride], shape.stride);
  append(out, shape.segment_keys[node.key]);
  append(out, segment.first_key);
  append(out, shape.first_blocks[node.key]);
}

void Mirror::write_part(const Node& node, const Part& part, Bytes& out) const {
  const Shape& shape = shapes_[node.shape];
  append(out, part.start_token);
  append(out, part.parent);
  append(out, part.tip_key);
  append_all(out, &shape.tokens[node.key * shape.block_size], shape.block_size);
  append_all(out, &shape.keys[node.key * shape.stride], part.n_keys);
  if (part.n_keys > 0) append(out, shape.segment_keys[node.key]);
  if (node.segment != kNoSegment) append(out, segments_[node.segment].first_key);
}

}  // namespace kvatlas
