// A store's files: which there are, what they cover, and what that makes resident.
#include <algorithm>
#include <cmath>

#include "ingest/native/store.hpp"

namespace kvatlas {

Store::Held Store::hold(uint64_t engine_key, uint16_t group, uint32_t chunk_blocks, double time_s, uint64_t owner,
                        ResidencyChanges& changes) {
  std::lock_guard turn(mutex_);
  if (retired_) return Held::no_room;
  const uint64_t bit = uint64_t{1} << group;
  EntryId id = by_engine_key_.find(engine_key);
  const bool is_held = id != kNoEntry && (groups_of(entries_[id]) & bit) != 0;
  if (is_old_news(name_of(engine_key, group), time_s, is_held, owner != 0 && owner == inventory_owner_)) {
    ++counts_.stale;
    return Held::stale;
  }
  if (id == kNoEntry) id = entry(engine_key);
  const int number = id == kNoEntry ? -1 : mask_number(groups_of(entries_[id]) | bit);
  if (number < 0) {
    if (id != kNoEntry) let_go(id);
    ++counts_.refused;
    return Held::no_room;
  }
  Entry& file = entries_[id];
  const bool is_new = !file.is_file();
  const uint32_t blocks = std::max(std::clamp(chunk_blocks, 1u, kChunkBlocksMax), is_new ? 1u : file.chunk_blocks());
  file.seen = file.used = 1;
  if (file.covering != 0 && blocks > file.chunk_blocks()) uncover(id, changes);
  file.groups = static_cast<uint32_t>(number) & 15u;
  file.chunk = (blocks - 1) & 4095u;
  if (is_new) ++n_files_;
  if (file.placed == 0) {
    if (!is_new) return is_held ? Held::before : Held::waits;
    begin_waiting(id);
    if (by_engine_key_.find(engine_key) != kNoEntry) return Held::waits;
    ++counts_.refused;
    return Held::no_room;
  }
  if (file.covering != 0) show(id, changes);
  if (file.covering != 0 || !counts_now(file) || cover(id, changes)) return is_held ? Held::before : Held::now;
  remove_file(id, changes);
  ++counts_.refused;
  return Held::no_room;
}

Store::Released Store::release(const uint64_t* engine_keys, uint32_t n, uint16_t group, double time_s, ResidencyChanges& changes) {
  std::lock_guard turn(mutex_);
  Released out;
  const uint64_t bit = uint64_t{1} << group;
  std::unordered_set<uint64_t> inside;  // blocks of files that are named
  std::vector<uint64_t> others;
  for (uint32_t i = 0; i < n; ++i) {
    if (!note_removed(name_of(engine_keys[i], group), time_s)) {
      ++counts_.stale;
      continue;
    }
    const EntryId id = by_engine_key_.find(engine_keys[i]);
    if (id == kNoEntry || (groups_of(entries_[id]) & bit) == 0) {
      others.push_back(engine_keys[i]);
      continue;
    }
    Entry& file = entries_[id];
    ++out.removed;
    if (file.chunk > 0) each_covered(id, [&](EntryId at) { inside.insert(entries_[at].engine_key); });
    const uint64_t left = groups_of(file) & ~bit;
    const int number = left == 0 ? -1 : mask_number(left);
    if (number < 0) {
      remove_file(id, changes);
      continue;
    }
    file.groups = static_cast<uint32_t>(number) & 15u;
    if (file.covering != 0 && !counts_now(file)) uncover(id, changes);
  }
  for (uint64_t engine_key : others) {
    const EntryId id = by_engine_key_.find(engine_key);
    const bool is_inside = inside.contains(engine_key);
    // A block of a file that is not named itself: the speaker's files are blocks, whatever it said before.
    const bool is_block = !is_inside && id != kNoEntry && entries_[id].covers > 0 && !entries_[id].is_file();
    if (is_block) hide(id, changes);
    if (is_inside || is_block) ++out.removed;
    else out.unknown.push_back(engine_key);
  }
  return out;
}

void Store::remove_file(EntryId id, ResidencyChanges& changes) {
  Entry& file = entries_[id];
  if (file.covering != 0) uncover(id, changes);
  if (file.placed == 0) --n_waiting_;
  --n_files_;
  file.groups = 0;
  file.chunk = 0;
  let_go(id);
}

void Store::need_groups(uint64_t groups, ResidencyChanges& changes) {
  std::lock_guard turn(mutex_);
  if (groups == needed_) return;
  needed_ = groups;
  for (EntryId id = 0; id < entries_.end(); ++id)
    if (entries_[id].covering != 0 && !counts_now(entries_[id])) uncover(id, changes);
  for (EntryId id = 0; id < entries_.end(); ++id) {
    const Entry& file = entries_[id];
    if (file.placed != 0 && file.covering == 0 && counts_now(file) && !cover(id, changes)) ++counts_.refused;
  }
}

bool Store::counts_now(const Entry& entry) const { return entry.is_file() && (groups_of(entry) & needed_) == needed_; }

// -1: there are too many different sets already.
int Store::mask_number(uint64_t mask) {
  const auto found = std::find(masks_.begin(), masks_.end(), mask);
  if (found != masks_.end()) return static_cast<int>(found - masks_.begin());
  if (masks_.size() == kGroupMasksMax) return -1;
  masks_.push_back(mask);
  return static_cast<int>(masks_.size() - 1);
}

// ---- files that wait ----

void Store::begin_waiting(EntryId id) {
  ++n_waiting_;
  waiting_.push_back(entries_[id].engine_key);
  trim_waiting();
}

void Store::trim_waiting() {
  auto waits = [this](uint64_t engine_key) {
    const EntryId id = by_engine_key_.find(engine_key);
    return id != kNoEntry && entries_[id].is_file() && entries_[id].placed == 0;
  };
  while (n_waiting_ > known_max_) {
    const uint64_t oldest = waiting_.front();
    waiting_.pop_front();
    if (!waits(oldest)) continue;
    ResidencyChanges none;
    remove_file(by_engine_key_.find(oldest), none);
    ++counts_.waiting_dropped;
  }
  if (waiting_.size() <= 2 * n_waiting_ + 64) return;
  std::unordered_set<uint64_t> kept;
  std::erase_if(waiting_, [&](uint64_t engine_key) { return !waits(engine_key) || !kept.insert(engine_key).second; });
}

// ---- what files cover ----

// False, and nothing is: more would be resident than may be.
bool Store::cover(EntryId id, ResidencyChanges& changes) {
  uint64_t n_new = 0;
  each_covered(id, [&](EntryId at) { n_new += entries_[at].covers == 0; });
  if (n_resident_ + n_new > blocks_max_) return false;
  entries_[id].covering = 1;
  each_covered(id, [&](EntryId at) { add_cover(at, changes); });
  if (const EntryId end = cut_end(id); end != kNoEntry) cut_at_[end].push_back(id);
  return true;
}

void Store::uncover(EntryId id, ResidencyChanges& changes) {
  entries_[id].covering = 0;
  is_stuck_ = false;
  if (const auto cut = cut_at_.find(cut_end(id)); cut != cut_at_.end()) {
    std::erase(cut->second, id);
    if (cut->second.empty()) cut_at_.erase(cut);
  }
  each_covered(id, [&](EntryId at) { drop_cover(at, changes); });
}

// The block before which the file's others are not known; kNoEntry: all are.
EntryId Store::cut_end(EntryId id) const {
  uint32_t n = 0;
  EntryId end = kNoEntry;
  each_covered(id, [&](EntryId at) { ++n, end = at; });
  return n < entries_[id].chunk_blocks() ? end : kNoEntry;
}

void Store::add_cover(EntryId id, ResidencyChanges& changes) {
  Entry& entry = entries_[id];
  if (entry.covers == kCoversMax) {
    ++more_covers_[id];
    return;
  }
  entry.covers = entry.covers + 1;
  if (entry.covers > 1 || entry.placed == 0) return;
  ++n_resident_;
  emit(id, true, changes);
}

void Store::drop_cover(EntryId id, ResidencyChanges& changes) {
  Entry& entry = entries_[id];
  if (entry.covers == 0) return;  // hidden meanwhile
  if (const auto more = more_covers_.find(id); entry.covers == kCoversMax && more != more_covers_.end()) {
    if (--more->second == 0) more_covers_.erase(more);
    return;
  }
  entry.covers = entry.covers - 1;
  if (entry.covers > 0 || entry.placed == 0) return;
  --n_resident_;
  emit(id, false, changes);
}

void Store::hide(EntryId id, ResidencyChanges& changes) {
  more_covers_.erase(id);
  entries_[id].covers = 1;
  drop_cover(id, changes);
}

// The file is announced again: it is whole, whatever was said of single blocks.
void Store::show(EntryId id, ResidencyChanges& changes) {
  each_covered(id, [&](EntryId at) {
    if (entries_[at].covers == 0 && n_resident_ < blocks_max_) add_cover(at, changes);
  });
}

void Store::emit(EntryId id, bool on, ResidencyChanges& changes) {
  const bool is_inline = entries_[id].shape != kNoKeys && shapes_[entries_[id].shape].is_inline();
  if (!counting_ && is_inline && !on) by_key_.erase(entries_[id].key, id);
  each_key(entries_[id], [&](uint64_t segment_key, uint64_t key) {
    const bool turns = counting_ ? (on ? key_counts_.enter(key, 0, 1) : key_counts_.leave(key, 0, 1)) : by_key_.find(key) == kNoEntry;
    if (turns) changes.push_back({segment_key, key, on});
  });
  if (!counting_ && is_inline && on) by_key_.insert(entries_[id].key, id);
}

// Engine blocks that are not one index block begin to come: all that is resident is counted now.
void Store::begin_counting() {
  counting_ = true;
  for (EntryId id = 0; id < entries_.end(); ++id)
    if (entries_[id].covers > 0) each_key(entries_[id], [&](uint64_t, uint64_t key) { key_counts_.enter(key, 0, 1); });
  by_key_ = NodeIndex<KeyOf>(KeyOf{&entries_});
}

// ---- order among streams ----

bool Store::is_old_news(uint64_t name, double time_s, bool is_held, bool is_listed) {
  if (std::isnan(time_s)) return false;
  if (!is_held && time_s < floor_s_ - kSkewS) return true;
  const auto removal = removed_at_.find(name);
  if (removal == removed_at_.end()) return false;
  if (time_s < removal->second.removed_s + (is_listed ? kSkewS : -kSkewS)) return true;
  removal->second.stored_s = std::fmax(removal->second.stored_s, time_s);
  return false;
}

// False: the file has been stored again since.
bool Store::note_removed(uint64_t name, double time_s) {
  if (std::isnan(time_s)) return true;
  const auto [at, is_new] = removed_at_.try_emplace(name, Removal{time_s, kNoTime});
  if (!is_new && time_s < at->second.stored_s - kSkewS) return false;
  at->second.removed_s = std::max(at->second.removed_s, time_s);
  if (is_new) removed_order_.push_back(name);
  if (removed_order_.size() <= kRemovedMax) return true;
  removed_at_.erase(removed_order_.front());
  removed_order_.pop_front();
  return true;
}

void Store::begin_inventory(uint64_t owner, double time_s) {
  std::lock_guard turn(mutex_);
  if (retired_) return;
  inventory_owner_ = owner;
  inventory_began_s_ = time_s;
  for (EntryId id = 0; id < entries_.end(); ++id)
    if (entries_[id].is_file()) entries_[id].seen = 0;
}

uint64_t Store::end_inventory(uint64_t owner, ResidencyChanges& changes) {
  std::lock_guard turn(mutex_);
  if (inventory_owner_ != owner || owner == 0) return 0;
  inventory_owner_ = 0;
  if (!std::isnan(inventory_began_s_)) floor_s_ = inventory_began_s_;
  uint64_t n_gone = 0;
  for (EntryId id = 0; id < entries_.end(); ++id) {
    if (entries_[id].parent == kFreeEntry || !entries_[id].is_file() || entries_[id].seen != 0) continue;
    remove_file(id, changes);
    ++n_gone;
  }
  counts_.swept += n_gone;
  return n_gone;
}

void Store::cancel_inventory(uint64_t owner) {
  std::lock_guard turn(mutex_);
  if (inventory_owner_ == owner) inventory_owner_ = 0;
}

}  // namespace kvatlas
