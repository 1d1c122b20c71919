#include "index/native/table.hpp"

#include <algorithm>
#include <cstring>

#include "index/native/delta.hpp"
#include "index/native/table_rebuild.hpp"

namespace kvatlas {
namespace {

constexpr uint64_t kStepSlots = 24;  // slots copied per key applied: done long before a generation is full
constexpr uint64_t kStepSlotsMin = 256;
constexpr uint64_t kBytesMin = 4 << 20;

}  // namespace

// Where a key will be put, in the next generation as well. Inlined by force, as Generation::prefetch.
[[gnu::always_inline]] inline void Table::prefetch(uint64_t key) const {
  const uint64_t at = live_->generation->home(key);
  live_->generation->prefetch_from(at);
  if (rebuild_ && at < rebuild_->cursor) rebuild_->next->generation->prefetch(key);
}

Table::Table(uint64_t bytes_max, const std::string& path)
    : bytes_max_(bytes_max), path_(path), heat_(bytes_max), lane_closed_(65536, false), phys_load_(65536, 0) {
  if (bytes_max < kBytesMin)
    throw Error(ErrorKind::input, "budget_bytes: expected at least " + std::to_string(kBytesMin) + ", got " + std::to_string(bytes_max));
  if (!path.empty()) control_ = std::make_unique<Control>(path);
  live_ = new_writing(0);
  live_->generation->back_slots(live_->generation->n_slots());
  if (control_) control_->publish(live_->generation->header().generation);
}

Table::~Table() { close(); }

void Table::close() {
  std::lock_guard turn(writer_);
  if (closed_) return;
  closed_ = true;
  if (rebuild_) abandon_rebuild();
  if (control_) control_->close();
}

void Table::require_open() const {
  if (closed_) throw Error(ErrorKind::table_file, "the table is closed");
}

void Table::set_whole(bool whole) {
  std::lock_guard turn(writer_);
  require_open();
  whole_.store(whole, std::memory_order_relaxed);
  if (control_) control_->set_whole(whole);
}

void Table::heartbeat() {
  std::lock_guard turn(writer_);
  require_open();
  if (control_) control_->heartbeat();
}

std::shared_ptr<const Generation> Table::pin() {
  std::lock_guard guard(pin_);
  return live_->generation;
}

uint64_t Table::apply(const uint8_t* delta, size_t bytes) {
  check_delta(delta, bytes);
  std::lock_guard turn(writer_);
  require_open();
  uint64_t n_records = 0, n_keys = 0;
  for_each_record(delta, bytes, [&](const DeltaRecord& record, const uint8_t* from) {
    ++n_records;
    n_keys += record.count;
    switch (record.op) {
      case DeltaOp::add:
      case DeltaOp::remove:
        return apply_keys({from + sizeof record, record.count, record.tiers, record.op == DeltaOp::add, record.segment_key}, record.lane, nullptr);
      case DeltaOp::clear_lane: return clear_lane(record.lane);
      case DeltaOp::close: return set_closed(record.lane, true);
      case DeltaOp::open: return set_closed(record.lane, false);
    }
  });
  heat_.pass(n_keys);
  records_ += n_records;
  return n_records;
}

void Table::apply_keys(const Keys& keys, uint32_t lane, Shadow* shadow) {
  const uint32_t count = keys.count;
  const bool add = keys.add;
  if (!add && (shadow ? shadow->phys : live_->generation->phys_of(lane)) == kNoLane) {
    removes_ += count;
    removes_missing_ += count;
    return;
  }
  constexpr uint32_t kAhead = 6;  // keys whose slots are fetched before they are needed: three lines each, as many as are under way at once
  auto key_at = [from = keys.at](uint32_t i) {
    uint64_t key;
    std::memcpy(&key, from + 8ull * i, sizeof key);
    return key;
  };
  const uint32_t tag = segment_tag(keys.segment_key);
  if (add) heat_.added(heat_.bucket_of(tag));
  for (uint32_t i = 0; i < count && i < kAhead; ++i) prefetch(Generation::normal(key_at(i)));
  const uint64_t set_bytes_before = live_->sets.bytes();
  uint64_t stepped = 0;
  for (uint32_t i = 0; i < count; ++i) {
    if (i + kAhead < count) prefetch(Generation::normal(key_at(i + kAhead)));
    const uint16_t phys = shadow ? claim_shadow(*shadow) : claim_phys(lane);
    if (phys == kNoLane) {
      dropped_adds_ += count - i;
      break;
    }
    put_or_drop(Generation::normal(key_at(i)), Change{phys, keys.tiers, add, tag});
    if (rebuild_ && (i & 63) == 63) {
      step_rebuild(64 * kStepSlots);
      stepped = i + 1;
    } else if (!rebuild_ && (i & 63) == 63 && rebuild_due()) {
      begin_rebuild();
    }
  }
  (add ? adds_ : removes_) += count;
  if (!rebuild_ && rebuild_due()) begin_rebuild();
  if (!rebuild_) return;
  // Where sets are many (few blocks alike), they run out of room first.
  const uint64_t set_bytes_now = live_->sets.bytes();
  const uint64_t grown = set_bytes_now > set_bytes_before ? set_bytes_now - set_bytes_before : 0;
  step_rebuild(kStepSlotsMin + (count - stepped) * kStepSlots + static_cast<uint64_t>(static_cast<double>(grown) * rebuild_->slots_per_set_byte));
}

void Table::put_or_drop(uint64_t key, const Change& change) {
  for (int attempt = 0; attempt < 2; ++attempt) {
    try {
      const uint64_t at = put(*live_, key, change);
      copied(at);
      if (rebuild_ && rebuild_->next) written(at, key, change);
      return;
    } catch (const Error&) {
      // No room in this generation. Where there was none for the next one either, not at once again.
      if (attempt > 0 || adds_ + removes_ < retry_rebuild_at_) break;
      finish_rebuild();
    }
  }
  if (!change.add) return forget(key);
  ++dropped_adds_;
  if (change.many == nullptr) return mark_lossy(change.phys);
  for (uint32_t element : change.many->elements.elements) mark_lossy(element >> 8);
}

// A removal for whose result there is no room: the block is forgotten for all lanes. That errs
// towards "not held", never towards a phantom.
void Table::forget(uint64_t key) {
  Generation& g = *live_->generation;
  for (uint64_t at = g.home(key); at < g.n_slots() && g.slots()[at].key != 0; ++at) {
    Slot& slot = g.slots()[at];
    if (slot.key != key || word_set(slot.word) == 0) continue;
    unload(slot.word);
    ++dropped_entries_;
    --live_->entries;
    --live_->contents.entries[heat_.bucket_of(word_tag(slot.word))];
    Generation::store(&slot.word, slot.word & ~0xffffffffull);
    copied(at);
  }
}

uint64_t Table::put(Writing& writing, uint64_t key, const Change& change) {
  Generation& g = *writing.generation;
  const uint64_t n_slots = g.n_slots();
  for (uint64_t at = g.home(key); at < n_slots; ++at) {
    if (at >= g.backed_slots()) {
      if (!change.add) return n_slots;
      g.back_slots(at + 1);
    }
    Slot& slot = g.slots()[at];
    if (slot.key == 0) {
      if (!change.add) {
        if (&writing == live_.get()) ++removes_missing_;
        return n_slots;
      }
      if (writing.slots_used >= writing.slots_most) break;
      const uint32_t bucket = heat_.bucket_of(change.tag);
      const uint32_t set = changed_set(writing, 0, change, bucket);
      Generation::store(&slot.key, key);
      Generation::store(&slot.word, static_cast<uint64_t>(change.tag) << 32 | set);
      ++writing.slots_used;
      ++writing.entries;
      ++writing.contents.entries[bucket];
      if (&writing == live_.get()) count_load(change);
      return at;
    }
    if (slot.key != key) continue;
    const uint32_t set = word_set(slot.word);
    const uint32_t tag = word_tag(slot.word), bucket = heat_.bucket_of(tag);
    const uint32_t now = changed_set(writing, set, change, bucket);
    if (now == set) {
      if (!change.add && &writing == live_.get()) ++removes_missing_;
      return at;
    }
    Generation::store(&slot.word, static_cast<uint64_t>(tag) << 32 | now);
    const int64_t entered = (set == 0) - (now == 0);
    writing.entries += static_cast<uint64_t>(entered);
    writing.contents.entries[bucket] += static_cast<uint32_t>(entered);
    if (&writing == live_.get()) count_load(change);
    return at;
  }
  throw Error(ErrorKind::table_file, "the generation is full");
}

uint32_t Table::changed_set(Writing& writing, uint32_t set, const Change& change, uint32_t bucket) {
  SetArena& sets = writing.sets;
  const uint64_t before = sets.used_bytes();
  const uint32_t now = change.many != nullptr ? sets.with_all(set, change.many->elements)
                       : change.add           ? sets.with(set, change.phys, change.tiers)
                                              : sets.without(set, change.phys, change.tiers);
  if (sets.used_bytes() != before) writing.contents.charge_sets(bucket, sets.used_bytes() - before);
  return now;
}

void Table::count_load(const Change& change) {
  if (change.many != nullptr) {
    ++change.many->n_changed;
    return;
  }
  if (!change.add && phys_load_[change.phys] == 0) return;  // its block was left behind already
  const uint64_t one = change.add ? 1 : ~0ull;
  phys_load_[change.phys] += one;
  total_load_ += one;
}

uint16_t Table::fresh_phys() {
  if (free_phys_.empty() && phys_next_ >= kLanesMax) {
    // Scrubs the dead ones; the second time those that died while the first was under way.
    for (int round = 0; round < 2 && free_phys_.empty() && !dead_phys_.empty(); ++round) finish_rebuild();
    if (free_phys_.empty()) return kNoLane;
  }
  if (free_phys_.empty()) return static_cast<uint16_t>(phys_next_++);
  const uint16_t phys = free_phys_.back();
  free_phys_.pop_back();
  return phys;
}

uint16_t Table::claim_phys(uint32_t lane) {
  const uint16_t known = live_->generation->phys_of(lane);
  if (known != kNoLane) return known;
  const uint16_t phys = fresh_phys();
  if (phys == kNoLane) return kNoLane;
  Generation& g = *live_->generation;  // another one than before, perhaps
  g.store_lane_word(phys, lane | kLaneLive | (lane_closed_[lane] ? kLaneClosed : 0));
  g.store_phys_of(lane, phys);
  return phys;
}

void Table::retire_phys(uint16_t phys) {
  live_->generation->store_lane_word(phys, 0);
  dead_phys_.push_back(phys);
  dead_load_ += phys_load_[phys];
  total_load_ -= phys_load_[phys];
  phys_load_[phys] = 0;
}

void Table::clear_lane(uint32_t lane) {
  if (loading_ != nullptr) {
    if (Shadow* shadow = shadow_of(*loading_, lane)) {
      if (shadow->phys != kNoLane) retire_phys(shadow->phys);
      *shadow = {.lane = lane, .cancelled = true};
    }
  }
  lane_closed_[lane] = false;
  const uint16_t phys = live_->generation->phys_of(lane);
  if (phys == kNoLane) return;
  retire_phys(phys);
  live_->generation->store_phys_of(lane, kNoLane);
  if (!rebuild_ && rebuild_due()) begin_rebuild();
}

void Table::set_closed(uint32_t lane, bool closed) {
  lane_closed_[lane] = closed;
  Generation& g = *live_->generation;
  const uint16_t phys = g.phys_of(lane);
  if (phys == kNoLane) return;
  const uint32_t word = g.lane_word(phys);
  const bool set = closed && (word & kLaneLossy) == 0;
  g.store_lane_word(phys, set ? word | kLaneClosed : word & ~kLaneClosed);
}

void Table::mark_lossy(uint32_t phys) {
  Generation& g = *live_->generation;
  const uint32_t word = g.lane_word(phys);
  if (word != 0) g.store_lane_word(phys, (word | kLaneLossy) & ~kLaneClosed);
}

TableStatistics Table::statistics() {
  std::lock_guard turn(writer_);
  TableStatistics s{};
  const Generation& g = *live_->generation;
  s.entries = live_->entries;
  s.slots = g.n_slots();
  s.slots_used = live_->slots_used;
  s.sets = live_->sets.n_sets();
  s.set_bytes = live_->sets.used_bytes();
  s.bytes = heat_.bytes() + live_->bytes() + spare_->bytes();
  if (rebuild_) s.bytes += rebuild_->bytes();
  s.bytes_max = bytes_max_;
  s.records = records_;
  s.adds = adds_;
  s.removes = removes_;
  s.removes_missing = removes_missing_;
  s.dropped_entries = dropped_entries_;
  s.dropped_unused = dropped_unused_;
  s.dropped_adds = dropped_adds_;
  s.heat_buckets = heat_.n_buckets();
  s.lanes = phys_next_ - free_phys_.size() - dead_phys_.size();
  s.generation = g.header().generation;
  s.rebuilds = rebuilds_;
  s.rebuild_failures = rebuild_failures_;
  s.replaces = replaces_;
  s.snapshot_bytes = snapshot_bytes_->load(std::memory_order_relaxed);
  s.incarnation = control_ ? control_->incarnation() : 0;
  return s;
}

}  // namespace kvatlas
