#include "index/native/snapshot.hpp"

#include <algorithm>
#include <mutex>
#include <string>

#include "index/native/error.hpp"
#include "index/native/lane_masks.hpp"
#include "index/native/table_snapshot.hpp"

namespace kvatlas {
namespace {

constexpr uint32_t kUnknown = ~0u, kNobody = ~0u - 1;
constexpr int kRounds = 8;  // a table that gets its next generation meanwhile is copied again

// Which set of the content stands for each of the generation.
class SetsTaken {
 public:
  SetsTaken(const TableCopy& copy, Content& content)
      : copy_(copy), content_(content), known_(Generation::load(&copy.generation->header().arena_bytes) / 8 + 1, kUnknown) {}

  uint32_t number_of(uint32_t set) {
    if (set >= known_.size()) return kNobody;
    if (known_[set] == kUnknown) known_[set] = take(set);
    return known_[set];
  }

 private:
  uint32_t take(uint32_t set) {
    const SetView view = copy_.generation->set(set);
    const size_t begin = content_.elements.size();
    for (uint32_t i = 0; i < view.count; ++i) {
      const uint32_t phys = view.elements[i] >> 8;
      const uint32_t word = phys < copy_.lane_words.size() ? copy_.lane_words[phys] : 0;
      if (const uint32_t tiers = live_mask(word, view.elements[i])) content_.elements.push_back((word & 0xffff) << 8 | tiers);
    }
    if (content_.elements.size() == begin) return kNobody;
    std::sort(content_.elements.begin() + static_cast<std::ptrdiff_t>(begin), content_.elements.end());
    content_.set_begins.push_back(static_cast<uint32_t>(content_.elements.size()));
    return static_cast<uint32_t>(content_.set_begins.size() - 2);
  }

  const TableCopy& copy_;
  Content& content_;
  std::vector<uint32_t> known_;
};

std::vector<uint32_t> lanes_of(const TableCopy& copy) {
  std::vector<uint32_t> lanes;
  for (uint32_t word : copy.lane_words) {
    if ((word & kLaneLive) == 0) continue;
    lanes.push_back((word & 0xffff) | (word & kLaneClosed ? kContentClosed : 0) | (word & kLaneLossy ? kContentLossy : 0));
  }
  std::sort(lanes.begin(), lanes.end(), [](uint32_t a, uint32_t b) { return (a & kContentLane) < (b & kContentLane); });
  return lanes;
}

Content content_of(TableCopy& copy) {
  Content content;
  content.lanes = lanes_of(copy);
  SetsTaken sets(copy, content);
  size_t n = 0;
  for (uint64_t i = 0; i < copy.n_slots; ++i) n += word_set(copy.slots[i].word) != 0;
  content.entries.reserve(n);
  for (uint64_t i = 0; i < copy.n_slots; ++i) {
    const Slot& slot = copy.slots[i];
    if (word_set(slot.word) == 0) continue;
    const uint32_t set = sets.number_of(word_set(slot.word));
    if (set != kNobody) content.entries.push_back({slot.key, static_cast<uint64_t>(word_tag(slot.word)) << 32 | set});
  }
  copy.slots = {};
  content.sort();
  return content;
}

std::vector<TableCopy> copies_of(const std::vector<std::unique_ptr<TableCopying>>& copyings) {
  std::vector<Turns*> turns;
  for (const auto& copying : copyings) turns.push_back(&copying->turns());
  for (int round = 1;; ++round) {
    for (const auto& copying : copyings) copying->run();
    const auto locks = lock_all(turns);
    const bool done = std::all_of(copyings.begin(), copyings.end(), [](const auto& copying) { return copying->is_done(); });
    if (!done && round < kRounds) continue;
    std::vector<TableCopy> copies;
    for (const auto& copying : copyings) {
      copying->finish();
      copies.push_back(copying->take());
    }
    return copies;
  }
}

void check(const std::vector<std::shared_ptr<Table>>& tables) {
  std::vector<const Table*> known;
  for (const auto& table : tables) known.push_back(table.get());
  std::sort(known.begin(), known.end());
  if (tables.empty() || std::adjacent_find(known.begin(), known.end()) != known.end())
    throw Error(ErrorKind::input, "tables: expected one at least, and each once, got " + std::to_string(tables.size()));
}

}  // namespace

Snapshot::Snapshot(TableCopy copy, std::shared_ptr<std::atomic<uint64_t>> held_bytes) : copy_(std::move(copy)), held_bytes_(std::move(held_bytes)) {
  count(copy_.n_slots * sizeof(Slot) + Generation::load(&copy_.generation->header().arena_bytes));
}

void Snapshot::count(uint64_t bytes) {
  held_bytes_->fetch_add(bytes - bytes_);
  bytes_ = bytes;
}

const Content& Snapshot::content() {
  std::lock_guard guard(mutex_);
  if (!is_sorted_) {
    content_ = content_of(copy_);
    copy_ = TableCopy{};
    is_sorted_ = true;
    count(content_.bytes());
  }
  return content_;
}

std::vector<std::shared_ptr<Snapshot>> make_snapshots(const std::vector<std::shared_ptr<Table>>& tables) {
  static std::mutex one_at_a_time;
  check(tables);
  std::lock_guard alone(one_at_a_time);
  std::vector<TableCopy> copies;
  {
    std::vector<std::unique_ptr<TableCopying>> copyings;
    for (const auto& table : tables) copyings.push_back(std::make_unique<TableCopying>(*table));
    copies = copies_of(copyings);
  }
  std::vector<std::shared_ptr<Snapshot>> snapshots;
  for (size_t i = 0; i < tables.size(); ++i)
    snapshots.push_back(std::make_shared<Snapshot>(std::move(copies[i]), tables[i]->snapshot_bytes()));
  return snapshots;
}

}  // namespace kvatlas
