// One part of a segment memo: pieces by the hash of their text, within a bound of bytes.
//
// What goes first is chosen as S3-FIFO does. A new piece enters a small queue (a tenth of the bytes).
// Used again before it reaches the end, it moves on to the main queue, else it is dropped and only
// its hash is kept for a while (a ghost); coming back in that time it enters the main queue at once.
// In the main queue each use, up to three, is worth another round. Why: most pieces of a fleet's
// prompts are the last turns of chats and documents that never come again, and they must not push out system
// prompts and running chats. A use costs one store, and nothing is moved, unlike in a list ordered by use.
// Source: Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023.
//
// Always so:
// 1. No two pieces have the same hash. Whoever finds one compares the text; a piece whose hash is
//    taken by another text is not remembered (in 2^64 pieces once).
// 2. Each piece is in exactly one of the two queues.
// 3. bytes <= bytes_max, all memory of pieces, table and ghosts.
//
// Thread safety: any thread, any method; each takes the lock for some 100 ns, to clear it longer.
#pragma once

#include <cstdint>
#include <mutex>
#include <vector>

#include "tokenize/native/piece.hpp"

namespace kvatlas {

class MemoShard {
 public:
  struct Counts {
    uint64_t pieces = 0, bytes = 0, tokens = 0;  // held now
    uint64_t evicted = 0, refused = 0;           // since it was made
  };

  explicit MemoShard(size_t bytes_max) : bytes_max_(bytes_max) {}
  MemoShard(const MemoShard&) = delete;
  ~MemoShard() { clear(); }

  // The piece of this hash, which counts as used; empty: none is held.
  PieceRef find(uint64_t hash);

  // Remembers a piece, or refuses it: its hash is taken, it has no room, memory is short.
  // Not counted as refused: the same piece is there already, or is_current() (asked under the lock) is false.
  template <class IsCurrent>
  void add(PieceRef piece, const IsCurrent& is_current) {
    Dropped dropped;  // before the lock: they are freed after its release
    const std::lock_guard lock(mutex_);
    if (is_current()) insert(std::move(piece), dropped);
  }

  void clear();
  void refuse();
  Counts counts() const;

 private:
  // Pieces to let go of, linked through Piece::next_.
  class Dropped {
   public:
    Dropped() = default;
    Dropped(const Dropped&) = delete;
    ~Dropped();
    void push(Piece* piece);

   private:
    Piece* first_ = nullptr;
  };

  // First in, first out, through Piece::next_.
  struct Queue {
    Piece* first = nullptr;
    Piece* last = nullptr;
    size_t bytes = 0;
    void push(Piece* piece);
    Piece* pop();  // nullptr: empty
  };

  void insert(PieceRef piece, Dropped& dropped);
  bool make_room(size_t bytes, Dropped& dropped);
  void drop_one(Dropped& dropped);
  void drop(Piece* piece, Dropped& dropped);
  void grow_slots();
  size_t slot_of(uint64_t hash) const;
  void vacate(size_t slot);
  void remember_ghost(uint64_t hash);
  bool is_ghost(uint64_t hash) const;
  size_t ghost_slot(uint64_t hash) const { return (hash >> 16) & (ghosts_.size() - 1); }

  const size_t bytes_max_;
  mutable std::mutex mutex_;
  Counts counts_;
  std::vector<Piece*> slots_;    // by the hash's low bits, linear probing, at most 3/4 full; nullptr: free
  std::vector<uint32_t> ghosts_;  // the hashes' high halves, each in its own slot, newer ones over older ones; 0: free
  Queue small_, main_;
};

}  // namespace kvatlas
