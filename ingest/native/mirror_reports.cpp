// Copies on gpu: what a store proves, a report or a true copy, and blocks whose place comes later.
#include <algorithm>
#include <bit>
#include <cstring>

#include "ingest/native/mirror.hpp"

namespace kvatlas {
namespace {

bool from_nil(const Event& event) {
  return event.type == EventType::stored && event.tier == Tier::gpu && event.parent == 0 && event.tokens.count > 0 && event.block_size > 0;
}
uint64_t room(const Event& event) { return static_cast<uint64_t>(event.hashes.count) * event.block_size; }

// One prompt's stores: the same tokens, one event a group, groups in order.
bool belong_together(const Batch& batch, const Event& one, const Event& next) {
  return from_nil(next) && next.group > one.group && next.tokens.count == one.tokens.count &&
         std::memcmp(&batch.tokens[one.tokens.begin], &batch.tokens[next.tokens.begin], one.tokens.count * sizeof(uint32_t)) == 0;
}

}  // namespace

// Which events from parent nil are true copies; see mirror.hpp. A worker of one group has none to judge by.
void Mirror::judge(const Batch& batch) {
  true_copies_.clear();
  if (std::has_single_bit(groups_)) return;
  true_copies_.resize(batch.events.size());
  const bool complete = !incomplete_ && lost_blocks_ == 0 && forgotten_maybe_gpu_ == 0 && orphans_.blocks() == 0;
  for (size_t begin = 0, end = 0; begin < batch.events.size(); begin = end) {
    end = begin + 1;
    if (!from_nil(batch.events[begin])) continue;
    while (end < batch.events.size() && belong_together(batch, batch.events[end - 1], batch.events[end])) ++end;
    if (end == begin + 1) continue;
    bool is_true = false;
    for (size_t i = begin; i < end && !is_true; ++i) {
      const Event& event = batch.events[i];
      is_true = event.tokens.count > room(event) || (complete && event.tokens.count == room(event) && is_no_hit(batch, event));
    }
    for (size_t i = begin; i < end; ++i) true_copies_[i] = is_true;
  }
}

// Whether the engine cannot have found all that the event names: for it needs, of a full group every
// block, of a sliding window its last ones.
bool Mirror::is_no_hit(const Batch& batch, const Event& event) const {
  uint32_t needed = event.hashes.count;
  if ((full_groups_ >> event.group & 1) == 0) {
    if (!event.has_window || event.window == 0 || !event.kind.present || !event.kind.value.starts_with("sliding_window")) return false;
    needed = std::min(needed, (event.window - 1 + event.block_size - 1) / event.block_size);
  }
  for (uint32_t i = event.hashes.count - needed; i < event.hashes.count; ++i) {
    const NodeId id = find(batch.hashes[event.hashes.begin + i]);
    const Copies held = id == kNoNode ? Copies{} : copies(id, event.group);
    if (held.gpu == 0 && !held.gpu_more) return true;
  }
  return false;
}

// Held by its engine key until a dense store tells where it belongs.
NodeId Mirror::create_unplaced(uint64_t engine_key) {
  const NodeId id = new_node(engine_key);
  if (id == kNoNode) return kNoNode;
  nodes_[id].key = kUnplacedKey;
  by_engine_key_.insert(engine_key, id);
  return id;
}

// Where it belongs is known now: what is held of it becomes resident. False: no room, counted.
bool Mirror::settle_unplaced(NodeId id, const Tip& tip, const Batch& batch, const Event& event, uint32_t i) {
  BlockExtras extras;
  const std::optional<int> shape = shape_at(tip, batch, event, i, extras);
  if (!shape) return false;
  keep(id);
  std::array<uint8_t, 64> held{};
  for (uint16_t group = 0; group < lanes_.size(); ++group) {
    if ((groups_ >> group & 1) == 0) continue;
    held[group] = copies(id, group).mask();
    if (held[group] != 0 && *shape != kUnindexed) --sums_.unindexed;
  }
  nodes_[id].key = 0;
  key_node(id, *shape, tip, &batch.tokens[event.tokens.begin + static_cast<size_t>(i) * event.block_size], extras);
  enter(id);
  for (uint16_t group = 0; group < lanes_.size(); ++group)
    for (uint8_t tier : {uint8_t{1}, uint8_t{2}, uint8_t{16}})
      if (held[group] & tier) emit(id, group, tier, true);
  return true;
}

void Mirror::end_event() {
  for (NodeId id : this_event_) nodes_[id].set(kThisEvent, false);
  this_event_.clear();
}

// One more copy on gpu, unless the event may be a report of a copy already held. A block that the
// event names twice is no report (kThisEvent).
void Mirror::add_gpu(NodeId id, const Event& event, NodeId parent) {
  const bool named_before = nodes_[id].is(kThisEvent);
  if (!named_before) {
    nodes_[id].set(kThisEvent, true);
    this_event_.push_back(id);
  }
  const Copies before = copies(id, event.group);
  Copies now = before;
  if (!before.sure_on_gpu()) {
    now.gpu = 1;
    // What may be a report may name the copy that waits for its parent: the two count as one.
    const bool waits = !is_copy_ && !orphans_.empty() && orphans_.cancel(nodes_[id].engine_key, event.group);
    now.gpu_more |= before.gpu > 0 || waits;
    now.stale &= static_cast<uint8_t>(~1);
  } else if (is_copy_ || named_before) {
    if (now.gpu < kCopiesMax) {
      ++now.gpu;
    } else {
      now.gpu_more = true;
      tally(Count::copies_saturated);
    }
    tally(Count::duplicates);
  } else {
    now.gpu_more = true;
    tally(Count::reported);
  }
  change(id, event.group, before, now, parent);
}

// A group that keeps only some blocks may be reported with absent ones: from parent nil only a block
// that is new, to a mirror that has missed nothing, or one already held for sure, is there.
bool Mirror::proves(NodeId id, const Event& event, bool is_new) const {
  return is_copy_ || (is_new && !incomplete_) || copies(id, event.group).sure_on_gpu();
}

void Mirror::reported_in_sparse(NodeId id, const Event& event, bool is_new) {
  const Copies before = copies(id, event.group);
  if (!is_new || before.gpu > 0) {
    tally(Count::reported);
    return suspect(id, event.group);
  }
  Copies now = before;
  now.gpu = 1;
  now.stale |= 1;
  change(id, event.group, before, now, kNoNode);
  tally(Count::blocks_stored);
}

// The engine may hold it, though it is not counted as held.
void Mirror::suspect(NodeId id, uint16_t group) {
  const Copies before = copies(id, group);
  if (before.gpu > 0 || before.gpu_more) return;
  Copies now = before;
  now.gpu_more = true;
  change(id, group, before, now, kNoNode);
}

}  // namespace kvatlas
