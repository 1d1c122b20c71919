#include "index/native/table.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include <unistd.h>

#include "index/native/delta.hpp"

namespace kvatlas {
namespace {

constexpr uint64_t kHomesMin = 1024;
constexpr double kLoadAfter = 0.62;   // of a fresh generation
constexpr double kLoadRebuild = 0.80; // when the next one is begun
constexpr double kLoadFull = 0.97;    // when it must be there
constexpr uint64_t kStepSlots = 24;   // slots copied per key applied: done long before kLoadFull
constexpr uint64_t kStepSlotsMin = 256;
constexpr uint64_t kRetrySteps = 4096;
constexpr uint64_t kSetGarbageBytes = 4 << 20;
constexpr uint64_t kBytesMin = 4 << 20;
constexpr uint64_t kArenaMin = 64 << 10;
constexpr uint64_t kDeadLoadMin = 4096;

uint64_t homes_for(uint64_t entries) {
  return std::max<uint64_t>(kHomesMin, static_cast<uint64_t>(static_cast<double>(entries) / kLoadAfter) + 1);
}

}  // namespace

struct Table::Rebuild {
  struct Free {
    void operator()(uint32_t* p) const { std::free(p); }
  };
  Rebuild(std::shared_ptr<Generation> generation, uint64_t live_set_bytes)
      : next(std::move(generation)), n_known(live_set_bytes / 8 + 1),
        known(static_cast<uint32_t*>(std::calloc(n_known, sizeof(uint32_t)))) {
    if (known == nullptr) throw std::bad_alloc();
  }

