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
// At the budget: what is left behind at once is a tenth, for what is left behind early is missed.
constexpr double kLoadAtBudget = 0.753;
constexpr double kEntryBytes = sizeof(Slot) / kLoadAtBudget;
constexpr double kLoadRebuild = 0.82;  // when the next one is begun
constexpr double kLoadRebuildAtBudget = 0.883;  // the same where that leaves something behind
constexpr double kSetLoadAfter = 0.60;  // of the room for sets
constexpr double kSetLoadRebuild = 0.85;
constexpr uint64_t kRetrySteps = 4096;
constexpr uint64_t kSetGarbageBytes = 4 << 20;
constexpr uint64_t kArenaMin = 64 << 10;
constexpr double kArenaMinBytes = kArenaMin;
constexpr uint64_t kDeadLoadMin = 4096;
// Looked at, at least: some hundred microseconds. What the cut takes meanwhile lies in the room of the generation that is not yet
// made; of small tables that is too little, so theirs is done within one update.
constexpr uint64_t kStepBuckets = 1 << 17;
constexpr uint64_t kSpareBytes = 4096;  // roundings

uint64_t homes_for(uint64_t entries) {
  const double load = entries < kSmallEntries ? kLoadAfterSmall : kLoadAfter;
  return std::max<uint64_t>(kHomesMin, static_cast<uint64_t>(static_cast<double>(entries) / load) + 1);
}

// The most homes whose slots take no more than these bytes.
uint64_t homes_in(double bytes) {
  const auto slots = static_cast<uint64_t>(std::max(bytes / sizeof(Slot), static_cast<double>(2 * kHomesMin)));
  return std::max(kHomesMin, slots > 5 * Generation::kTailMax ? slots - Generation::kTailMax : (slots - 64) * 4 / 5);
}

// What becomes of a generation that nobody reads any more.
struct GiveBack {
  std::shared_ptr<SpareRegion> to;
  void operator()(Generation* generation) const {
    to->give(generation->release());
    delete generation;
  }
};

double slot_bytes(uint64_t n_homes) { return static_cast<double>(Generation::slots_of(n_homes) * sizeof(Slot)); }

}  // namespace

bool Table::rebuild_due() const {
  if (adds_ + removes_ < retry_rebuild_at_) return false;
  const auto& g = *live_->generation;
  const SetArena& sets = live_->sets;
  const double load = static_cast<double>(live_->slots_used) / static_cast<double>(g.n_homes());
  return load > kLoadRebuildAtBudget || (load > kLoadRebuild && bytes_too_many() <= 0) ||
         sets.used_bytes() > set_bytes_due() ||
         static_cast<double>(sets.bytes()) > kSetLoadRebuild * static_cast<double>(sets.bytes_max()) ||
         (dead_load_ > kDeadLoadMin && dead_load_ > total_load_ / 3) ||
         (dead_phys_.size() > kLanesMax / 2);
}

uint64_t Table::set_bytes_due() const { return 2 * set_bytes_kept_ + std::min(kSetGarbageBytes, bytes_max_ / 32); }

// Two generations exist while one is rebuilt: each may have half of what is not fixed.
uint64_t Table::generation_bytes_max() const {
  const uint64_t n_buckets = heat_.n_buckets();
  const uint64_t shared = heat_.bytes() + n_buckets / 4;  // uses, and which buckets are cold
  const uint64_t each = bytes_max_ / 2 - shared / 2 - Generation::kHeadBytes - SetArena::kMemoBytes - n_buckets * Contents::kBytesOfBucket - kSpareBytes;
  return each - each / (2 * 8 * sizeof(Slot)) - kSpareBytes;  // the bits of what stays, of one of them
}

