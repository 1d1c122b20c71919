// The mirror and stores of KV files: it teaches them what engine keys mean, and tells them of files.
#include <algorithm>

#include "ingest/native/mirror.hpp"

namespace kvatlas {

void Mirror::set_stores(std::shared_ptr<Store> disk, std::shared_ptr<Store> storage, std::vector<std::shared_ptr<Store>> attached,
                        bool storage_is_shared) {
  std::lock_guard turn(mutex_);
  auto is_attached = [&](const std::shared_ptr<Store>& store) { return store && std::find(attached.begin(), attached.end(), store) != attached.end(); };
  attached_tiers_ = (is_attached(disk) ? 4u : 0u) | (is_attached(storage) ? 8u : 0u);
  storage_left_out_ = !storage && !storage_is_shared;
  disk_ = std::move(disk);
  storage_ = std::move(storage);
  attached.swap(attached_);
  for (const auto& store : attached_)
    if (std::find(attached.begin(), attached.end(), store) == attached.end()) teach_all(*store);
}

void Mirror::set_chunk_blocks(uint32_t blocks) {
  std::lock_guard turn(mutex_);
  chunk_blocks_ = std::max(blocks, 1u);
}

void Mirror::set_announcer() {
  std::lock_guard turn(mutex_);
  announces_ = true;
}

// ---- teaching ----

// What the node means, for stores. Not of parts: files of them cannot be placed.
void Mirror::learn(NodeId id, uint64_t parent_key) {
  const Node& node = nodes_[id];
  if (part_of(node) != nullptr || is_unplaced(node)) return;
  Lesson lesson{node.engine_key, parent_key, true};
  if (node.is(kIndexed)) {
    const Shape& shape = shapes_[node.shape];
    lesson.block_size = shape.block_size;
    lesson.first_block = shape.is_inline() ? segments_[node.segment].base + node.offset : shape.first_blocks[node.key];
    lesson.segment_key = shape.is_inline() ? segments_[node.segment].first_key : shape.segment_keys[node.key];
    lesson.keys = shape.is_inline() ? &node.key : &shape.keys[node.key * shape.stride];
    lesson.n_keys = shape.stride;
  }
  lessons_.push_back(lesson);
}

// REQUIRES: no node has come since learn(); its keys are pointed at.
void Mirror::teach_attached() {
  if (lessons_.empty()) return;
  for (const auto& store : attached_) {
    store->teach(lessons_, changes_);
    emit_changes(*store);
  }
  lessons_.clear();
}

void Mirror::teach_all(Store& store) {
  for (NodeId id = 0; id < nodes_.end(); ++id) {
    const Node& node = nodes_[id];
    if (!node.is_found()) continue;
    const bool has_parent = !node.is(kGhost) && node.gpu > 0 && node.parent < kFree;
    learn(id, has_parent ? nodes_[node.parent].engine_key : 0);
  }
  std::stable_sort(lessons_.begin(), lessons_.end(), [](const Lesson& one, const Lesson& other) { return one.first_block < other.first_block; });
  store.teach(lessons_, changes_);
  std::vector<Lesson>().swap(lessons_);
  emit_changes(store);
}

void Mirror::emit_changes(const Store& store) {
  const auto tier = static_cast<uint8_t>(&store == disk_.get() ? Tier::disk : Tier::storage);
  for (const ResidencyChange& change : changes_) put(change.on ? DeltaOp::add : DeltaOp::remove, tier, store.lane(), change.segment_key, change.key);
  changes_.clear();
}

// ---- files ----

// A self-describing store is one file with all blocks that it names, in their order; any other names the
// last block of each file.
void Mirror::stored_in_store(const Batch& batch, const Event& event, Store& store) {
  const uint64_t* hashes = batch.hashes.data() + event.hashes.begin;  // of none, perhaps behind the last
  const uint32_t n = event.hashes.count;
  const bool is_chunk = event.chunk_blocks == 0 && n > 1 && event.block_size > 0 && event.tokens.count == uint64_t{n} * event.block_size;
  const uint32_t chunk_blocks = is_chunk ? n : std::max(event.chunk_blocks, chunk_blocks_);
  std::vector<bool> is_part(n, false);
  for (uint32_t i = 0; i < n; ++i) {
    const NodeId id = find(hashes[i]);
    const uint64_t parent = !is_chunk ? 0 : i == 0 ? event.parent : hashes[i - 1];
    is_part[i] = id != kNoNode && part_of(nodes_[id]) != nullptr;
    const bool is_known = id != kNoNode && !is_unplaced(nodes_[id]);
    if (is_known) learn(id, parent);
    else learn_elsewhere(hashes[i], is_chunk ? 1 : chunk_blocks, store);
    if (is_chunk && !is_known) lessons_.push_back({hashes[i], parent, false});
  }
  store.teach(lessons_, changes_);
  lessons_.clear();
  for (uint32_t i = 0; i < n; ++i) {
    if (is_part[i]) {
      tally(Count::store_parts);
      lose(event.tier, 1);
    } else if (!is_chunk) {
      hold(hashes[i], event, chunk_blocks, 1, store);
    } else if (i + 1 == n) {
      hold(hashes[i], event, chunk_blocks, n, store);
    }
  }
  emit_changes(store);
}

// What another store of the worker's knows of a file's blocks.
void Mirror::learn_elsewhere(uint64_t engine_key, uint32_t chunk_blocks, Store& store) {
  std::vector<Meaning> meanings;
  for (const auto& other : attached_) {
    if (other.get() == &store || store.find(engine_key)) continue;
    store.teach(other->chain(engine_key, chunk_blocks, meanings), changes_);
  }
}

void Mirror::hold(uint64_t engine_key, const Event& event, uint32_t chunk_blocks, uint32_t n_named, Store& store) {
  switch (store.hold(engine_key, event.group, chunk_blocks, time_s_, announces_ ? owner() : 0, changes_)) {
    case Store::Held::now:
    case Store::Held::before: return tally(Count::blocks_stored, n_named);
    case Store::Held::waits: return tally(Count::store_waiting, n_named);
    case Store::Held::stale: return tally(Count::store_stale, n_named);
    case Store::Held::no_room: tally(Count::store_full, n_named); return lose(event.tier, n_named);
  }
}

void Mirror::removed_from_store(const Batch& batch, const Event& event, Store* store) {
  const uint64_t* hashes = batch.hashes.data() + event.hashes.begin;  // of none, perhaps behind the last
  Store::Released released;
  if (store != nullptr) released = store->release(hashes, event.hashes.count, event.group, time_s_, changes_);
  else released.unknown.assign(hashes, hashes + event.hashes.count);
  tally(Count::blocks_removed, released.removed);
  for (uint64_t engine_key : released.unknown) tally(find(engine_key) == kNoNode ? Count::removed_unknown : Count::removed_not_held);
  if (store != nullptr) emit_changes(*store);
}

// Of an announcer: it begins to name all files of its store, or has named them.
void Mirror::take_inventory(const Event& event) {
  if (!storage_) return;
  if (event.begins_inventory) storage_->begin_inventory(owner(), time_s_);
  if (!event.ends_inventory) return;
  tally(Count::inventories);
  storage_->end_inventory(owner(), changes_);
  emit_changes(*storage_);
}

}  // namespace kvatlas
