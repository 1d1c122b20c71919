// The engine blocks a mirror knows, and what they mean in block keys.
//
//   Node (32 bytes)  engine key | block key or slot | parent | segment | state | held children
//
// A node's shape says how engine blocks lie on index blocks. `whole`: each engine block is k >= 1
// whole index blocks (k == 1 keeps its key in the node). `parts`: index blocks begin or end
// inside it; tokens and family links are kept in a slot, since an index block is resident only
// while all engine blocks under it are.
//
// Thread safety: none; a mirror owns its nodes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

namespace kvatlas {

using NodeId = uint32_t;
inline constexpr NodeId kNoNode = 0xffffffffu;  // unknown
inline constexpr NodeId kRoot = 0xfffffffeu;    // the node begins a chain
inline constexpr NodeId kFree = 0xfffffffdu;    // the node is not in use
inline constexpr uint32_t kNodesMax = (1u << 24) - 1;  // ids are below it

enum NodeFlag : uint32_t {
  kIndexed = 1u << 0,      // it has block keys
  kCpu = 1u << 2,          // group 0: a cpu copy
  kCpuMore = 1u << 1,      // group 0: perhaps more cpu copies than one
  kCpuUnknown = 1u << 3,   // group 0: perhaps a cpu copy (after a clear); does not count as held
  kOther = 1u << 4,        // group 0: a copy in an unknown tier
  kGhost = 1u << 5,        // no copy anywhere; its meaning is kept for a while
  kForgotten = 1u << 6,    // no longer found by its engine key; kept only for its children
  kFresh = 1u << 7,        // became held by a dense store in this batch
  kThisEvent = 1u << 8     // ... in this event
};

inline constexpr uint32_t kEpochBits = 4;
inline constexpr uint64_t kUnplacedKey = 1;  // of a node that is not indexed: where it belongs is not known yet

struct Node {
  uint64_t engine_key;
  uint64_t key;       // whole, k == 1: the block key; else the number of its slot; not indexed: perhaps kUnplacedKey
  NodeId parent;      // a node only while held on gpu in group 0; a ghost keeps its stamp here; or kFree
  uint32_t segment;   // of its last index block
  uint32_t flags : 9;
  uint32_t gpu : 13;     // group 0: copies on gpu, at most kCopiesMax
  uint32_t offset : 7;   // first index block's place in its segment (whole shapes)
  uint32_t shape : 3;
  uint32_t gpu_children : 24;  // children held on gpu in group 0
  uint32_t epoch : kEpochBits;  // of the mirror, when `stale` was written; in a later one all of group 0 is stale
  uint32_t stale : 3;           // group 0: tiers of which the copies may be gone: gpu, cpu, other
  uint32_t gpu_more : 1;        // group 0: perhaps more copies on gpu than counted

  bool is(uint32_t flag) const { return (flags & flag) != 0; }
  bool is_found() const { return parent != kFree && !is(kForgotten); }  // by its engine key
  void set(uint32_t flag, bool on) { flags = on ? flags | flag : flags & ~flag; }
};
static_assert(sizeof(Node) == 32);
inline constexpr uint32_t kCopiesMax = (1u << 13) - 1;
inline constexpr uint32_t kShapesMax = 8;

// What a node of a `parts` shape has besides.
struct Part {
  uint64_t tip_key = 0;         // key of the last index block that ends at or before its end
  uint32_t start_token = 0;     // of the chain
  uint32_t n_keys = 0;          // index blocks that end inside it
  NodeId parent = kNoNode;      // kept alive by its children
  NodeId first_child = kNoNode;
  NodeId next_sibling = kNoNode;
  NodeId previous_sibling = kNoNode;
};

// Slots of the nodes of one shape whose keys do not fit into the node.
struct Shape {
  uint32_t block_size;  // of the engine
  uint32_t stride;      // most index blocks that end inside one engine block
  bool parts;

  std::vector<uint64_t> keys;           // [slots, stride]
  std::vector<uint64_t> segment_keys;   // [slots]: segment of the first key
  std::vector<uint32_t> first_blocks;   // [slots]: number of the first index block in the chain
  std::vector<uint32_t> tokens;         // parts: [slots, block_size]
  std::vector<Part> family;             // parts: [slots]
  std::vector<uint32_t> free;

  bool is_inline() const { return !parts && stride == 1; }
  uint32_t allocate();
  uint64_t bytes() const;
};

// Segments named by their first block's key, shared by the nodes in them.
class Segments {
 public:
  struct Segment {
    uint64_t first_key;
    uint32_t base;  // number of its first index block in the chain
    uint32_t refs;
  };
  uint32_t add(uint64_t first_key, uint32_t base);
  void retain(uint32_t id) { ++all_[id].refs; }
  void release(uint32_t id) {
    if (--all_[id].refs == 0) free_.push_back(id);
  }
  const Segment& operator[](uint32_t id) const { return all_[id]; }
  uint64_t bytes() const { return all_.capacity() * sizeof(Segment) + free_.capacity() * sizeof(uint32_t); }