  Writing next;
  uint64_t cursor = 0;                       // live slots left of it are copied
  uint64_t n_known;
  std::unique_ptr<uint32_t[], Free> known;   // live set -> set in next, 0 unknown
  size_t n_reclaimable = 0;                  // leading dead_phys_: dead before it began
  uint64_t dead_load = 0;                    // their load
  std::vector<bool> cold;                    // buckets that are dropped; empty: none
};

Table::Table(uint64_t bytes_max, const std::string& path)
    : bytes_max_(bytes_max), lane_closed_(65536, false), phys_load_(65536, 0) {
  if (bytes_max < kBytesMin)
    throw Error(ErrorKind::input, "budget_bytes: expected at least " + std::to_string(kBytesMin) + ", got " + std::to_string(bytes_max));
  if (!path.empty()) control_ = std::make_unique<Control>(path);
  auto generation = new_generation(kHomesMin);
  generation->back_slots(generation->n_slots());
  live_ = std::make_unique<Writing>(std::move(generation));
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
  heat_.tick();
  uint64_t n_records = 0;
  for (size_t at = 0; at < bytes; ++n_records) {
    DeltaRecord record;
    std::memcpy(&record, delta + at, sizeof record);
    at += sizeof record;
    switch (record.op) {
      case DeltaOp::add:
      case DeltaOp::remove:
        apply_keys(delta + at, record.count, record.lane, record.tiers, record.op == DeltaOp::add, record.segment_key);
        break;
      case DeltaOp::clear_lane: clear_lane(record.lane); break;
      case DeltaOp::close: set_closed(record.lane, true); break;
      case DeltaOp::open: set_closed(record.lane, false); break;
    }
    at += 8ull * record.count;
  }
  records_ += n_records;
  return n_records;
}

void Table::apply_keys(const uint8_t* keys, uint32_t count, uint32_t lane, uint8_t tiers, bool add, uint64_t segment_key) {
  if (!add && live_->generation->phys_of(lane) == kNoLane) {
    removes_ += count;
    removes_missing_ += count;
    return;
  }
  constexpr uint32_t kAhead = 12;  // slots fetched before they are needed
  auto key_at = [keys](uint32_t i) {
    uint64_t key;
    std::memcpy(&key, keys + 8ull * i, sizeof key);
    return key;
  };
  const uint32_t bucket = Heat::bucket_of(segment_key);
  if (add) heat_.used(bucket);
  for (uint32_t i = 0; i < count && i < kAhead; ++i) live_->generation->prefetch(Generation::normal(key_at(i)));
  const uint64_t set_bytes_before = live_->sets.used_bytes();
  uint64_t stepped = 0;
  for (uint32_t i = 0; i < count; ++i) {
    if (i + kAhead < count) live_->generation->prefetch(Generation::normal(key_at(i + kAhead)));
    const uint16_t phys = claim_phys(lane);
    if (phys == kNoLane) {
      dropped_adds_ += count - i;
      break;
    }
    put_or_drop(Generation::normal(key_at(i)), Change{phys, tiers, add, bucket});
    if (rebuild_ && (i & 63) == 63) {
      step_rebuild(64 * kStepSlots);
      stepped = i + 1;
    } else if (!rebuild_ && (i & 63) == 63 && rebuild_due()) {
      begin_rebuild();
    }
  }
  (add ? adds_ : removes_) += count;
  if (!rebuild_ && rebuild_due()) begin_rebuild();
  // Where sets are many (few blocks alike), bytes of sets count as work too.
  const uint64_t set_bytes_now = live_->sets.used_bytes();
  const uint64_t grown = set_bytes_now > set_bytes_before ? (set_bytes_now - set_bytes_before) / 8 : 0;
  if (rebuild_) step_rebuild(kStepSlotsMin + (count - stepped) * kStepSlots + grown);
}

void Table::put_or_drop(uint64_t key, const Change& change) {
  for (int attempt = 0; attempt < 2; ++attempt) {
    try {
      const uint64_t at = put(*live_, key, change);
      if (rebuild_ && at < rebuild_->cursor) {
        try {
          put(rebuild_->next, key, change);
        } catch (const Error&) {
          abandon_rebuild();
        }
      }
      return;
    } catch (const Error&) {
      if (attempt == 0) finish_rebuild();  // no room in this generation
    }
  }
  if (!change.add) return forget(key);
  ++dropped_adds_;
  mark_lossy(change.phys);
}

// A removal for whose result there is no room: the block is forgotten for all lanes. That errs
// towards "not held", never towards a phantom.
void Table::forget(uint64_t key) {
  Generation& g = *live_->generation;
  for (uint64_t at = g.home(key); at < g.n_slots() && g.slots()[at].key != 0; ++at) {
    Slot& slot = g.slots()[at];
    if (slot.key != key || word_set(slot.word) == 0) continue;
    drop(slot.word);
    --live_->entries;
    --live_->bucket_entries[word_bucket(slot.word)];
    Generation::store(&slot.word, slot.word & ~0xffffffffull);
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
      if (writing.slots_used >= static_cast<uint64_t>(kLoadFull * static_cast<double>(g.n_homes()))) break;
      const uint32_t set = writing.sets.with(0, change.phys, change.tiers);
      Generation::store(&slot.key, key);
      Generation::store(&slot.word, static_cast<uint64_t>(change.bucket) << 32 | set);
      ++writing.slots_used;
      ++writing.entries;
      ++writing.bucket_entries[change.bucket];
      if (&writing == live_.get()) {
        ++phys_load_[change.phys];
        ++total_load_;
      }
      return at;
    }
    if (slot.key != key) continue;
    const uint32_t set = word_set(slot.word);
    const uint32_t now = change.add ? writing.sets.with(set, change.phys, change.tiers)
                                    : writing.sets.without(set, change.phys, change.tiers);
    if (now == set) {
      if (!change.add && &writing == live_.get()) ++removes_missing_;
      return at;
    }
    const uint32_t bucket = word_bucket(slot.word);
    Generation::store(&slot.word, static_cast<uint64_t>(bucket) << 32 | now);
    const int64_t entered = (set == 0) - (now == 0);
    writing.entries += static_cast<uint64_t>(entered);
    writing.bucket_entries[bucket] += static_cast<uint32_t>(entered);
    if (&writing == live_.get()) {
      const uint64_t one = change.add ? 1 : ~0ull;
      phys_load_[change.phys] += one;
      total_load_ += one;
    }
    return at;
  }
  throw Error(ErrorKind::table_file, "the generation is full");
}

