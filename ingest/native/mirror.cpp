// The mirror's rules for events. Nodes, copies and what they emit: mirror_nodes.cpp; stores of files:
// mirror_stores.cpp; the whole of it, exported, measured or emptied: mirror_content.cpp.
#include "ingest/native/mirror.hpp"

#include <algorithm>

#include "index/native/match.hpp"
#include "ingest/native/extras.hpp"

namespace kvatlas {

Mirror::Mirror(Keyspace keyspace, uint32_t n_shards, MirrorLimits limits)
    : keyspace_(std::move(keyspace)), limits_(limits), out_(n_shards), by_engine_key_(EngineKeyOf{&nodes_}),
      by_key_(KeyOf{&nodes_}), orphans_(limits.orphans_max, limits.orphan_bytes_max) {
  if (n_shards < 1 || n_shards > 65536) throw Error(ErrorKind::input, "n_shards: expected 1 to 65536, got " + std::to_string(n_shards));
  if (limits.ghosts_max < 1) throw Error(ErrorKind::input, "ghosts_max: expected at least 1");
}

void Mirror::set_lane(uint16_t group, uint32_t lane, bool full_attention) {
  std::lock_guard turn(mutex_);
  if (group >= lanes_.size()) throw Error(ErrorKind::input, "group: expected 0 to 63, got " + std::to_string(group));
  if (lane >= kLanesMax) throw Error(ErrorKind::input, "lane: expected a number below 65535, got " + std::to_string(lane));
  lanes_[group] = lane;
  const uint64_t bit = uint64_t{1} << group;
  groups_ |= bit;
  full_groups_ = full_attention ? full_groups_ | bit : full_groups_ & ~bit;
}

bool Mirror::knows(const Batch& batch) {
  std::lock_guard turn(mutex_);
  if (announces_) return ((batch.store_tiers | batch.removed_tiers) & 8u) == 0 || storage_ || storage_left_out_;
  const uint32_t left_out = storage_left_out_ ? 8u : 0u;
  const uint32_t stores = (disk_ ? 4u : 0u) | (storage_ ? 8u : 0u) | left_out;
  return (batch.group_mask & ~groups_) == 0 && (batch.removed_tiers & ~stores) == 0 && (batch.store_tiers & ~(attached_tiers_ | left_out)) == 0 &&
         (batch.full_groups & ~full_groups_) == 0 && (batch.other_groups & full_groups_) == 0;
}

void Mirror::set_lora_names(std::unordered_map<uint64_t, std::string> names) {
  std::lock_guard turn(mutex_);
  lora_names_ = std::move(names);
}

void Mirror::apply(const Batch& batch) {
  std::lock_guard turn(mutex_);
  time_s_ = batch.has_ts ? batch.ts : Store::kNoTime;
  judge(batch);
  for (size_t i = 0; i < batch.events.size(); ++i) {
    const Event& event = batch.events[i];
    is_copy_ = event.parent != 0 || (i < true_copies_.size() && true_copies_[i]);
    switch (event.type) {
      case EventType::stored: stored(batch, event); break;
      case EventType::removed: removed(batch, event); break;
      case EventType::cleared: announces_ ? take_inventory(event) : cleared(); break;
    }
  }
  for (NodeId id : fresh_) nodes_[id].set(kFresh, false);
  fresh_.clear();
  if (is_closed() && !announced_closed_ && (groups_ & 1) != 0) {
    mark(DeltaOp::close, lanes_[0]);
    announced_closed_ = true;
  }
  note_claims();
}

void Mirror::stored(const Batch& batch, const Event& event) {
  tally(Count::events_stored);
  if (event.hashes.count == 0) return;
  if (announces_ && event.tier != Tier::storage) return tally(Count::not_a_store, event.hashes.count);
  if (event.tier == Tier::disk || event.tier == Tier::storage) {
    const auto& store = event.tier == Tier::disk ? disk_ : storage_;
    if (store) return stored_in_store(batch, event, *store);
    tally(event.tier == Tier::storage && storage_left_out_ ? Count::store_not_shared : Count::no_lane, event.hashes.count);
    return lose(event.tier, event.hashes.count);
  }
  if ((groups_ >> event.group & 1) == 0) {
    tally(Count::no_lane, event.hashes.count);
    return lose(event.tier, event.hashes.count);
  }
  if (event.tier != Tier::gpu) return stored_in_memory(batch, event);
  const uint64_t room = static_cast<uint64_t>(event.hashes.count) * event.block_size;
  if (event.tokens.count == 0 || event.block_size == 0) return stored_by_key(batch, event, false);
  if (event.tokens.count > room) return stored_by_key(batch, event, true);
  if (event.tokens.count < room) return tally(Count::partial_block);
  stored_dense(batch, event);
}

void Mirror::stored_dense(const Batch& batch, const Event& event) {
  Tip tip;
  if (event.parent != 0) {
    const NodeId parent = find(event.parent);
    if (parent == kNoNode || is_unplaced(nodes_[parent])) return wait(batch, event);
    tip = tip_of(parent);
  } else {
    std::string_view lora = event.lora_name.present ? event.lora_name.value : std::string_view();
    if (!event.lora_name.present && event.has_lora_id) {
      const auto named = event.lora_id_negative ? lora_names_.end() : lora_names_.find(event.lora_id);
      if (named == lora_names_.end()) {
        tally(Count::lora_unnamed);
        return lose(Tier::gpu, event.hashes.count);
      }
      lora = named->second;
    }
    tip.key = keyspace_.root(lora);
  }
  place(batch, event, tip, nullptr);
  if (!orphans_.empty()) stitch(batch, event);
}

// Continues the chain at `tip` with the event's blocks and holds them. In strides: first the
// nodes, so that what holding them will touch is fetched meanwhile. Where blocks are cancelled one
// by one, since a block that is not held can push a ghost of the same stride into oblivion.
void Mirror::place(const Batch& batch, const Event& event, Tip tip, const std::vector<bool>* cancelled) {
  if (!event.has_extras) {
    tally(Count::extras_absent);
    ++extras_absent_;
  }
  const uint64_t* hashes = batch.hashes.data() + event.hashes.begin;
  const uint32_t n = event.hashes.count;
  const uint32_t stride = cancelled != nullptr ? 1 : kStride;
  struct Placed {
    NodeId id, parent;
    bool created;
  };
  std::array<Placed, kStride> placed;
  for (uint32_t i = 0; i < n && i < kStride; ++i) by_engine_key_.prefetch(hashes[i]);
  for (uint32_t begin = 0, n_placed = 0; begin < n; begin += n_placed) {
    for (n_placed = 0; n_placed < stride && begin + n_placed < n; ++n_placed) {
      const uint32_t i = begin + n_placed;
      if (i + kStride < n) by_engine_key_.prefetch(hashes[i + kStride]);
      NodeId id = find(hashes[i]);
      const bool created = id == kNoNode;
      if (created) id = create(hashes[i], tip, batch, event, i);
      else if (is_unplaced(nodes_[id]) && !settle_unplaced(id, tip, batch, event, i)) id = kNoNode;
      else if (counting_) relink(id, tip.node);
      if (id == kNoNode) break;  // no room: counted
      placed[n_placed] = {id, tip.node, created};
      tip = tip_of(id);
    }
    for (uint32_t k = 0; k < n_placed && !attached_.empty(); ++k) learn(placed[k].id, placed[k].parent == kRoot ? 0 : nodes_[placed[k].parent].engine_key);
    teach_attached();
    for (uint32_t k = 0; k < n_placed; ++k) {
      const auto [id, parent, created] = placed[k];
      alone_ = created && enter(id) ? id : kNoNode;
      if (cancelled != nullptr && (*cancelled)[begin + k]) {
        if (!has_copies(id)) haunt(id);
        continue;
      }
      if ((full_groups_ >> event.group & 1) == 0 && !proves(id, event, created || nodes_[id].is(kFresh))) {
        reported_in_sparse(id, event, created || nodes_[id].is(kFresh));
        continue;
      }
      if (copies(id, event.group).gpu == 0 && !nodes_[id].is(kFresh)) {
        nodes_[id].set(kFresh, true);
        fresh_.push_back(id);
      }
      add_gpu(id, event, parent);
      tally(Count::blocks_stored);
    }
    alone_ = kNoNode;
    if (n_placed == 0) {
      lose(Tier::gpu, cancelled == nullptr ? n - begin : static_cast<uint64_t>(std::count(cancelled->begin() + begin, cancelled->end(), false)));
      break;
    }
  }
  end_event();
}

// Blocks whose place the event does not tell: found by their engine keys.
void Mirror::stored_by_key(const Batch& batch, const Event& event, bool sparse) {
  is_copy_ |= sparse;
  for (uint32_t i = 0; i < event.hashes.count; ++i) {
    NodeId id = resolve(batch.hashes[event.hashes.begin + i]);
    if (id == kNoNode && sparse) id = create_unplaced(batch.hashes[event.hashes.begin + i]);
    if (id == kNoNode) {
      tally(Count::unresolved);
      lose(Tier::gpu, 1);
    } else {
      add_gpu(id, event, kNoNode);
      tally(Count::blocks_stored);
    }
  }
  end_event();
}

// cpu, or a tier we do not know: resolved through the engine keys, never keyed from tokens.
void Mirror::stored_in_memory(const Batch& batch, const Event& event) {
  if (event.tier == Tier::unknown) tally(Count::unknown_medium);
  else offloaded_ += event.hashes.count;
  for (uint32_t i = 0; i < event.hashes.count; ++i) {
    const NodeId id = resolve(batch.hashes[event.hashes.begin + i]);
    if (id == kNoNode) {
      tally(Count::unresolved);
      lose(event.tier, 1);
      continue;
    }
    const Copies before = copies(id, event.group);
    Copies now = before;
    now.stale &= static_cast<uint8_t>(~static_cast<uint8_t>(event.tier));
    if (event.tier == Tier::cpu) {
      now.cpu_more |= before.cpu || before.cpu_unknown;
      now.cpu = true;
      now.cpu_unknown = false;
    } else {
      now.other = true;
    }
    change(id, event.group, before, now, kNoNode);
    tally(Count::blocks_stored);
  }
}

void Mirror::removed(const Batch& batch, const Event& event) {
  tally(Count::events_removed);
  if (announces_ && event.tier != Tier::storage) return tally(Count::not_a_store, event.hashes.count);
  if (event.tier == Tier::storage && storage_left_out_) return tally(Count::store_not_shared, event.hashes.count);
  if (event.tier == Tier::disk || event.tier == Tier::storage) return removed_from_store(batch, event, (event.tier == Tier::disk ? disk_ : storage_).get());
  if (event.tier == Tier::cpu) offloaded_ += event.hashes.count;
  for (uint32_t i = 0; i < event.hashes.count; ++i) {
    const uint64_t engine_key = batch.hashes[event.hashes.begin + i];
    const NodeId id = find(engine_key);
    const Copies before = id == kNoNode ? Copies{} : copies(id, event.group);
    Copies now = before;
    now.stale &= static_cast<uint8_t>(~static_cast<uint8_t>(event.tier));
    if (event.tier == Tier::gpu && before.gpu > 0) {
      const bool stale = (before.stale & 1) != 0;
      now.gpu = stale ? uint16_t{0} : static_cast<uint16_t>(before.gpu - 1);
      now.gpu_more |= stale;
    } else if (event.tier == Tier::cpu && (before.cpu || before.cpu_unknown)) {
      now.cpu = false;
      now.cpu_unknown = before.cpu_more;
    } else if (event.tier == Tier::unknown && before.other) {
      now.other = false;
    } else {
      if (event.tier == Tier::gpu && !orphans_.empty() && orphans_.cancel(engine_key, event.group)) continue;
      tally(id == kNoNode ? Count::removed_unknown : Count::removed_not_held);
      continue;
    }
    tally(Count::blocks_removed);
    change(id, event.group, before, now, kNoNode);
  }
}

void Mirror::wait(const Batch& batch, const Event& event) {
  Orphan orphan{std::string(event.raw), event.parent, event.group, {}, {}};
  const uint64_t* begin = batch.hashes.data() + event.hashes.begin;
  orphan.hashes.assign(begin, begin + event.hashes.count);
  orphan.cancelled.assign(event.hashes.count, false);
  tally(Count::orphaned);
  const Orphans::Dropped dropped = orphans_.add(std::move(orphan));
  tally(Count::orphans_dropped, dropped.orphans);
  lose(Tier::gpu, dropped.blocks);
}

// Places the orphans whose parent has come, the oldest first, until none is left.
void Mirror::stitch(const Batch& batch, const Event& event) {
  ready_.clear();
  for (uint32_t i = 0; i < event.hashes.count; ++i) orphans_.children_of(batch.hashes[event.hashes.begin + i], ready_);
  is_copy_ = true;  // they have a parent
  while (!ready_.empty()) {
    const auto oldest = std::min_element(ready_.begin(), ready_.end());
    const uint64_t number = *oldest;
    std::erase(ready_, number);
    const Orphan orphan = orphans_.take(number);
    const NodeId parent = find(orphan.parent);
    if (parent == kNoNode || is_unplaced(nodes_[parent])) {  // forgotten again meanwhile
      tally(Count::orphans_dropped);
      lose(Tier::gpu, orphan.blocks());
      continue;
    }
    decode_event(orphan.raw, orphan_batch_);
    place(orphan_batch_, orphan_batch_.events.at(0), tip_of(parent), &orphan.cancelled);
    tally(Count::orphans_stitched);
    for (uint64_t hash : orphan.hashes) orphans_.children_of(hash, ready_);
  }
}

}  // namespace kvatlas
