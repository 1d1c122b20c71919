// The mirror as a whole: exported, measured, emptied.
#include "ingest/native/mirror.hpp"

namespace kvatlas {

const char* count_name(Count count) {
  static constexpr const char* kNames[] = {
      "events_stored", "events_removed", "events_cleared", "blocks_stored", "blocks_removed",
      "duplicates", "reported", "unresolved", "removed_unknown", "removed_not_held", "partial_block", "lora_unnamed",
      "extras_absent", "extras_opaque", "extras_ambiguous", "extras_unsupported", "extras_without_offset",
      "extras_misaligned", "chain_unindexed", "unknown_medium", "orphaned", "orphans_stitched", "orphans_dropped",
      "store_parts", "copies_saturated", "no_lane", "block_sizes", "nodes_full", "store_full", "store_not_shared",
      "store_waiting", "store_stale", "not_a_store", "inventories"};
  static_assert(sizeof kNames / sizeof *kNames == static_cast<size_t>(Count::kCounts));
  return kNames[static_cast<size_t>(count)];
}

void Mirror::restart(Keyspace keyspace) {
  std::lock_guard turn(mutex_);
  keyspace_ = std::move(keyspace);
  tell_all_engine_keys(true);
  forget_all();
  if (announces_ && storage_) storage_->cancel_inventory(owner());
  for (uint16_t group = 0; group < lanes_.size(); ++group)
    if (groups_ >> group & 1) mark(DeltaOp::clear_lane, lanes_[group]);
  note_claims();
}

void Mirror::forget_all() {
  snapshot_.reset();
  nodes_ = NodePool();
  by_engine_key_ = NodeIndex<EngineKeyOf>(EngineKeyOf{&nodes_});
  by_key_ = NodeIndex<KeyOf>(KeyOf{&nodes_});
  segments_ = Segments();
  shapes_.clear();
  counting_ = false;
  key_counts_.clear();
  group_copies_.clear();
  emitted_.clear();
  part_salts_.clear();
  ghost_queue_.clear();
  orphans_.clear();
  fresh_.clear();
  forgotten_parts_.clear();
  unlinked_parts_ = 0;
  sums_ = {};
  epoch_ = 0;
  incomplete_ = false;
  swept_ = 0;
  forgotten_maybe_gpu_ = forgotten_maybe_cpu_ = lost_blocks_ = lost_offloaded_ = extras_absent_ = offloaded_ = 0;
  n_ghosts_ = n_nodes_ = holes_ = n_not_gpu_ = n_parts_ = 0;
  announced_closed_ = false;
}

std::vector<std::vector<uint8_t>> Mirror::content(uint32_t n_shards) {
  std::lock_guard turn(mutex_);
  std::vector<DeltaWriter> out(n_shards);
  out.swap(out_);
  shard_segment_ = 0, shard_ = 0;
  const bool announced = announced_closed_;
  for (uint16_t group = 0; group < lanes_.size(); ++group)
    if (groups_ >> group & 1) mark(DeltaOp::clear_lane, lanes_[group]);
  for (NodeId id = 0; id < nodes_.end(); ++id) {
    const Node& node = nodes_[id];
    if (!node.is_found() || !node.is(kIndexed)) continue;
    for (uint16_t group = 0; group < lanes_.size(); ++group) {
      if ((groups_ >> group & 1) == 0) continue;
      const uint8_t held = copies(id, group).mask();
      for (uint8_t tier : {uint8_t{1}, uint8_t{2}, uint8_t{16}}) {
        if ((held & tier) == 0) continue;
        const bool skip_first = part_of(node) != nullptr && !first_key_covered(id, group, tier);
        each_key(id, skip_first ? 1 : 0, [&](uint64_t segment_key, uint64_t key) {
          put(DeltaOp::add, tier, lanes_[group], segment_key, key);
        });
      }
    }
  }
  if (announced) mark(DeltaOp::close, lanes_[0]);
  out.swap(out_);
  shard_segment_ = 0, shard_ = 0;
  std::vector<std::vector<uint8_t>> content;
  for (const DeltaWriter& writer : out) content.push_back(writer.bytes());
  return content;
}

Mirror::Sizes Mirror::sizes() {
  std::lock_guard turn(mutex_);
  Sizes s{};
  s.nodes = n_nodes_;
  s.ghosts = n_ghosts_;
  s.orphans = orphans_.size();
  s.orphan_bytes = orphans_.bytes();
  s.held_gpu = sums_.gpu;
  s.held_cpu = sums_.cpu;
  s.holes = holes_;
  s.closed = is_closed();
  s.bytes = sizeof *this + nodes_.bytes() + by_engine_key_.bytes() + by_key_.bytes() + key_counts_.bytes() + segments_.bytes() + orphans_.bytes() +
            group_copies_.size() * 48 + emitted_.size() * 32 + ghost_queue_.size() * sizeof(ghost_queue_[0]);
  for (const Shape& shape : shapes_) s.bytes += shape.bytes();
  return s;
}

}  // namespace kvatlas
