#include "tokenize/native/memo_shard.hpp"

#include <algorithm>
#include <bit>

namespace kvatlas {
namespace {

constexpr size_t kSlotsMin = 16;
constexpr size_t kSmallShare = 10;       // the small queue keeps at least a tenth of the bytes
constexpr size_t kBytesPerGhost = 2048;  // of the bound: about a ghost for each piece of a few hundred tokens
constexpr uint8_t kUsesMax = 3;

}  // namespace

void MemoShard::Queue::push(Piece* piece) {
  piece->next_ = nullptr;
  piece->uses_ = 0;
  (last == nullptr ? first : last->next_) = piece;
  last = piece;
  bytes += piece->cost_bytes();
}

Piece* MemoShard::Queue::pop() {
  Piece* piece = first;
  if (piece == nullptr) return nullptr;
  first = piece->next_;
  if (first == nullptr) last = nullptr;
  bytes -= piece->cost_bytes();
  return piece;
}

void MemoShard::Dropped::push(Piece* piece) {
  piece->next_ = first_;
  first_ = piece;
}

MemoShard::Dropped::~Dropped() {
  while (first_ != nullptr) PieceRef::adopt(std::exchange(first_, first_->next_));
}

// The slot that holds this hash, or the free one where it would go. REQUIRES: a free slot.
size_t MemoShard::slot_of(uint64_t hash) const {
  const size_t mask = slots_.size() - 1;
  size_t slot = hash & mask;
  while (slots_[slot] != nullptr && slots_[slot]->hash() != hash) slot = (slot + 1) & mask;
  return slot;
}

PieceRef MemoShard::find(uint64_t hash) {
  const std::lock_guard lock(mutex_);
  if (slots_.empty()) return {};
  Piece* piece = slots_[slot_of(hash)];
  if (piece == nullptr) return {};
  if (piece->uses_ < kUsesMax) ++piece->uses_;
  return PieceRef::share(piece);
}

void MemoShard::insert(PieceRef piece, Dropped& dropped) {
  if (!slots_.empty()) {
    const Piece* held = slots_[slot_of(piece->hash())];
    if (held != nullptr) {
      if (held->text() != piece->text()) ++counts_.refused;
      return;
    }
  }
  try {
    if (!make_room(piece->cost_bytes(), dropped)) {
      ++counts_.refused;
      return;
    }
    if ((counts_.pieces + 1) * 4 > slots_.size() * 3) grow_slots();
  } catch (const std::bad_alloc&) {
    ++counts_.refused;
    return;
  }
  Queue& queue = is_ghost(piece->hash()) ? main_ : small_;
  counts_.bytes += piece->cost_bytes();
  counts_.tokens += piece->n_tokens();
  ++counts_.pieces;
  const size_t slot = slot_of(piece->hash());
  slots_[slot] = piece.release();
  queue.push(slots_[slot]);
}

// Drops pieces until so many bytes more are within the bound; false: they never will be.
bool MemoShard::make_room(size_t bytes, Dropped& dropped) {
  if (bytes > bytes_max_) return false;
  auto needed = [&] {
    const bool grows = (counts_.pieces + 1) * 4 > slots_.size() * 3;
    const size_t slots = grows ? std::max(kSlotsMin, slots_.size() * 2) - slots_.size() : 0;
    return counts_.bytes + bytes + slots * sizeof(Piece*);
  };
  while (needed() > bytes_max_) {
    if (counts_.pieces == 0) return false;
    drop_one(dropped);
  }
  return true;
}

void MemoShard::drop_one(Dropped& dropped) {
  if (ghosts_.empty() && bytes_max_ >= kBytesPerGhost) {
    ghosts_.resize(std::bit_floor(bytes_max_ / kBytesPerGhost));
    counts_.bytes += ghosts_.size() * sizeof(uint32_t);
  }
  for (;;) {
    const bool from_small = small_.bytes > bytes_max_ / kSmallShare || main_.first == nullptr;
    if (from_small) {
      Piece* piece = small_.pop();
      if (piece->uses_ == 0) {
        remember_ghost(piece->hash());
        return drop(piece, dropped);
      }
      main_.push(piece);
    } else {
      Piece* piece = main_.pop();
      if (piece->uses_ == 0) return drop(piece, dropped);
      const uint8_t left = piece->uses_ - 1;
      main_.push(piece);
      piece->uses_ = left;
    }
  }
}

void MemoShard::drop(Piece* piece, Dropped& dropped) {
  vacate(slot_of(piece->hash()));
  counts_.bytes -= piece->cost_bytes();
  counts_.tokens -= piece->n_tokens();
  --counts_.pieces;
  ++counts_.evicted;
  dropped.push(piece);
}

// Frees a slot and moves back those behind it that would no longer be found.
void MemoShard::vacate(size_t slot) {
  const size_t mask = slots_.size() - 1;
  for (size_t at = (slot + 1) & mask; slots_[at] != nullptr; at = (at + 1) & mask) {
    const size_t home = slots_[at]->hash() & mask;
    if (((at - home) & mask) < ((at - slot) & mask)) continue;  // its way does not lead past the free slot
    slots_[slot] = slots_[at];
    slot = at;
  }
  slots_[slot] = nullptr;
}

void MemoShard::grow_slots() {
  std::vector<Piece*> before(std::max(kSlotsMin, slots_.size() * 2));
  before.swap(slots_);
  counts_.bytes += (slots_.size() - before.size()) * sizeof(Piece*);
  for (Piece* piece : before)
    if (piece != nullptr) slots_[slot_of(piece->hash())] = piece;
}

void MemoShard::remember_ghost(uint64_t hash) {
  if (!ghosts_.empty()) ghosts_[ghost_slot(hash)] = static_cast<uint32_t>(hash >> 32) | 1;
}

bool MemoShard::is_ghost(uint64_t hash) const {
  return !ghosts_.empty() && ghosts_[ghost_slot(hash)] == (static_cast<uint32_t>(hash >> 32) | 1);
}

void MemoShard::clear() {
  Dropped dropped;
  const std::lock_guard lock(mutex_);
  for (Queue* queue : {&small_, &main_})
    while (Piece* piece = queue->pop()) dropped.push(piece);
  slots_ = {};
  ghosts_ = {};
  counts_.pieces = counts_.bytes = counts_.tokens = 0;
}

void MemoShard::refuse() {
  const std::lock_guard lock(mutex_);
  ++counts_.refused;
}

MemoShard::Counts MemoShard::counts() const {
  const std::lock_guard lock(mutex_);
  return counts_;
}

}  // namespace kvatlas
