// The mirror's copies: how many lie where, and the deltas that a change of them makes.
#include <algorithm>

#include "ingest/native/mirror.hpp"

namespace kvatlas {
namespace {

// A node keeps the tiers gpu, cpu and unknown in three bits.
uint8_t tiers_of(uint32_t bits) { return static_cast<uint8_t>((bits & 3) | (bits & 4) << 2); }
uint32_t bits_of(uint8_t tiers) { return (tiers & 3u) | (tiers >> 2 & 4u); }

}  // namespace

// ---- copies ----

Mirror::Copies Mirror::copies(NodeId id, uint16_t group) const {
  Copies found;
  if (group == 0) {
    const Node& node = nodes_[id];
    found.gpu = static_cast<uint16_t>(node.gpu);
    found.gpu_more = node.gpu_more;
    found.cpu = node.is(kCpu);
    found.cpu_unknown = node.is(kCpuUnknown);
    found.cpu_more = node.is(kCpuMore);
    found.other = node.is(kOther);
    found.stale = node.epoch == node_epoch() ? tiers_of(node.stale) : found.mask();
  } else if (const auto at = group_copies_.find(copies_key(id, group)); at != group_copies_.end()) {
    found = at->second;
    if (found.epoch != epoch_) found.stale = found.mask();
  }
  return found;
}

void Mirror::put_copies(NodeId id, uint16_t group, const Copies& now) {
  if (group == 0) {
    Node& node = nodes_[id];
    node.gpu = now.gpu & kCopiesMax;
    node.set(kCpu, now.cpu);
    node.set(kCpuUnknown, now.cpu_unknown);
    node.set(kCpuMore, now.cpu_more);
    node.set(kOther, now.other);
    node.gpu_more = now.gpu_more;
    node.stale = bits_of(now.stale) & 7;
    node.epoch = node_epoch();
  } else if (now.none()) {
    group_copies_.erase(copies_key(id, group));
  } else {
    Copies& kept = group_copies_[copies_key(id, group)] = now;
    kept.epoch = epoch_;
  }
}

// Whether any tier of any group holds it. A cpu copy nobody knows of does not count.
bool Mirror::has_copies(NodeId id) const {
  const Node& node = nodes_[id];
  if (node.gpu > 0 || node.is(kCpu) || node.is(kOther)) return true;
  if (group_copies_.empty()) return false;
  for (uint16_t group = 1; group < lanes_.size(); ++group)
    if ((groups_ >> group & 1) != 0 && copies(id, group).mask() != 0) return true;
  return false;
}

// Every change of copies goes through here. `parent`: the node's place in its chain, where the
// event tells it (kRoot, a node) or kNoNode.
void Mirror::change(NodeId id, uint16_t group, const Copies& before, const Copies& now, NodeId parent) {
  keep(id);
  Node& node = nodes_[id];
  if (node.is(kGhost) && now.mask() != 0) {
    node.set(kGhost, false);
    node.parent = kNoNode;
    --n_ghosts_;
  }
  const uint8_t was = before.mask(), is = now.mask();
  count_copies(node, before, ~uint64_t{0});
  count_copies(node, now, 1);
  if (group == 0) {
    n_not_gpu_ += static_cast<uint64_t>((is > 1) - (was > 1));
    put_copies(id, group, now);
    if ((is & 1) > (was & 1)) link(id, parent);
    if ((is & 1) < (was & 1)) unlink(id);
    if (!is_closed()) announce_open();
  } else {
    put_copies(id, group, now);
  }
  for (uint8_t tier : {uint8_t{1}, uint8_t{2}, uint8_t{16}})
    if ((was ^ is) & tier) emit(id, group, tier, (is & tier) != 0);
  if (is == 0 && !node.is(kGhost) && !has_copies(id)) haunt(id);
}

// The node has come to be held on gpu: its place in the chain counts for closedness.
void Mirror::link(NodeId id, NodeId parent) {
  Node& node = nodes_[id];
  node.parent = parent;
  holes_ -= node.gpu_children;
  if (parent == kRoot) return;
  if (parent == kNoNode) {
    ++holes_;
    return;
  }
  Node& above = nodes_[parent];
  ++above.gpu_children;
  if (above.gpu == 0) ++holes_;
}

void Mirror::unlink(NodeId id) {
  Node& node = nodes_[id];
  const NodeId parent = node.parent;
  node.parent = kNoNode;
  holes_ += node.gpu_children;
  if (parent == kRoot) return;
  if (parent == kNoNode) {
    --holes_;
    return;
  }
  Node& above = nodes_[parent];
  --above.gpu_children;
  if (above.gpu == 0) --holes_;
  if (above.is(kForgotten)) release(parent);
}

// ---- deltas ----

void Mirror::announce_open() {
  if (!announced_closed_) return;
  announced_closed_ = false;
  mark(DeltaOp::open, lanes_[0]);
}

void Mirror::put(DeltaOp op, uint8_t tiers, uint32_t lane, uint64_t segment_key, uint64_t key) {
  if (segment_key != shard_segment_) {
    shard_ = shard_of(segment_key, static_cast<uint32_t>(out_.size()));
    shard_segment_ = segment_key;
  }
  out_[shard_].put(op, tiers, lane, segment_key, key);
}

void Mirror::mark(DeltaOp op, uint32_t lane) {
  for (DeltaWriter& out : out_) out.mark(op, lane);
}

void Mirror::emit(NodeId id, uint16_t group, uint8_t tier, bool on) {
  const Node& node = nodes_[id];
  if (!node.is(kIndexed)) return;
  const Part* part = part_of(node);
  emit_keys(id, group, tier, on, part != nullptr ? 1 : 0);
  if (part != nullptr) emit_family(id, group, tier, part->start_token + shapes_[node.shape].block_size);
}

// Whether the key's residency in the lane and tier turns with this engine block's, or another
// that means the same holds it all along.
bool Mirror::turns(NodeId id, uint64_t key, uint16_t group, uint8_t tier, bool on) {
  if (id == alone_) return true;
  if (counting_) return on ? key_counts_.enter(key, group, tier) : key_counts_.leave(key, group, tier);
  return by_key_.find(key, [&](NodeId other) {
    return other != id && (copies(other, group).mask() & tier) != 0;
  }) == kNoNode;
}

// Engine blocks that are not index blocks begin to come: all that is resident is counted now.
void Mirror::begin_counting() {
  counting_ = true;
  for (NodeId id = 0; id < nodes_.end(); ++id) {
    const Node& node = nodes_[id];
    if (!node.is_found() || !node.is(kIndexed)) continue;
    for (uint16_t group = 0; group < lanes_.size(); ++group) {
      const uint8_t held = (groups_ >> group & 1) != 0 ? copies(id, group).mask() : 0;
      for (uint8_t tier : {uint8_t{1}, uint8_t{2}, uint8_t{16}})
        if (held & tier) key_counts_.enter(node.key, group, tier);
    }
  }
  by_key_ = NodeIndex<KeyOf>(KeyOf{&nodes_});
}

void Mirror::emit_keys(NodeId id, uint16_t group, uint8_t tier, bool on, uint32_t begin) {
  each_key(id, begin, [&](uint64_t segment_key, uint64_t key) {
    if (turns(id, key, group, tier, on)) put(on ? DeltaOp::add : DeltaOp::remove, tier, lanes_[group], segment_key, key);
  });
}

// Parts: re-decides the first key of the node and of its descendants that begin before end_token.
void Mirror::emit_family(NodeId id, uint16_t group, uint8_t tier, uint32_t end_token) {
  std::vector<NodeId> pending{id};
  const uint32_t block = keyspace_.block_size();
  while (!pending.empty()) {
    const NodeId at = pending.back();
    pending.pop_back();
    const Node& node = nodes_[at];
    const Part& part = *part_of(node);
    if (at != id && part.start_token / block * block >= end_token) continue;  // lies behind
    if (part.n_keys > 0) {
      uint8_t& emitted = emitted_[copies_key(at, group)];
      const bool on = first_key_covered(at, group, tier);
      if (on != ((emitted & tier) != 0)) {
        emitted = static_cast<uint8_t>(on ? emitted | tier : emitted & ~tier);
        const Shape& shape = shapes_[node.shape];
        const uint64_t key = shape.keys[node.key * shape.stride];
        if (turns(at, key, group, tier, on)) put(on ? DeltaOp::add : DeltaOp::remove, tier, lanes_[group], shape.segment_keys[node.key], key);
      }
      if (emitted == 0) emitted_.erase(copies_key(at, group));
    }
    for (NodeId child = part.first_child; child != kNoNode; child = part_of(nodes_[child])->next_sibling) pending.push_back(child);
  }
}

// Whether all engine blocks under the node's first index block are held.
bool Mirror::first_key_covered(NodeId id, uint16_t group, uint8_t tier) const {
  const uint32_t begin_token = shapes_[nodes_[id].shape].first_blocks[nodes_[id].key] * keyspace_.block_size();
  for (NodeId at = id; at != kNoNode;) {
    if ((copies(at, group).mask() & tier) == 0) return false;
    const Part* part = part_of(nodes_[at]);
    if (part->start_token <= begin_token) return true;
    at = part->parent;
  }
  return false;
}

}  // namespace kvatlas
