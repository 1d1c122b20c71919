// What the mirror knows of its own exactness: what may be held, may be gone, or was lost; and the two
// events after which it starts over with that, a clear and a doubt.
#include <algorithm>

#include "ingest/native/mirror.hpp"

namespace kvatlas {

Mirror::Claims Mirror::claims() {
  std::lock_guard turn(mutex_);
  return claims_now();
}

Mirror::Claims Mirror::claims_now() const {
  Claims c{};
  c.maybe_gpu = sums_.maybe_gpu + forgotten_maybe_gpu_;
  c.maybe_cpu = sums_.maybe_cpu + forgotten_maybe_cpu_;
  c.orphans_waiting = orphans_.blocks();
  c.lost_blocks = lost_blocks_;
  c.lost_offloaded = lost_offloaded_;
  c.lost_stored = lost_stored_;
  c.unindexed_held = sums_.unindexed;
  c.unlinked_parts = unlinked_parts_;
  c.stale = sums_.stale;
  c.gpu_copies = sums_.gpu_copies;
  c.extras_absent = extras_absent_;
  c.offloaded = offloaded_;
  c.clears = count(Count::events_cleared);
  return c;
}

void Mirror::note_claims() {
  const Claims c = claims_now();
  uint32_t bits = static_cast<uint32_t>(c.clears) << 16;
  uint32_t bit = 1;
  for (uint64_t claim : {c.maybe_gpu, c.maybe_cpu, c.orphans_waiting, c.lost_blocks, c.lost_offloaded, c.lost_stored,
                         c.unindexed_held, c.unlinked_parts, c.stale, c.extras_absent, c.offloaded}) {
    if (claim > 0) bits |= bit;
    bit <<= 1;
  }
  claims_changed_.store(bits, std::memory_order_relaxed);
}

void Mirror::doubt() {
  std::lock_guard turn(mutex_);
  snapshot_.reset();
  if (announces_ && storage_) storage_->cancel_inventory(owner());
  tally(Count::orphans_dropped, orphans_.size());
  lose(Tier::gpu, orphans_.blocks());
  orphans_.clear();
  ++epoch_;
  incomplete_ = true;
  sums_.stale = sums_.gpu + sums_.cpu + sums_.other;
  // A node's epoch has few bits: before its number comes again the node must have been visited.
  constexpr NodeId kDoubtsAtMost = (1u << kEpochBits) / 2;
  for (NodeId left = (nodes_.end() + kDoubtsAtMost - 1) / kDoubtsAtMost; left > 0; --left) {
    freshen(swept_);
    swept_ = swept_ + 1 >= nodes_.end() ? 0 : swept_ + 1;
  }
  note_claims();
}

// Writes down what an older epoch says of the node's copies in group 0.
void Mirror::freshen(NodeId id) {
  if (nodes_[id].epoch != node_epoch()) put_copies(id, 0, copies(id, 0));
}

void Mirror::lose(Tier tier, uint64_t blocks) {
  if (tier == Tier::gpu) lost_blocks_ += blocks;
  else if (tier == Tier::disk || tier == Tier::storage) lost_stored_ += blocks;
  else lost_offloaded_ += blocks;
}

// The node is about to be forgotten: what the engine may hold of it still counts.
void Mirror::bury_doubts(NodeId id) {
  for (uint16_t group = 0; group < lanes_.size(); ++group) {
    if (group == 1 && group_copies_.empty()) return;
    if ((groups_ >> group & 1) == 0) continue;
    const Copies before = copies(id, group);
    if (before.none()) continue;
    count_copies(nodes_[id], before, ~uint64_t{0});
    if (before.gpu_more) ++forgotten_maybe_gpu_;
    if (before.cpu_unknown) ++forgotten_maybe_cpu_;
    put_copies(id, group, Copies{});
  }
}

void Mirror::Copies::cleared() {
  gpu = 0;
  gpu_more = false;
  cpu_unknown |= cpu;
  cpu = false;
  stale &= static_cast<uint8_t>(Tier::unknown);
}

// Device copies are gone; of copies in memory nobody knows: they do not count until seen again.
void Mirror::cleared() {
  tally(Count::events_cleared);
  snapshot_.reset();
  for (uint16_t group = 0; group < lanes_.size(); ++group)
    if (groups_ >> group & 1) mark(DeltaOp::clear_lane, lanes_[group]);
  announced_closed_ = false;
  emitted_.clear();
  key_counts_.clear();
  orphans_.clear();
  fresh_.clear();
  sums_ = {};
  forgotten_maybe_gpu_ = lost_blocks_ = 0;
  incomplete_ = false;
  holes_ = n_not_gpu_ = 0;
  for (auto at = group_copies_.begin(); at != group_copies_.end();) {
    const auto id = static_cast<NodeId>(at->first >> 6);
    Copies& kept = at->second;
    kept = copies(id, static_cast<uint16_t>(at->first & 63));
    kept.epoch = epoch_;
    kept.cleared();
    count_copies(nodes_[id], kept, 1);
    at = kept.none() ? group_copies_.erase(at) : std::next(at);
  }
  std::vector<NodeId> alive;
  for (NodeId id = 0; id < nodes_.end(); ++id) {
    Node& node = nodes_[id];
    if (node.parent == kFree) continue;
    alive.push_back(id);
    if (node.gpu > 0) node.parent = kNoNode;
    node.gpu_children = 0;
    node.set(kFresh, false);
    Copies left = copies(id, 0);
    left.cleared();
    put_copies(id, 0, left);
    count_copies(node, left, 1);
  }
  for (NodeId id : alive) settle_after_clear(id);
}

void Mirror::settle_after_clear(NodeId id) {
  Node& node = nodes_[id];
  if (node.parent == kFree || node.is(kGhost)) return;  // released with a child of it
  if (node.is(kForgotten)) return release(id);
  for (uint16_t group = 0; group < lanes_.size(); ++group) {
    if ((groups_ >> group & 1) == 0 || !copies(id, group).other) continue;
    if (group == 0) ++n_not_gpu_;
    emit(id, group, static_cast<uint8_t>(Tier::unknown), true);
  }
  if (!has_copies(id)) haunt(id);
}

}  // namespace kvatlas