std::unique_ptr<Table::Writing> Table::new_writing(uint64_t n_homes) {
  n_homes = std::max(n_homes, kHomesMin);
  const uint64_t number = live_ ? live_->generation->header().generation + 1 : control_ ? control_->first_generation() : 1;
  // Sets may take what the budget leaves; their numbers are 32 bits of 8 bytes each.
  const auto slots = static_cast<uint64_t>(slot_bytes(n_homes));
  const uint64_t room = generation_bytes_max();
  const uint64_t set_bytes_max = std::min<uint64_t>(std::max(kArenaMin, room > slots ? room - slots : 0), 32ull << 30);
  Generation made = control_ ? Generation::create(control_->generation_path(number), control_->incarnation(), number, n_homes, set_bytes_max)
                             : Generation::create_in(spare_->take(), number, n_homes, set_bytes_max);
  return std::make_unique<Writing>(std::shared_ptr<Generation>(new Generation(std::move(made)), GiveBack{spare_}), set_bytes_max, heat_.n_buckets());
}

// What lives of the sets is not known before it is copied: at most all, and about as much as last time.
double Table::set_bytes_wanted() const {
  const auto used = static_cast<double>(live_->sets.used_bytes());
  const double alive = std::min(used, static_cast<double>(set_bytes_due())) / used;
  return alive * static_cast<double>(live_->sets.bytes()) / kSetLoadAfter;
}

// What would have to go if the next generation were made now; negative: what is free.
double Table::bytes_too_many() const {
  return static_cast<double>(live_->entries) * kEntryBytes + std::max(kArenaMinBytes, set_bytes_wanted()) + Generation::kTailMax * sizeof(Slot) -
         static_cast<double>(generation_bytes_max());
}

void Table::begin_rebuild() {
  rebuild_ = std::make_unique<Rebuild>();
  rebuild_->n_reclaimable = dead_phys_.size();
  rebuild_->dead_load = dead_load_;
  const SetArena& sets = live_->sets;
  const double headroom = std::max(4096.0, static_cast<double>(sets.bytes_max()) - static_cast<double>(sets.bytes()));
  rebuild_->slots_per_set_byte = 2 * static_cast<double>(live_->generation->n_slots() + 2ull * heat_.n_buckets()) / headroom;

  rebuild_->is_scrubbing = bytes_too_many() > 0 && dead_load_ > kDeadLoadMin && dead_load_ > total_load_ / 16;
  if (!rebuild_->is_scrubbing) rebuild_->plan(*this);
}

void Table::Rebuild::plan(Table& table) {
  is_scrubbing = false;
  fates = {};
  const double too_many = table.bytes_too_many();
  if (too_many <= 0) return table.start_copy();
  const double units = static_cast<double>(std::max<uint64_t>(1, table.live_->contents.set_units_in_all));
  is_at_budget = true;
  cut = BudgetCut(table.heat_, {.entry_bytes = kEntryBytes, .set_unit_bytes = table.set_bytes_wanted() / units, .bytes_to_drop = too_many});
}

bool Table::Rebuild::scrub(Table& table, uint64_t n_slots) {
  Writing& live = *table.live_;
  if (fates.size() == 0) fates = Zeroed<uint8_t>(live.sets.used_bytes() / 8 + 1);
  const uint64_t end = std::min(live.generation->backed_slots(), scrubbed + n_slots);
  for (; scrubbed < end; ++scrubbed) {
    Slot& slot = live.generation->slots()[scrubbed];
    if (slot.key == 0 || word_set(slot.word) == 0 || !is_dead(table, word_set(slot.word))) continue;
    --live.entries;
    --live.contents.entries[table.heat_.bucket_of(word_tag(slot.word))];
    Generation::store(&slot.word, slot.word & ~0xffffffffull);
    table.copied(scrubbed);
  }
  return scrubbed == live.generation->backed_slots();
}

// A lane that dies while others are looked at may count as alive: it goes with the next one.
bool Table::Rebuild::is_dead(const Table& table, uint32_t set) {
  enum : uint8_t { kUnknown, kLives, kDead };
  if (set < fates.size() && fates[set] != kUnknown) return fates[set] == kDead;
  const Generation& g = *table.live_->generation;
  const SetView view = g.set(set);
  const bool dead = std::none_of(view.elements, view.elements + view.count, [&](uint32_t element) { return g.lane_word(element >> 8) != 0; });
  if (set < fates.size()) fates[set] = dead ? kDead : kLives;
  return dead;
}