 private:
  std::vector<Segment> all_;
  std::vector<uint32_t> free_;
};

class NodePool {
 public:
  Node& operator[](NodeId id) { return chunks_[id >> kChunkBits][id & kChunkMask]; }
  const Node& operator[](NodeId id) const { return chunks_[id >> kChunkBits][id & kChunkMask]; }
  NodeId allocate();  // kNoNode when there are kNodesMax
  void release(NodeId id) { free_.push_back(id); }
  NodeId end() const { return end_; }  // ids below it have been allocated at some time
  uint64_t bytes() const { return chunks_.size() * (sizeof(Node) << kChunkBits) + free_.capacity() * sizeof(NodeId); }

 private:
  static constexpr uint32_t kChunkBits = 10;
  static constexpr uint32_t kChunkMask = (1u << kChunkBits) - 1;
  std::vector<std::unique_ptr<Node[]>> chunks_;
  std::vector<NodeId> free_;
  NodeId end_ = 0;
};

// Finds nodes by a hash of theirs; several may share one. Open addressing, 4 bytes a slot: 8 bits of
// the hash, 24 of the node; the whole hash is read from the node (HashOf) where these 8 agree.
// Removal shifts back, so there are no tombstones.
template <class HashOf>
class NodeIndex {
 public:
  explicit NodeIndex(HashOf hash_of) : hash_of_(hash_of), slots_(64, kEmpty) {}

  void prefetch(uint64_t hash) const { __builtin_prefetch(&slots_[home(mix(hash))]); }
  // REQUIRES: nothing was inserted yet.
  void reserve(size_t n) { slots_.assign(std::max(slots_.size(), n + n / 3 + 64), kEmpty); }

  // The first node with this hash for which visit(id) is true, or kNoNode.
  template <class Visit>
  NodeId find(uint64_t hash, Visit visit) const {
    const uint64_t mixed = mix(hash);
    const uint32_t tag = tag_of(mixed);
    for (size_t at = home(mixed); slots_[at] != kEmpty; at = next(at)) {
      if ((slots_[at] & kTagMask) != tag) continue;
      const NodeId id = slots_[at] & kIdMask;
      if (hash_of_(id) == hash && visit(id)) return id;
    }
    return kNoNode;
  }
  NodeId find(uint64_t hash) const {
    return find(hash, [](NodeId) { return true; });
  }

  // Whether no other node may have this hash (8 bits of it were compared on the way).
  bool insert(uint64_t hash, NodeId id) {
    if ((size_ + 1) * 4 > slots_.size() * 3) grow();
    ++size_;
    return put(mix(hash), id);
  }

  void erase(uint64_t hash, NodeId id) {
    size_t at = home(mix(hash));
    while ((slots_[at] & kIdMask) != id) {
      if (slots_[at] == kEmpty) return;
      at = next(at);
    }
    --size_;
    for (size_t hole = at;;) {
      at = next(at);
      if (slots_[at] == kEmpty) {
        slots_[hole] = kEmpty;
        return;
      }
      // Move back what may stand in the hole: its home is not between hole and place.
      const size_t wanted = home(mix(hash_of_(slots_[at] & kIdMask)));
      if (distance(wanted, at) >= distance(hole, at)) {
        slots_[hole] = slots_[at];
        hole = at;
      }
    }
  }

  uint64_t bytes() const { return slots_.capacity() * sizeof(uint32_t); }

 private:
  static constexpr uint32_t kEmpty = ~0u;
  static constexpr size_t kSmallSlots = 1 << 17;  // below it growth doubles
  static constexpr uint32_t kIdMask = kNodesMax;
  static constexpr uint32_t kTagMask = ~kNodesMax;

  static uint64_t mix(uint64_t hash) { return hash * 0x9e3779b97f4a7c15ULL; }
  static uint32_t tag_of(uint64_t mixed) { return static_cast<uint32_t>(mixed) & kTagMask; }
  size_t home(uint64_t mixed) const {
    __extension__ typedef unsigned __int128 uint128;
    return static_cast<size_t>((static_cast<uint128>(mixed) * slots_.size()) >> 64);
  }
  size_t next(size_t at) const { return at + 1 == slots_.size() ? 0 : at + 1; }
  size_t distance(size_t from, size_t to) const { return to >= from ? to - from : to + slots_.size() - from; }

  bool put(uint64_t mixed, NodeId id) {
    size_t at = home(mixed);
    const uint32_t tag = tag_of(mixed);
    bool alone = true;
    for (; slots_[at] != kEmpty; at = next(at)) alone &= (slots_[at] & kTagMask) != tag;
    slots_[at] = tag | id;
    return alone;
  }
  void grow() {
    const size_t n = slots_.size();
    std::vector<uint32_t> old(n < kSmallSlots ? 2 * n : n + n / 2, kEmpty);
    old.swap(slots_);
    constexpr size_t kAhead = 16;
    for (size_t i = 0; i < n; ++i) {
      if (i + kAhead < n && old[i + kAhead] != kEmpty) hash_of_.prefetch(old[i + kAhead] & kIdMask);
      if (old[i] != kEmpty) put(mix(hash_of_(old[i] & kIdMask)), old[i] & kIdMask);
    }
  }

  HashOf hash_of_;
  std::vector<uint32_t> slots_;
  size_t size_ = 0;
};

}  // namespace kvatlas
