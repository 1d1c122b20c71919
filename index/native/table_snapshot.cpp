#include "index/native/table_snapshot.hpp"

#include <algorithm>
#include <cstring>
#include <string>

#include "index/native/error.hpp"

namespace kvatlas {
namespace {

constexpr uint64_t kTurnSlots = 1 << 15;
constexpr uint32_t kAttempts = 1000;

}  // namespace

TableCopying::TableCopying(Table& table) : table_(table) {
  std::lock_guard turn(table.writer_);
  table.require_open();
  const uint64_t held = table.snapshot_bytes_->load();
  const uint64_t wanted = (table.live_->generation->n_slots() + table.live_->entries) * sizeof(Slot);
  if (held > 0 && held + wanted > table.bytes_max_)
    throw Error(ErrorKind::dump, "snapshot: expected at most " + std::to_string(table.bytes_max_) + " bytes of snapshots held of one table, got " +
                                     std::to_string(held) + " and " + std::to_string(wanted) + " more: let go of one");
  table.copy_ = std::make_unique<Table::Copy>();
}

TableCopying::~TableCopying() {
  std::lock_guard turn(table_.writer_);
  table_.copy_.reset();
}

bool TableCopying::is_done() const { return table_.copy_->slots.size() > 0 && table_.copy_->cursor == table_.live_->generation->n_slots(); }

// Slots without memory behind them are empty ones, in the copy as well.
void TableCopying::step(uint64_t n_slots) {
  Table::Copy& copy = *table_.copy_;
  const Generation& g = *table_.live_->generation;
  if (copy.slots.size() == 0) copy.slots = Zeroed<Slot>(g.n_slots());
  const uint64_t end = std::min({g.n_slots(), g.backed_slots(), copy.cursor + n_slots});
  if (end > copy.cursor) std::memcpy(&copy.slots[copy.cursor], g.slots() + copy.cursor, (end - copy.cursor) * sizeof(Slot));
  copy.cursor = end >= g.backed_slots() ? g.n_slots() : end;
}

void TableCopying::run() {
  for (bool done = false; !done;) {
    std::lock_guard turn(table_.writer_);
    table_.require_open();
    step(kTurnSlots);
    done = is_done();
  }
}

void TableCopying::finish() {
  table_.require_open();
  while (!is_done()) step(~0ull >> 1);
}

TableCopy TableCopying::take() {
  Table::Copy& copy = *table_.copy_;
  TableCopy taken{table_.live_->generation, std::move(copy.slots), copy.cursor, std::vector<uint32_t>(table_.phys_next_)};
  copy = Table::Copy{};
  for (uint32_t phys = 0; phys < table_.phys_next_; ++phys) taken.lane_words[phys] = taken.generation->lane_word(phys);
  return taken;
}

std::vector<std::unique_lock<Turns>> lock_all(const std::vector<Turns*>& turns) {
  size_t first = 0;  // waited for while nothing else is held: the one that was busy last time
  for (uint32_t attempt = 0; attempt < kAttempts; ++attempt) {
    std::vector<std::unique_lock<Turns>> locks;
    locks.emplace_back(*turns[first]);
    size_t busy = first;
    for (size_t i = 0; i < turns.size() && busy == first; ++i) {
      if (i == first) continue;
      locks.emplace_back(*turns[i], std::try_to_lock);
      if (!locks.back().owns_lock()) busy = i;
    }
    if (busy == first) return locks;
    locks.clear();
    first = busy;
  }
  std::vector<Turns*> ordered = turns;
  std::sort(ordered.begin(), ordered.end());
  std::vector<std::unique_lock<Turns>> locks;
  for (Turns* one : ordered) locks.emplace_back(*one);
  return locks;
}

}  // namespace kvatlas