void Table::start_copy() {
  const double room = static_cast<double>(generation_bytes_max());
  const double set_bytes = std::max(kArenaMinBytes, set_bytes_wanted() - rebuild_->cut.dropped_set_bytes());
  const uint64_t comfortable = homes_for(live_->entries + expected_entries_);
  try {
    rebuild_->next = new_writing(slot_bytes(comfortable) + set_bytes <= room ? comfortable : homes_in(room - set_bytes));
    rebuild_->known = Zeroed<uint32_t>(live_->sets.used_bytes() / 8 + 1);
    if (rebuild_->cut.leaves_something()) rebuild_->stays = Zeroed<uint64_t>(Rebuild::stays_words(live_->generation->n_slots()));
  } catch (const Error&) {
    abandon_rebuild();
  }
}

void Table::step_rebuild(uint64_t n_slots) {
  if (rebuild_->is_scrubbing) {
    if (!rebuild_->scrub(*this, n_slots)) return;
    rebuild_->plan(*this);
    if (!rebuild_) return;
  }
  if (!rebuild_->next) {
    if (!rebuild_->cut.step(live_->contents, std::max(n_slots, kStepBuckets))) return;
    start_copy();
    if (!rebuild_) return;
  }
  const Generation& g = *live_->generation;
  const uint64_t end = std::min(g.n_slots(), rebuild_->cursor + n_slots);
  try {
    copy_slots(end);
    if (end == g.n_slots()) flip();
  } catch (const Error&) {
    abandon_rebuild();
  }
}

void Table::abandon_rebuild() {
  // More of the sets live than was thought.
  if (rebuild_->next && rebuild_->next->sets.is_full()) set_bytes_kept_ = live_->sets.used_bytes();
  rebuild_.reset();
  if (control_) ::unlink(control_->generation_path(live_->generation->header().generation + 1).c_str());
  ++rebuild_failures_;
  retry_rebuild_at_ = adds_ + removes_ + kRetrySteps;
}

void Table::finish_rebuild() {
  if (!rebuild_) begin_rebuild();
  if (rebuild_) step_rebuild(live_->generation->n_slots() + 2ull * heat_.n_buckets());
}

void Table::flip() {
  const Generation& old = *live_->generation;
  Writing& next = *rebuild_->next;
  next.generation->back_slots(next.generation->n_slots());
  for (uint32_t phys = 0; phys < phys_next_; ++phys) next.generation->store_lane_word(phys, old.lane_word(phys));
  for (uint32_t lane = 0; lane < kLanesMax; ++lane) {
    const uint16_t phys = old.phys_of(lane);
    if (phys != kNoLane) next.generation->store_phys_of(lane, phys);
  }
  const std::string superseded = control_ ? control_->generation_path(old.header().generation) : "";
  set_bytes_kept_ = next.sets.used_bytes();
  std::unique_ptr<Writing> retired = std::move(rebuild_->next);
  if (rebuild_->is_at_budget && !control_) spare_->want();
  {
    std::lock_guard guard(pin_);
    live_.swap(retired);
  }
  recopy();
  if (control_) {
    control_->publish(live_->generation->header().generation);
    ::unlink(superseded.c_str());
  }
  const auto reclaimed = dead_phys_.begin() + static_cast<std::ptrdiff_t>(rebuild_->n_reclaimable);
  free_phys_.insert(free_phys_.end(), dead_phys_.begin(), reclaimed);
  dead_phys_.erase(dead_phys_.begin(), reclaimed);
  dead_load_ -= rebuild_->dead_load;
  dropped_entries_ += rebuild_->n_left_behind;
  dropped_unused_ += rebuild_->n_unused;
  ++rebuilds_;
  rebuild_.reset();
}

}  // namespace kvatlas
