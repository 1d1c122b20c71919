// How entries get from the live generation into the next: most of what applying a key costs at the byte budget.
//
// Both lie in the order of their keys' homes, so copying is a merge: what is read and what is written are a few
// lines each, one after the other. By chance lie only what is known of buckets and sets, fetched ahead.
#include <algorithm>

#include "index/native/error.hpp"
#include "index/native/table.hpp"
#include "index/native/table_rebuild.hpp"

namespace kvatlas {
namespace {

constexpr uint64_t kBlock = 16;       // slots looked at together
constexpr uint64_t kLinesAhead = 32;  // of the live slots, beyond what a block fetches: a page's end stops the processor's own
constexpr uint64_t kSlotsALine = 64 / sizeof(Slot);
constexpr uint32_t kNobody = ~0u;     // of a set: its lanes are all dead

// Where the next key goes: slots [begin, end) are taken. Keys come nearly in the order of their homes, so most go to
// the run's end, or begin another one behind it, and none is searched for from its home on.
class Run {
 public:
  Run(Generation& to, uint64_t begin, uint64_t end) : to_(to), slots_(to.slots()), backed_(to.backed_slots()), begin_(begin), end_(end) {}

  uint64_t begin() const { return begin_; }
  uint64_t end() const { return end_; }

  // Throws Error{table_file} when there is none.
  Slot& slot_for(uint64_t key) {
    const uint64_t home = to_.home(key);
    uint64_t at = home >= begin_ ? std::max(home, end_) : home;
    for (;; ++at) {
      if (at >= backed_) back(at);
      if (slots_[at].key == 0) break;
    }
    if (at >= end_) {
      begin_ = home > end_ ? home : begin_;
      end_ = at + 1;
    }
    return slots_[at];
  }

 private:
  void back(uint64_t at) {
    if (at >= to_.n_slots()) throw Error(ErrorKind::table_file, "the next generation is full");
    to_.back_slots(at + 1);
    backed_ = to_.backed_slots();
  }

  Generation& to_;
  Slot* const slots_;
  uint64_t backed_, begin_, end_;
};

}  // namespace

void Table::copy_slots(uint64_t end) {
  Rebuild& rebuild = *rebuild_;
  Writing& next = *rebuild.next;
  const Slot* from = live_->generation->slots();
  Run run(*next.generation, rebuild.run_begin, rebuild.run_end);
  uint64_t n_copied = 0;
  for (uint64_t at = rebuild.cursor; at < end;) {
    const uint64_t block_end = std::min(end, at + kBlock);
    rebuild.fetch(from, block_end, std::min(end, block_end + kBlock), heat_);
    for (; at < block_end; ++at) {
      const Slot slot = from[at];
      if (word_set(slot.word) == 0) continue;
      const uint32_t bucket = heat_.bucket_of(word_tag(slot.word));
      if (rebuild.cut.is_cold(bucket) && rebuild.may_go(at)) {
        leave_behind(slot.word, bucket);
        continue;
      }
      const uint32_t set = copied_set(word_set(slot.word), bucket);
      if (set == kNobody) continue;
      run.slot_for(slot.key) = {slot.key, (slot.word & ~0xffffffffull) | set};
      ++n_copied;
      ++next.contents.entries[bucket];
    }
  }
  next.slots_used += n_copied;
  next.entries += n_copied;
  rebuild.cursor = end;
  rebuild.run_begin = run.begin();
  rebuild.run_end = run.end();
}

// For the slots [begin, end), that are copied soon.
[[gnu::always_inline]] inline void Table::Rebuild::fetch(const Slot* from, uint64_t begin, uint64_t end, const Heat& heat) const {
  for (uint64_t at = begin; at < end; at += kSlotsALine) __builtin_prefetch(from + at + kLinesAhead * kSlotsALine);
  for (uint64_t at = begin; at < end; ++at) {
    const uint64_t word = from[at].word;
    __builtin_prefetch(&next->contents.entries[heat.bucket_of(word_tag(word))], 1);
    if (word_set(word) < known.size()) __builtin_prefetch(&known[word_set(word)]);
  }
}

// The same set in the next generation, without the lanes that are dead.
inline uint32_t Table::copied_set(uint32_t set, uint32_t bucket) {
  const uint32_t copied = set < rebuild_->known.size() ? rebuild_->known[set] : 0;
  return copied != 0 ? copied : copy_set(set, bucket);
}

uint32_t Table::copy_set(uint32_t set, uint32_t bucket) {
  const Generation& g = *live_->generation;
  const SetView view = g.set(set);
  std::vector<uint32_t> alive;
  for (uint32_t i = 0; i < view.count; ++i)
    if (g.lane_word(view.elements[i] >> 8) != 0) alive.push_back(view.elements[i]);
  Writing& next = *rebuild_->next;
  const uint64_t before = next.sets.used_bytes();
  const uint32_t copied = alive.empty() ? kNobody : next.sets.intern(alive.data(), static_cast<uint32_t>(alive.size()));
  if (next.sets.used_bytes() != before) next.contents.charge_sets(bucket, next.sets.used_bytes() - before);
  if (set < rebuild_->known.size()) rebuild_->known[set] = copied;
  return copied;
}

void Table::leave_behind(uint64_t word, uint32_t bucket) {
  unload(word);
  ++rebuild_->n_left_behind;
  rebuild_->n_unused += rebuild_->cut.is_unused(bucket);
}

void Table::unload(uint64_t word) {
  const SetView view = live_->generation->set(word_set(word));
  for (uint32_t i = 0; i < view.count; ++i) {
    const uint32_t phys = view.elements[i] >> 8;
    mark_lossy(phys);
    if (phys_load_[phys] > 0) --phys_load_[phys], --total_load_;
  }
}

// Left of the cursor it is in the next one already, or was left behind. Right of it, what was added to stays: it is new.
void Table::written(uint64_t at, uint64_t key, const Change& change) {
  if (at >= live_->generation->n_slots()) return;
  if (at >= rebuild_->cursor) {
    if (change.add && rebuild_->cut.leaves_something()) rebuild_->stay(at);
    return;
  }
  try {
    put(*rebuild_->next, key, change);
  } catch (const Error&) {
    abandon_rebuild();
  }
}

}  // namespace kvatlas