uint16_t Table::claim_phys(uint32_t lane) {
  Generation& g = *live_->generation;
  const uint16_t known = g.phys_of(lane);
  if (known != kNoLane) return known;
  if (free_phys_.empty() && phys_next_ >= kLanesMax) {
    // Scrubs the dead ones; the second time those that died while the first was under way.
    for (int round = 0; round < 2 && free_phys_.empty() && !dead_phys_.empty(); ++round) finish_rebuild();
    if (free_phys_.empty()) return kNoLane;
  }
  uint16_t phys;
  if (free_phys_.empty()) {
    phys = static_cast<uint16_t>(phys_next_++);
  } else {
    phys = free_phys_.back();
    free_phys_.pop_back();
  }
  Generation& now = *live_->generation;  // finish_rebuild may have changed it
  now.store_lane_word(phys, lane | 0xffu << kLaneLiveShift | (lane_closed_[lane] ? kLaneClosed : 0));
  now.store_phys_of(lane, phys);
  return phys;
}

void Table::clear_lane(uint32_t lane) {
  Generation& g = *live_->generation;
  lane_closed_[lane] = false;
  const uint16_t phys = g.phys_of(lane);
  if (phys == kNoLane) return;
  g.store_lane_word(phys, 0);  // from here on no reader sees anything of it
  g.store_phys_of(lane, kNoLane);
  dead_phys_.push_back(phys);
  dead_load_ += phys_load_[phys];
  total_load_ -= phys_load_[phys];
  phys_load_[phys] = 0;
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

bool Table::rebuild_due() const {
  if (adds_ + removes_ < retry_rebuild_at_) return false;
  const auto& g = *live_->generation;
  return static_cast<double>(live_->slots_used) > kLoadRebuild * static_cast<double>(g.n_homes()) ||
         live_->sets.used_bytes() > 2 * set_bytes_kept_ + std::min(kSetGarbageBytes, bytes_max_ / 32) ||
         (dead_load_ > kDeadLoadMin && dead_load_ > total_load_ / 3) ||
         (dead_phys_.size() > kLanesMax / 2);
}

// Two generations exist while one is rebuilt: each may have half of what is not fixed.
uint64_t Table::generation_bytes_max() const {
  const uint64_t fixed = live_ ? live_->generation->header().slots_offset + live_->fixed_bytes() : 700 << 10;
  return bytes_max_ / 2 - fixed;
}

std::shared_ptr<Generation> Table::new_generation(uint64_t n_homes) {
  const uint64_t number = live_ ? live_->generation->header().generation + 1 : control_ ? control_->first_generation() : 1;
  // Sets may take what the budget leaves; their numbers are 32 bits of 8 bytes each.
  const uint64_t taken = n_homes * sizeof(Slot) * 5 / 4 + kArenaMin;
  const uint64_t room = generation_bytes_max();
  const uint64_t arena = std::min<uint64_t>(std::max(kArenaMin, room > taken ? room - taken : 0), 32ull << 30);
  return std::make_shared<Generation>(Generation::create(control_ ? control_->generation_path(number) : "",
                                                         control_ ? control_->incarnation() : 0, number, n_homes, arena));
}

void Table::begin_rebuild() {
  const double room = static_cast<double>(generation_bytes_max() - kArenaMin);
  const uint64_t entries = live_->entries;
  // Sets: what was kept last time, as much again for new ones, and the map from old to new.
  const double set_bytes = 2.5 * static_cast<double>(std::min(live_->sets.used_bytes(), set_bytes_kept_ * 2));
  const double wanted = static_cast<double>(homes_for(entries)) * sizeof(Slot) * 1.25 + set_bytes;
  uint64_t keep = entries;
  if (wanted > room) keep = static_cast<uint64_t>(static_cast<double>(entries) * std::max(0.05, 0.9 * room / wanted));
  try {
    auto generation = new_generation(homes_for(keep));
    rebuild_ = std::make_unique<Rebuild>(std::move(generation), live_->sets.used_bytes());
  } catch (const Error&) {
    return abandon_rebuild();
  }
  if (keep < entries) rebuild_->cold = heat_.coldest(entries - keep, live_->bucket_entries);
  rebuild_->n_reclaimable = dead_phys_.size();
  rebuild_->dead_load = dead_load_;
}

void Table::step_rebuild(uint64_t n_slots) {
  const Generation& g = *live_->generation;
  const uint64_t end = std::min(g.n_slots(), rebuild_->cursor + n_slots);
  try {
    for (; rebuild_->cursor < end; ++rebuild_->cursor) copy_slot(g.slots()[rebuild_->cursor]);
    if (end == g.n_slots()) flip();
  } catch (const Error&) {
    abandon_rebuild();
  }
}

void Table::abandon_rebuild() {
  rebuild_.reset();
  if (control_) ::unlink(control_->generation_path(live_->generation->header().generation + 1).c_str());
  ++rebuild_failures_;
  retry_rebuild_at_ = adds_ + removes_ + kRetrySteps;
}

void Table::finish_rebuild() {
  if (!rebuild_) begin_rebuild();
  if (rebuild_) step_rebuild(live_->generation->n_slots());
}

void Table::copy_slot(const Slot& slot) {
  const uint32_t set = word_set(slot.word);
  if (slot.key == 0 || set == 0) return;
  const uint32_t bucket = word_bucket(slot.word);
  if (!rebuild_->cold.empty() && rebuild_->cold[bucket]) return drop(slot.word);
  Writing& next = rebuild_->next;
  uint32_t copied = set < rebuild_->n_known ? rebuild_->known[set] : 0;
  if (copied == 0) {
    const Generation& g = *live_->generation;
    const SetView view = g.set(set);
    std::vector<uint32_t> alive;
    for (uint32_t i = 0; i < view.count; ++i)
      if (g.lane_word(view.elements[i] >> 8) != 0) alive.push_back(view.elements[i]);
    copied = next.sets.intern(alive.data(), static_cast<uint32_t>(alive.size()));
    if (set < rebuild_->n_known) rebuild_->known[set] = copied;
  }
  if (copied == 0) return;  // only dead lanes held it
  Generation& to = *next.generation;
  uint64_t at = to.home(slot.key);
  for (;; ++at) {
    if (at >= to.n_slots()) throw Error(ErrorKind::table_file, "the next generation is full");
    to.back_slots(at + 1);
    if (to.slots()[at].key == 0) break;
  }
  to.slots()[at] = {slot.key, static_cast<uint64_t>(bucket) << 32 | copied};
  ++next.slots_used;
  ++next.entries;
  ++next.bucket_entries[bucket];
}

void Table::drop(uint64_t word) {
  const SetView view = live_->generation->set(word_set(word));
  for (uint32_t i = 0; i < view.count; ++i) {
    const uint32_t phys = view.elements[i] >> 8;
    mark_lossy(phys);
    if (phys_load_[phys] > 0) --phys_load_[phys], --total_load_;
  }
  ++dropped_entries_;
}

void Table::flip() {
  const Generation& old = *live_->generation;
  Writing& next = rebuild_->next;
  next.generation->back_slots(next.generation->n_slots());
  for (uint32_t phys = 0; phys < phys_next_; ++phys) next.generation->store_lane_word(phys, old.lane_word(phys));
  for (uint32_t lane = 0; lane < kLanesMax; ++lane) {
    const uint16_t phys = old.phys_of(lane);
    if (phys != kNoLane) next.generation->store_phys_of(lane, phys);
  }
  const std::string superseded = control_ ? control_->generation_path(old.header().generation) : "";
  set_bytes_kept_ = next.sets.used_bytes();
  auto retired = std::make_unique<Writing>(std::move(next));
  {
    std::lock_guard guard(pin_);
    live_.swap(retired);
  }
  if (control_) {
    control_->publish(live_->generation->header().generation);
    ::unlink(superseded.c_str());
  }
  const auto reclaimed = dead_phys_.begin() + static_cast<std::ptrdiff_t>(rebuild_->n_reclaimable);
  free_phys_.insert(free_phys_.end(), dead_phys_.begin(), reclaimed);
  dead_phys_.erase(dead_phys_.begin(), reclaimed);
  dead_load_ -= rebuild_->dead_load;
  ++rebuilds_;
  rebuild_.reset();
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
  s.bytes = live_->bytes();
  if (rebuild_)
    s.bytes += rebuild_->next.bytes() + rebuild_->n_known * sizeof(uint32_t);
  s.bytes_max = bytes_max_;
  s.records = records_;
  s.adds = adds_;
  s.removes = removes_;
  s.removes_missing = removes_missing_;
  s.dropped_entries = dropped_entries_;
  s.dropped_adds = dropped_adds_;
  s.lanes = phys_next_ - free_phys_.size() - dead_phys_.size();
  s.generation = g.header().generation;
  s.rebuilds = rebuilds_;
  s.rebuild_failures = rebuild_failures_;
  s.incarnation = control_ ? control_->incarnation() : 0;
  return s;
}

}  // namespace kvatlas
