#include "index/native/content_loading.hpp"

#include <algorithm>
#include <string>

#include "index/native/error.hpp"
#include "index/native/match.hpp"
#include "index/native/route.hpp"
#include "index/native/table_rebuild.hpp"
#include "index/native/table_snapshot.hpp"

namespace kvatlas {
namespace {

constexpr uint32_t kTurnKeys = 8192;  // loaded before others have their turn: some hundred microseconds
constexpr uint32_t kStepKeys = 64;
constexpr uint64_t kStepSlots = 24;  // as Table::apply_keys: slots copied per key while a next generation is made
constexpr uint64_t kFewEntries = 1 << 14;
constexpr double kLoadComfortable = 0.7;
constexpr uint32_t kNone = ~0u;
std::atomic<uint64_t> n_loadings{0};

}  // namespace

ContentLoading::ContentLoading(std::vector<std::shared_ptr<Table>> tables) : lanes_(65536), next_number_((n_loadings.fetch_add(1) + 1) << 32) {
  if (tables.empty() || tables.size() > kShardsMax)
    throw Error(ErrorKind::input, "tables: expected 1 to 1024, got " + std::to_string(tables.size()));
  std::vector<Table*> ordered;
  for (const auto& table : tables) ordered.push_back(table.get());
  std::sort(ordered.begin(), ordered.end());
  if (std::adjacent_find(ordered.begin(), ordered.end()) != ordered.end()) throw Error(ErrorKind::input, "tables: expected each once");
  for (const auto& table : tables) parts_.push_back({table, {}, {}});
  for (Table* table : ordered) {
    Part& part = *std::find_if(parts_.begin(), parts_.end(), [&](const Part& one) { return one.table.get() == table; });
    part.alone = std::unique_lock(table->replacing_);
  }
  for (Part& part : parts_) {
    std::lock_guard turn(part.table->writer_);
    part.table->require_open();
  }
  for (Part& part : parts_) {
    std::lock_guard turn(part.table->writer_);
    part.table->loading_ = &part.shadows;
  }
}

ContentLoading::~ContentLoading() {
  if (is_shown_) return;
  for (Part& part : parts_) {
    std::lock_guard turn(part.table->writer_);
    part.table->abandon(part.shadows);
  }
}

void ContentLoading::add(const SectionView& section, const LaneNumbers& lanes) {
  section.require_shards(static_cast<uint32_t>(parts_.size()));
  name_lanes(section, lanes);
  const uint32_t n_shards = static_cast<uint32_t>(parts_.size());
  std::vector<std::vector<Stretch>> stretches(n_shards);
  size_t at = 0;
  for (uint32_t i = 0; i < section.n_runs(); ++i) {
    const SectionRun run = section.run(i);
    stretches[shard_of(segment_key_of(run.tag), n_shards)].push_back({run, at});
    at += run.n_keys;
  }
  for (uint32_t shard = 0; shard < n_shards; ++shard)
    if (!stretches[shard].empty()) load(parts_[shard], section, stretches[shard]);
  n_entries_ += section.n_keys();
}

void ContentLoading::name_lanes(const SectionView& section, const LaneNumbers& lanes) {
  std::vector<uint32_t> fresh;
  std::vector<uint32_t> numbers;
  for (uint32_t i = 0; i < section.n_lanes(); ++i) {
    const uint32_t word = section.lane(i);
    const uint32_t number = lanes.empty() ? word & kContentLane : lanes[word & kContentLane];
    numbers.push_back(number);
    if (number == kNoLane) continue;
    Lane& lane = lanes_[number];
    if (!lane.is_named) fresh.push_back(number);
    lane.is_named = true;
    lane.is_closed &= (word & kContentClosed) != 0;
    lane.is_lossy |= (word & kContentLossy) != 0;
  }
  for (Part& part : parts_) {
    if (fresh.empty()) break;
    std::lock_guard turn(part.table->writer_);
    for (uint32_t number : fresh) part.shadows.push_back({.lane = number});
    std::sort(part.shadows.begin(), part.shadows.end(), [](const auto& a, const auto& b) { return a.lane < b.lane; });
  }
  // The same in all parts.
  shadow_of_place_.clear();
  for (uint32_t number : numbers) {
    const Table::Shadow* shadow = number == kNoLane ? nullptr : Table::shadow_of(parts_[0].shadows, number);
    shadow_of_place_.push_back(shadow == nullptr ? kNone : static_cast<uint32_t>(shadow - parts_[0].shadows.data()));
  }
}

// A table that holds little gets room for the section at once, in place of growing step by step. In shared memory
// that would keep applies waiting: room there is made for real.
void ContentLoading::make_room(Table& table, uint64_t n_keys) {
  const auto n_homes = static_cast<double>(table.live_->generation->n_homes());
  if (table.rebuild_ || table.control_ || table.live_->entries > kFewEntries) return;
  if (static_cast<double>(table.live_->slots_used + n_keys) < kLoadComfortable * n_homes) return;
  table.expected_entries_ = n_keys;
  table.finish_rebuild();
  table.expected_entries_ = 0;
}

void ContentLoading::load(Part& part, const SectionView& section, const std::vector<Stretch>& stretches) {
  std::unique_lock turn(part.table->writer_);
  part.table->require_open();
  uint64_t expected = 0;
  for (const Stretch& stretch : stretches) expected += stretch.run.n_keys;
  make_room(*part.table, expected);
  uint32_t n_keys = 0;  // in this turn
  for (const Stretch& stretch : stretches) {
    for (uint32_t done = 0; done < stretch.run.n_keys;) {
      part.table->require_open();
      const uint32_t n = load_some(part, section, stretch, done, kTurnKeys);
      done += n;
      n_keys += n + (section.set_begin(stretch.run.set + 1) - section.set_begin(stretch.run.set)) / 8;
      if (n_keys < kTurnKeys) continue;
      n_keys = 0;
      turn.unlock();
      turn.lock();
    }
  }
}

// The set's elements by physical lane; false: every lane of it was cleared meanwhile, or found no room.
bool ContentLoading::claim(Part& part, const SectionView& section, uint32_t set, std::vector<uint32_t>& elements) {
  for (uint32_t i = section.set_begin(set); i < section.set_begin(set + 1); ++i) {
    const uint32_t place = shadow_of_place_[section.element(i) >> 8];
    if (place == kNone || part.shadows[place].cancelled) continue;
    const uint32_t phys = part.table->claim_shadow(part.shadows[place]);
    if (phys == kNoLane) ++part.table->dropped_adds_;
    else elements.push_back(phys << 8 | (section.element(i) & 0xff));
  }
  std::sort(elements.begin(), elements.end());
  return !elements.empty();
}

uint32_t ContentLoading::load_some(Part& part, const SectionView& section, const Stretch& stretch, uint32_t done, uint32_t n_keys_max) {
  Table& table = *part.table;
  const uint32_t n = std::min(stretch.run.n_keys - done, n_keys_max);
  Table::Many many{{next_number_++, {}}};
  if (!claim(part, section, stretch.run.set, many.elements.elements)) return n;
  const Table::Change change{0, 0, true, stretch.run.tag, &many};
  table.heat_.added(table.heat_.bucket_of(stretch.run.tag));
  constexpr uint32_t kAhead = 12;
  const size_t begin = stretch.key_at + done;
  for (uint32_t i = 0; i < n; ++i) {
    if (i + kAhead < n) table.live_->generation->prefetch(Generation::normal(section.key(begin + i + kAhead)));
    table.put_or_drop(Generation::normal(section.key(begin + i)), change);
    if (i % kStepKeys != kStepKeys - 1 && i + 1 < n) continue;
    if (table.rebuild_) table.step_rebuild(kStepKeys * kStepSlots);
    else if (table.rebuild_due()) table.begin_rebuild();
  }
  table.adds_ += n * many.elements.elements.size();
  for (uint32_t element : many.elements.elements) table.phys_load_[element >> 8] += many.n_changed;
  table.total_load_ += many.n_changed * many.elements.elements.size();
  return n;
}

void ContentLoading::mark(Part& part) {
  Generation& g = *part.table->live_->generation;
  for (Table::Shadow& shadow : part.shadows) {
    const Lane& lane = lanes_[shadow.lane];
    shadow.closed = lane.is_closed && !lane.is_lossy;
    if (lane.is_lossy && shadow.phys != kNoLane) g.store_lane_word(shadow.phys, g.lane_word(shadow.phys) | kLaneLossy);
  }
}

void ContentLoading::finish() {
  std::vector<Turns*> turns;
  for (Part& part : parts_) turns.push_back(&part.table->writer_);
  const auto locks = lock_all(turns);
  for (Part& part : parts_) part.table->require_open();
  for (Part& part : parts_) mark(part);
  for (Part& part : parts_) part.table->live_->generation->begin_flip();
  for (Part& part : parts_) part.table->show_lanes(part.shadows);
  for (Part& part : parts_) part.table->live_->generation->end_flip();
  for (Part& part : parts_) {
    part.table->loading_ = nullptr;
    part.table->bury_lanes(part.shadows);
    ++part.table->replaces_;
  }
  is_shown_ = true;
}

}  // namespace kvatlas
