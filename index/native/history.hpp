// Which worker was sent which blocks, and until when it is taken to hold them: what routing knows of caches
// before events say so, or where none come.
//
// A radix tree over block keys. A node is a run of a chain's keys with the slots (small numbers of workers) that
// were sent it; since keys are chained, one equal key says that all before it are equal, so a walk compares the
// end of a run first and searches it by halves only where chains part. A *claim* is (node, slot).
//
//     [k0 k1 k2 k3] {0, 1, 2}          slots 0, 1, 2 were sent a prompt that begins with four blocks,
//        |-- [k4 k5] {0}               slot 0 one that goes on for two, slot 2 one that goes on otherwise
//        `-- [m4 m5 m6] {2}
//
// Invariants:
//   1. A slot that has a claim on a node has one on its parent, which lasts at least as long.
//   2. A slot's claims stand in a list, oldest first, children before their parents. So what goes first is
//      always an end of a chain, as in an engine's cache.
//   3. A node has a claim; the one of its parent's children that begins with a key is found by it.
//   4. `blocks`, the sum over claims of their nodes' lengths, is at most blocks_max, a slot's at most its limit.
//
// Cost: a note or a look takes one lookup a node of the path (chats: one a turn), and one step for each slot
// that holds the node; a note besides copies the keys that are new. Memory: 8 bytes a key, about 200 a claim and
// node; at worst, where every prompt is one block longer than another, each block is a node.
//
// Thread safety: any thread may call any method; calls take turns, for microseconds. Nothing here touches
// Python, so a caller may hold the GIL. Times are the caller's clock, in seconds, and are never read here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace kvatlas {

struct HistoryStatistics {
  uint64_t blocks = 0;  // claimed now
  uint64_t blocks_max = 0;
  uint64_t nodes = 0;
  uint64_t claims = 0;
  uint64_t notes = 0;           // since the start, as all below
  uint64_t evicted_blocks = 0;  // for want of room, the slot's or the whole one's
  uint64_t expired_blocks = 0;
  uint64_t dropped_blocks = 0;  // asked for by drop() and forget()
  uint64_t refused_notes = 0;   // cut short: keys that are no chain
};

class History {
 public:
  static constexpr uint32_t kSlotsMax = 1 << 16;

  explicit History(uint64_t blocks_max) : blocks_max_(blocks_max) {}
  History(const History&) = delete;

  // The slot was sent these blocks, a chain from its start, and counts as holding them until then (or until
  // an earlier note says, if later). Of more than fits, the front stays. Returns the note's number, 0 where
  // there was nothing to note. Throws Error{input}: slot, times.
  uint64_t note(uint32_t slot, const uint64_t* keys, size_t n, double now_s, double until_s);

  // Leading blocks of the chain that each slot [n_slots] was sent and still counts as holding, into `out`.
  // False: none of them any (`out` is then not written). Throws Error{input} for a time that is none.
  bool hints(const uint64_t* keys, size_t n, const uint32_t* slots, size_t n_slots, double now_s, float scale, std::vector<float>& out);

  // Takes a note back: what it was the first to say of the slot, and nobody has said since.
  void drop(uint32_t slot, const uint64_t* keys, size_t n, uint64_t note);

  // What the slot can hold at most, in blocks. At first blocks_max.
  void set_limit(uint32_t slot, uint64_t blocks);

  // All claims of a slot end, and so does its limit.
  void forget(uint32_t slot);

  HistoryStatistics statistics() const;

 private:
  static constexpr uint32_t kNone = ~0u;
  static constexpr int kExpiredMost = 64;  // claims of one slot that one note ends, so that none waits for long

  struct Held {
    uint32_t slot = 0, claim = 0;
    uint32_t n_children = 0;  // claims of the slot on children of the node
    double until_s = 0;
  };
  struct Node {
    std::vector<uint64_t> keys;
    std::vector<Held> held;
    uint32_t parent = kNone;
  };
  struct Claim {
    uint32_t node = kNone, slot = 0;
    uint32_t older = kNone, newer = kNone;  // of the same slot
    uint64_t first = 0, last = 0;           // numbers of the notes that made it, and were the last to say it
  };
  struct Slot {
    uint32_t oldest = kNone, newest = kNone;
    uint64_t blocks = 0, limit = ~uint64_t{0};
  };
  struct Step {
    uint32_t node;
    size_t blocks;  // of the node that are the chain's, at least 1
  };

  void walk(const uint64_t* keys, size_t n, std::vector<Step>& path) const;
  bool make_path(const uint64_t* keys, size_t n);
  Held* held(uint32_t node, uint32_t slot);
  Slot& slot_of(uint32_t slot);
  uint32_t new_node(const uint64_t* keys, size_t n, uint32_t parent);
  uint32_t new_claim(uint32_t node, uint32_t slot);
  // The front of a node becomes one of its own, before it; kNone where keys that are no chain forbid it.
  uint32_t split(uint32_t node, size_t at);
  void claim(uint32_t node, uint32_t slot, double until_s, uint64_t note);
  void end_claim(uint32_t claim);
  void link_newest(uint32_t claim);
  void link_after(uint32_t claim, uint32_t older);
  void unlink(uint32_t claim);
  void evict(Slot& slot, uint64_t blocks);
  void evict_oldest();
  void expire(Slot& slot, double now_s);

  mutable std::mutex mutex_;
  const uint64_t blocks_max_;
  std::unordered_map<uint64_t, uint32_t> node_of_first_;
  std::vector<Node> nodes_;
  std::vector<Claim> claims_;
  std::vector<Slot> slots_;
  std::vector<uint32_t> free_nodes_, free_claims_;
  std::vector<Step> path_;     // scratch of the call at hand
  std::vector<float> depths_;  // the same, by slot; zeros between calls
  size_t swept_ = 0;           // the slot whose claims were last looked through for expired ones
  double latest_s_ = 0;        // until when any claim lasts at most
  HistoryStatistics counts_;
};

}  // namespace kvatlas
