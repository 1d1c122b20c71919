// What a store knows of engine keys, and for how long. Files and what they cover: store_files.cpp; the
// whole of it, saved, loaded or exported: store_content.cpp.
#include "ingest/native/store.hpp"

#include <algorithm>

namespace kvatlas {
namespace {

constexpr uint32_t kNoSegmentOfStore = ~0u;

uint64_t bounded(uint64_t blocks_max, uint64_t known_max) {
  return blocks_max < kNodesMax && known_max < kNodesMax ? std::min<uint64_t>(blocks_max + known_max, kNodesMax) : kNodesMax;
}

}  // namespace

Store::Store(uint32_t lane, uint64_t blocks_max, uint64_t known_max)
    : lane_(lane), blocks_max_(blocks_max), known_max_(known_max), entries_max_(bounded(blocks_max, known_max)),
      by_engine_key_(EngineKeyOf{&entries_}), by_key_(KeyOf{&entries_}) {}

void Store::teach(const std::vector<Lesson>& lessons, ResidencyChanges& changes) {
  std::lock_guard turn(mutex_);
  if (retired_) return;
  for (const Lesson& lesson : lessons) by_engine_key_.prefetch(lesson.engine_key);
  // All first, so that a chunk whose last block is among them finds the others.
  for (const Lesson& lesson : lessons) {
    const EntryId id = entry(lesson.engine_key);
    if (id == kNoEntry) {
      ++counts_.refused;
      continue;
    }
    entries_[id].used = 1;
    if (lesson.parent != 0) link(id, lesson.parent, changes);
    if (!lesson.has_meaning || entries_[id].placed != 0 || !place(id, lesson) || entries_[id].covers == 0) continue;
    ++n_resident_;
    emit(id, true, changes);
  }
  if (n_files_ == 0) return;
  for (const Lesson& lesson : lessons) {
    const EntryId id = by_engine_key_.find(lesson.engine_key);
    if (id == kNoEntry) continue;
    const Entry& file = entries_[id];
    if (file.is_file() && file.placed != 0 && file.covering == 0 && counts_now(file) && !cover(id, changes)) ++counts_.refused;
  }
}

std::optional<Meaning> Store::find(uint64_t engine_key) const {
  std::lock_guard turn(mutex_);
  const EntryId id = by_engine_key_.find(engine_key);
  if (id == kNoEntry || entries_[id].placed == 0) return std::nullopt;
  return meaning_of(entries_[id]);
}

std::vector<Lesson> Store::chain(uint64_t engine_key, uint32_t n, std::vector<Meaning>& meanings) const {
  std::lock_guard turn(mutex_);
  std::vector<EntryId> ids;
  for (EntryId at = by_engine_key_.find(engine_key); at != kNoEntry && ids.size() < n && entries_[at].placed != 0; at = entries_[at].parent)
    ids.push_back(at);
  std::reverse(ids.begin(), ids.end());
  meanings.clear();
  for (EntryId id : ids) meanings.push_back(meaning_of(entries_[id]));
  std::vector<Lesson> lessons;
  for (size_t i = 0; i < ids.size(); ++i) {
    const Meaning& meaning = meanings[i];
    lessons.push_back({entries_[ids[i]].engine_key, i == 0 ? 0 : entries_[ids[i - 1]].engine_key, true, meaning.block_size,
                       meaning.first_block, meaning.segment_key, meaning.keys.data(), static_cast<uint32_t>(meaning.keys.size())});
  }
  return lessons;
}

EntryId Store::entry(uint64_t engine_key) {
  EntryId id = by_engine_key_.find(engine_key);
  if (id != kNoEntry) return id;
  if (entries_.size() >= entries_max_ && !make_room()) return kNoEntry;
  id = entries_.allocate();
  entries_[id] = Entry{};
  entries_[id].engine_key = engine_key;
  entries_[id].parent = kNoEntry;
  entries_[id].segment = kNoSegmentOfStore;
  by_engine_key_.insert(engine_key, id);
  return id;
}

// The block before it, once and for all; files that ended here since it was not known go on. A server
// may say anything: a circle keeps its blocks in memory, no more.
void Store::link(EntryId id, uint64_t parent_key, ResidencyChanges& changes) {
  Entry& child = entries_[id];
  if (child.parent != kNoEntry) return;
  const EntryId parent = by_engine_key_.find(parent_key);
  if (parent == kNoEntry || parent == id || entries_[parent].children == kStoreChildrenMax) return;
  const Entry& above = entries_[parent];
  const bool both_keyed = child.placed != 0 && above.placed != 0 && child.shape != kNoKeys && above.shape != kNoKeys;
  if (both_keyed && first_block(above) + stride(above) != first_block(child)) return;
  std::vector<EntryId> files;
  if (const auto cut = cut_at_.find(id); cut != cut_at_.end()) files = cut->second;
  for (EntryId file : files) uncover(file, changes);
  child.parent = parent;
  entries_[parent].children = entries_[parent].children + 1;
  for (EntryId file : files)
    if (!cover(file, changes)) ++counts_.refused;
}

// ---- meanings ----

bool Store::place(EntryId id, const Lesson& lesson) {
  int shape = static_cast<int>(kNoKeys);
  if (lesson.n_keys > 0) shape = shape_for(lesson.block_size, lesson.n_keys);
  if (shape < 0) {
    ++counts_.refused;
    return false;
  }
  Entry& entry = entries_[id];
  entry.shape = static_cast<uint32_t>(shape) & 7u;
  if (lesson.n_keys > 0) place_keys(entry, lesson);
  entry.placed = 1;
  if (entry.is_file()) {
    --n_waiting_;
    ++counts_.placed_late;
  }
  return true;
}

void Store::place_keys(Entry& entry, const Lesson& lesson) {
  Shape& shape = shapes_[entry.shape];
  if (!shape.is_inline()) {
    const uint32_t slot = shape.allocate();
    entry.key = slot;
    std::copy(lesson.keys, lesson.keys + lesson.n_keys, shape.keys.begin() + static_cast<std::ptrdiff_t>(size_t{slot} * shape.stride));
    shape.first_blocks[slot] = lesson.first_block;
    shape.segment_keys[slot] = lesson.segment_key;
    return;
  }
  entry.key = lesson.keys[0];
  entry.offset = lesson.first_block % kSegmentBlocks;
  const uint32_t base = lesson.first_block - lesson.first_block % kSegmentBlocks;
  auto is_it = [&](uint32_t segment) {
    return segment != kNoSegmentOfStore && segments_[segment].refs > 0 && segments_[segment].first_key == lesson.segment_key && segments_[segment].base == base;
  };
  const uint32_t above = entry.parent == kNoEntry ? kNoSegmentOfStore : entries_[entry.parent].segment;
  entry.segment = is_it(above) ? above : is_it(last_segment_) ? last_segment_ : segments_.add(lesson.segment_key, base);
  segments_.retain(entry.segment);
  last_segment_ = entry.segment;
}

int Store::shape_for(uint32_t block_size, uint32_t stride) {
  for (size_t i = 0; i < shapes_.size(); ++i)
    if (shapes_[i].block_size == block_size && shapes_[i].stride == stride) return static_cast<int>(i);
  if (shapes_.size() == kStoreShapesMax) return -1;
  if (stride != 1 && !counting_) begin_counting();
  Shape shape{};
  shape.block_size = block_size;
  shape.stride = stride;
  shapes_.push_back(std::move(shape));
  return static_cast<int>(shapes_.size() - 1);
}

uint32_t Store::first_block(const Entry& entry) const {
  const Shape& shape = shapes_[entry.shape];
  return shape.is_inline() ? segments_[entry.segment].base + static_cast<uint32_t>(entry.offset) : shape.first_blocks[entry.key];
}

Meaning Store::meaning_of(const Entry& entry) const {
  Meaning meaning{};
  if (entry.shape == kNoKeys) return meaning;
  const Shape& shape = shapes_[entry.shape];
  meaning.block_size = shape.block_size;
  meaning.first_block = first_block(entry);
  meaning.segment_key = shape.is_inline() ? segments_[entry.segment].first_key : shape.segment_keys[entry.key];
  each_key(entry, [&](uint64_t, uint64_t key) { meaning.keys.push_back(key); });
  return meaning;
}

// ---- room ----

// Frees what is in no file and has not been used since the hand came by last; with it the blocks before
// it, as far as the same holds.
bool Store::make_room() {
  if (is_stuck_) return false;
  auto is_in_file = [this](const Entry& entry) { return entry.is_file() || entry.covers > 0; };
  for (uint64_t left = 2 * uint64_t{entries_.end()}; left > 0; --left) {
    const EntryId id = hand_;
    hand_ = hand_ + 1 >= entries_.end() ? 0 : hand_ + 1;
    Entry& entry = entries_[id];
    if (entry.parent == kFreeEntry || is_in_file(entry)) continue;
    const bool was_used = entry.used != 0;
    entry.used = 0;
    if (was_used || entry.children > 0) continue;
    for (EntryId at = id; at != kNoEntry;) {
      const Entry& idle = entries_[at];
      if (is_in_file(idle) || idle.used != 0 || idle.children > 0) break;
      const EntryId above = idle.parent;
      free_entry(at);
      ++counts_.forgotten;
      at = above;
    }
    return true;
  }
  is_stuck_ = true;
  return false;
}

void Store::let_go(EntryId id) {
  const Entry& entry = entries_[id];
  is_stuck_ = false;
  if (!entry.is_file() && entry.placed == 0 && entry.covers == 0 && entry.children == 0) free_entry(id);
}

// REQUIRES: no file, not covered, without children.
void Store::free_entry(EntryId id) {
  const Entry& entry = entries_[id];
  by_engine_key_.erase(entry.engine_key, id);
  if (entry.placed != 0 && entry.shape != kNoKeys) {
    Shape& shape = shapes_[entry.shape];
    if (shape.is_inline()) segments_.release(entry.segment);
    else shape.free.push_back(static_cast<uint32_t>(entry.key));
  }
  if (entry.parent != kNoEntry) entries_[entry.parent].children = entries_[entry.parent].children - 1;
  entries_.release(id);
  is_stuck_ = false;
}

void Store::forget_all() {
  entries_ = EntryPool();
  by_engine_key_ = NodeIndex<EngineKeyOf>(EngineKeyOf{&entries_});
  by_key_ = NodeIndex<KeyOf>(KeyOf{&entries_});
  counting_ = false;
  key_counts_.clear();
  segments_ = Segments();
  last_segment_ = kNoSegmentOfStore;
  shapes_.clear();
  masks_ = {0};
  more_covers_.clear();
  cut_at_.clear();
  waiting_.clear();
  n_files_ = n_waiting_ = n_resident_ = 0;
  is_stuck_ = false;
  hand_ = 0;
}

void Store::clear() {
  std::lock_guard turn(mutex_);
  forget_all();
  removed_at_.clear();
  removed_order_.clear();
  inventory_owner_ = 0;
  floor_s_ = kNoTime;
}

void Store::retire() {
  clear();
  std::lock_guard turn(mutex_);
  retired_ = true;
}

void Store::forget_meanings() {
  std::lock_guard turn(mutex_);
  struct File {
    uint64_t engine_key, groups;
    uint32_t chunk_blocks;
    bool seen;
  };
  std::vector<File> files;
  for (EntryId id = 0; id < entries_.end(); ++id)
    if (const Entry& e = entries_[id]; e.is_file()) files.push_back({e.engine_key, groups_of(e), e.chunk_blocks(), e.seen != 0});
  forget_all();
  for (const File& file : files) {
    const EntryId id = entry(file.engine_key);
    const int number = id == kNoEntry ? -1 : mask_number(file.groups);
    if (number < 0) continue;
    Entry& waiting = entries_[id];
    waiting.groups = static_cast<uint32_t>(number) & 15u;
    waiting.chunk = (file.chunk_blocks - 1) & 4095u;
    waiting.seen = file.seen;
    ++n_files_;
    begin_waiting(id);
  }
}

Store::Statistics Store::statistics() const {
  std::lock_guard turn(mutex_);
  Statistics s = counts_;
  s.blocks = n_resident_;
  s.known = entries_.size();
  s.files = n_files_;
  s.waiting = n_waiting_;
  s.bytes = sizeof *this + entries_.bytes() + by_engine_key_.bytes() + by_key_.bytes() + key_counts_.bytes() + segments_.bytes() +
            more_covers_.size() * 48 + cut_at_.size() * 96 + waiting_.size() * 8 + removed_at_.size() * 48;
  for (const Shape& shape : shapes_) s.bytes += shape.bytes();
  return s;
}

uint64_t Store::size() const {
  std::lock_guard turn(mutex_);
  return n_resident_;
}

}  // namespace kvatlas
