// How a table gets its next generation: growth, compaction and the byte budget.
#include <unistd.h>

#include <algorithm>

#include "index/native/error.hpp"
#include "index/native/table.hpp"
#include "index/native/table_rebuild.hpp"

namespace kvatlas {
namespace {

constexpr uint64_t kHomesMin = 1024;
constexpr double kLoadAfter = 0.56;    // of a fresh generation
constexpr double kLoadAfterSmall = 0.40;
constexpr uint64_t kSmallEntries = 1 << 18;  // below it tables double: they are seldom what memory goes to
constexpr double kLoadRebuild = 0.82;  // when the next one is begun
constexpr uint64_t kRetrySteps = 4096;
constexpr uint64_t kSetGarbageBytes = 4 << 20;
constexpr uint64_t kArenaMin = 64 << 10;
constexpr uint64_t kDeadLoadMin = 4096;

uint64_t homes_for(uint64_t entries) {
  const double load = entries < kSmallEntries ? kLoadAfterSmall : kLoadAfter;
  return std::max<uint64_t>(kHomesMin, static_cast<uint64_t>(static_cast<double>(entries) / load) + 1);
}

}  // namespace

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

std::shared_ptr<Generation> Table::new_generation(uint64_t entries) {
  const uint64_t n_homes = homes_for(entries);
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
    auto generation = new_generation(keep);
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
    if (at >= to.backed_slots()) to.back_slots(at + 1);
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

}  // namespace kvatlas
