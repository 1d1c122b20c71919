// The exact content of one worker's cache, as its events tell it; what changes in terms of block
// keys comes out as delta records for each shard.
//
//   events -> [ engine key -> node: block key, parent, copies by tier and group ] -> deltas
//
// Rules (docs/events.md tells why):
//  - copies are counted by (tier, group); a report of blocks already held never adds one;
//  - a block is resident while all engine blocks under it are held; two engine keys that mean one
//    block key count as one;
//  - offloaded copies are resolved through engine keys, also for a while after the last copy went;
//  - a block that a group with only some names first is *unplaced*: held by its engine key, without
//    block keys until a dense store names it; a group is announced before or after its dense one;
//  - what cannot be placed is counted by reason, never guessed;
//  - a store from parent nil is a report or a true copy. Fewer blocks than tokens: a true copy. Stores
//    of the same tokens, one a group, stand and fall together: true copies if one is, or if what
//    they name is no hit of its whole length (a report is of what was found), else unsure.
//
// What it knows of its own exactness (claims()):
//  - the copies counted on gpu are a lower bound, and a removal takes one. Where the engine may have
//    more (what may be a report may be a true copy; a report named an absent block of a group that
//    keeps only some) the block is marked, and is a `maybe` while no copy of it is counted. Only a
//    clear or a restart ends the mark: a block that is forgotten with it stays in the sum;
//  - a cpu copy unknown since a clear is a `maybe` until it is stored or removed there. Stored twice
//    (two offloaded chunks may share a block) it is marked: a removal leaves a `maybe`, to the end;
//  - doubt(): batches were lost for good, so every copy held may be gone; it is *stale*. A store of
//    a stale block on gpu proves one copy, no more: it counts 1 and is marked as above. A removal
//    takes all that were counted, and marks. A report in a group that keeps only some blocks proves
//    nothing: the block stays stale. Elsewhere a store proves the copy and a removal ends it;
//  - from a doubt to the next clear or restart blocks that are new to us need not be new: where a
//    store from parent nil, in a group that keeps only some, is believed because they are, the copy
//    is stale from the start;
//  - what was announced and could not be kept or placed is counted as lost, by where it lies.
// Each of these errs towards forgetting: what is held and not stale, the engine holds.
//
// Thread safety: any thread may call any method; calls take turns on a mutex. Every buffer is
// bounded: ghosts and orphans by the limits, nodes by what the engine holds.
#pragma once

#include <array>
#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "index/native/delta.hpp"
#include "index/native/keys.hpp"
#include "index/native/match.hpp"
#include "ingest/native/decode.hpp"
#include "ingest/native/delta_log.hpp"
#include "ingest/native/key_counts.hpp"
#include "ingest/native/mirror_snapshot.hpp"
#include "ingest/native/nodes.hpp"
#include "ingest/native/orphans.hpp"
#include "ingest/native/store.hpp"

namespace kvatlas {

enum class Count : uint8_t {
  events_stored, events_removed, events_cleared, blocks_stored, blocks_removed,
  duplicates, reported, unresolved, removed_unknown, removed_not_held, partial_block, lora_unnamed,
  extras_absent, extras_opaque, extras_ambiguous, extras_unsupported, extras_without_offset,
  extras_misaligned, chain_unindexed, unknown_medium, orphaned, orphans_stitched, orphans_dropped,
  store_parts, copies_saturated, no_lane, block_sizes, nodes_full, store_full, store_not_shared,
  store_waiting, store_stale, not_a_store, inventories, kCounts
};
const char* count_name(Count count);

struct MirrorLimits {
  uint64_t ghosts_max = 8192;  // at least 1
  uint64_t orphans_max = 4096;
  uint64_t orphan_bytes_max = 4 << 20;
};

class Mirror {
 public:
  Mirror(Keyspace keyspace, uint32_t n_shards, MirrorLimits limits);

  // Where a group's blocks are resident, and whether it is a full-attention group.
  void set_lane(uint16_t group, uint32_t lane, bool full_attention);
  // Stores the worker is attached to; `disk` and `storage` receive its events of these tiers,
  // attached or not (a file may be removed by a pod that never wrote one). No `storage` and
  // `storage_is_shared` false: storage events are counted and left out, since others hear its removals.
  void set_stores(std::shared_ptr<Store> disk, std::shared_ptr<Store> storage, std::vector<std::shared_ptr<Store>> attached,
                  bool storage_is_shared = true);
  // Blocks of a file that its announcement does not tell, the named one included.
  void set_chunk_blocks(uint32_t blocks);
  // It is no worker: it announces the files of `storage`, and nothing else it says counts.
  void set_announcer();
  void set_lora_names(std::unordered_map<uint64_t, std::string> names);

  // Whether lanes and stores are set for all that the batch names, and its groups' kinds are as set.
  bool knows(const Batch& batch);
  // Applies a decoded batch. Bad events do not get here; nothing in a batch can fail.
  void apply(const Batch& batch);
  // Forgets everything and goes on in another keyspace; deltas clear the lanes.
  void restart(Keyspace keyspace);
  // Hands each shard's delta records, gathered since the last flush, to sink(shard, bytes).
  template <class Sink>
  void flush(Sink sink);
  // Where engine keys are told from now on, those already known at once; null: nowhere, which costs nothing.
  //   record := engine key u64 | count u32 | gone u32 | block key u64 x count     the blocks that end in it
  // gone 1: it is not known any more. What it forgets in a restart is told as gone, too.
  void set_engine_keys(std::shared_ptr<DeltaLog> log);
  // All that are known, once more: after a loss in the log, or a restore.
  void tell_engine_keys();
  // The same for all shards of another layout: the whole content as additions.
  std::vector<std::vector<uint8_t>> content(uint32_t n_shards);

  uint32_t n_shards() const { return static_cast<uint32_t>(out_.size()); }
  // Visits (group, tier bits, block key) of every resident block; a block may come more than once.
  template <class Visit>
  void each_resident(Visit visit);

  uint64_t count(Count c) const { return counts_[static_cast<size_t>(c)]; }
  struct Sizes {
    uint64_t nodes, ghosts, orphans, orphan_bytes, bytes, held_gpu, held_cpu, holes;
    bool closed;
  };
  Sizes sizes();

  // Batches were lost for good, or never heard (a late join): all that is held becomes stale, orphans
  // are dropped. No delta.
  // Cost: a sweep over an eighth of what is held (2 ms for 1 M blocks).
  void doubt();
  // Begins to write down the content as it is now; returns the snapshot's number. Throws
  // Error{checkpoint} while another is under way.
  uint64_t begin_snapshot();
  // Its next part into `out`: at least one slice, or what was kept, and no more once it is bytes_max.
  // False: there is none left. Throws Error{checkpoint} when it is no longer under way.
  bool snapshot_part(uint64_t number, size_t bytes_max, Bytes& out);
  void end_snapshot(uint64_t number);  // abandons it, if it is still under way
  // The opposite. REQUIRES: lanes are set. Throws Error{input} unless nothing is known yet,
  // Error{checkpoint} for anything that no mirror would have written; then nothing is known.
  // No deltas: content() has them; but for what it teaches stores.
  void restore(const std::vector<std::string_view>& parts);

  // All 0, and no doubt of the stream's: what is held is what the engine holds. Counts of (block, group).
  struct Claims {
    uint64_t maybe_gpu, maybe_cpu;  // perhaps held, not counted as held
    uint64_t orphans_waiting;       // blocks that wait for a parent
    uint64_t lost_blocks;           // announced on gpu, not kept or placed, since the last clear or restart
    uint64_t lost_offloaded;        // ... in cpu or an unknown tier, since the last restart
    uint64_t lost_stored;           // ... in a store, ever
    uint64_t unindexed_held;        // held, without block keys
    uint64_t unlinked_parts;        // forgotten, known again, and blocks that begin in them do not see it
    uint64_t stale;                 // (block, group, tier) held that may be gone
    uint64_t gpu_copies;            // copies on gpu counted, over all groups; no doubt, a size
    uint64_t extras_absent;         // events without extra keys since the last restart
    uint64_t offloaded;             // cpu stores and removals since the last restart; no doubt
    uint64_t clears;                // events that emptied the gpu, ever; no doubt
  };
  Claims claims();
  // Changes when a claim comes to be or ceases to be zero, or the gpu was cleared. Any thread, no lock.
  uint32_t claims_changed() const { return claims_changed_.load(std::memory_order_relaxed); }

 private:
  // Copies of one node in one group.
  struct Copies {
    uint16_t gpu = 0;
    bool gpu_more = false;  // perhaps more than counted
    bool cpu = false, cpu_unknown = false, other = false;
    bool cpu_more = false;  // beside one of the first two: perhaps more than one
    uint8_t stale = 0;   // tiers of mask()
    uint32_t epoch = 0;  // groups other than 0: of `stale`
    uint8_t mask() const { return static_cast<uint8_t>((gpu > 0 ? 1 : 0) | (cpu ? 2 : 0) | (other ? 16 : 0)); }
    bool none() const { return gpu == 0 && !gpu_more && !cpu && !cpu_unknown && !other; }
    bool sure_on_gpu() const { return gpu > 0 && (stale & 1) == 0; }
    void cleared();
  };
  // Over all nodes and groups.
  struct Sums {
    uint64_t gpu = 0, cpu = 0, other = 0;  // held in the tier
    uint64_t gpu_copies = 0, stale = 0, maybe_gpu = 0, maybe_cpu = 0, unindexed = 0;
  };
  // Where a chain has come to.
  struct Tip {
    uint64_t key = 0;
    uint32_t next_block = 0;
    uint32_t token = 0;
    uint32_t segment = kNoSegment;
    bool indexed = true;
    NodeId node = kRoot;
  };
  static constexpr uint32_t kNoSegment = ~0u;
  static constexpr uint32_t kStride = 16;  // blocks looked up before they are held
  struct EngineKeyOf {
    const NodePool* nodes;
    uint64_t operator()(NodeId id) const { return (*nodes)[id].engine_key; }
    void prefetch(NodeId id) const { __builtin_prefetch(&(*nodes)[id]); }
  };
  struct KeyOf {  // of nodes that are one index block
    const NodePool* nodes;
    uint64_t operator()(NodeId id) const { return (*nodes)[id].key; }
    void prefetch(NodeId id) const { __builtin_prefetch(&(*nodes)[id]); }
  };

  void tally(Count c, uint64_t n = 1) { counts_[static_cast<size_t>(c)] += n; }

  // Events.
  void stored(const Batch& batch, const Event& event);
  void stored_dense(const Batch& batch, const Event& event);
  void stored_by_key(const Batch& batch, const Event& event, bool sparse);
  void stored_in_memory(const Batch& batch, const Event& event);
  void stored_in_store(const Batch& batch, const Event& event, Store& store);
  void removed(const Batch& batch, const Event& event);
  void removed_from_store(const Batch& batch, const Event& event, Store* store);
  void take_inventory(const Event& event);
  void hold(uint64_t engine_key, const Event& event, uint32_t chunk_blocks, uint32_t n_named, Store& store);
  void cleared();
  void settle_after_clear(NodeId id);
  void place(const Batch& batch, const Event& event, Tip tip, const std::vector<bool>* cancelled);
  void wait(const Batch& batch, const Event& event);
  void stitch(const Batch& batch, const Event& event);

  // Stores.
  void learn(NodeId id, uint64_t parent_key);
  void learn_elsewhere(uint64_t engine_key, uint32_t chunk_blocks, Store& store);
  void teach_attached();
  void teach_all(Store& store);
  void emit_changes(const Store& store);
  uint64_t owner() const { return reinterpret_cast<uintptr_t>(this); }

  // Nodes.
  NodeId find(uint64_t engine_key) const { return by_engine_key_.find(engine_key); }
  NodeId resolve(uint64_t engine_key);  // also through the attached stores
  Tip tip_of(NodeId id) const;
  NodeId new_node(uint64_t engine_key);
  NodeId create(uint64_t engine_key, const Tip& tip, const Batch& batch, const Event& event, uint32_t i);
  static constexpr int kUnindexed = -1;
  std::optional<int> shape_at(const Tip& tip, const Batch& batch, const Event& event, uint32_t i, BlockExtras& extras);
  void key_node(NodeId id, int shape, const Tip& tip, const uint32_t* tokens, const BlockExtras& extras);
  static bool is_unplaced(const Node& node) { return !node.is(kIndexed) && node.key == kUnplacedKey; }
  NodeId create_unplaced(uint64_t engine_key);
  bool settle_unplaced(NodeId id, const Tip& tip, const Batch& batch, const Event& event, uint32_t i);
  bool enter(NodeId id);
  NodeId create_known(uint64_t engine_key, const Meaning& meaning);
  void key_whole(NodeId id, const Tip& tip, Shape& shape, const uint32_t* tokens, const BlockExtras* extras);
  void key_parts(NodeId id, const Tip& tip, Shape& shape, const uint32_t* tokens, const BlockExtras* extras);
  void relink(NodeId id, NodeId parent);
  void join_family(NodeId id, Part& part, NodeId parent);
  void leave_family(Part& part);
  bool gather(NodeId id, uint32_t begin_token, uint32_t end_token, uint32_t* out, NodeId* first) const;
  int shape_for(uint32_t block_size, bool parts);
  uint32_t n_keys(const Node& node) const;
  uint32_t n_forgotten_parts(uint64_t engine_key) const;
  const Part* part_of(const Node& node) const;
  Part* part_of(const Node& node);
  void tell_engine_key(NodeId id, bool gone);
  void tell_all_engine_keys(bool gone);
  void haunt(NodeId id);     // it has lost its last copy
  void forget(NodeId id);    // no longer found
  void release(NodeId id);   // memory back, when nothing needs it
  void trim_ghosts();

  // Snapshots.
  friend class MirrorRestore;
  void keep(NodeId id) {
    if (snapshot_) keep_as_it_was(id);
  }
  void keep_as_it_was(NodeId id);
  Bytes snapshot_head() const;
  void write_node(NodeId id, Bytes& out) const;
  void write_groups(NodeId id, Bytes& out) const;
  void write_whole(const Node& node, Bytes& out) const;
  void write_part(const Node& node, const Part& part, Bytes& out) const;
  static uint16_t copy_bits(const Copies& copies);
  void forget_all();

  // Copies and residency.
  static uint64_t copies_key(NodeId id, uint16_t group) { return static_cast<uint64_t>(id) << 6 | group; }
  Copies copies(NodeId id, uint16_t group) const;
  void put_copies(NodeId id, uint16_t group, const Copies& now);
  bool has_copies(NodeId id) const;
  void change(NodeId id, uint16_t group, const Copies& before, const Copies& now, NodeId parent);
  void count_copies(const Node& node, const Copies& copies, uint64_t sign);
  void add_gpu(NodeId id, const Event& event, NodeId parent);
  void suspect(NodeId id, uint16_t group);
  void reported_in_sparse(NodeId id, const Event& event, bool is_new);
  bool proves(NodeId id, const Event& event, bool is_new) const;
  void judge(const Batch& batch);
  bool is_no_hit(const Batch& batch, const Event& event) const;
  void bury_doubts(NodeId id);
  Claims claims_now() const;
  void note_claims();
  void freshen(NodeId id);
  void lose(Tier tier, uint64_t blocks);
  uint32_t node_epoch() const { return epoch_ & ((1u << kEpochBits) - 1); }
  void end_event();
  void link(NodeId id, NodeId parent);
  void unlink(NodeId id);
  void emit(NodeId id, uint16_t group, uint8_t tier, bool on);
  template <class Visit>
  void each_key(NodeId id, uint32_t begin, Visit visit) const;  // (segment key, block key) from the begin-th on
  void emit_keys(NodeId id, uint16_t group, uint8_t tier, bool on, uint32_t begin);
  void emit_family(NodeId id, uint16_t group, uint8_t tier, uint32_t end_token);
  bool first_key_covered(NodeId id, uint16_t group, uint8_t tier) const;
  bool turns(NodeId id, uint64_t key, uint16_t group, uint8_t tier, bool on);
  void begin_counting();
  void put(DeltaOp op, uint8_t tiers, uint32_t lane, uint64_t segment_key, uint64_t key);
  void mark(DeltaOp op, uint32_t lane);
  bool is_closed() const { return holes_ == 0 && n_not_gpu_ == 0 && n_parts_ == 0; }
  void announce_open();

  std::mutex mutex_;
  Keyspace keyspace_;
  const MirrorLimits limits_;
  std::vector<DeltaWriter> out_;
  std::array<uint64_t, static_cast<size_t>(Count::kCounts)> counts_{};

  std::array<uint32_t, 64> lanes_;
  uint64_t groups_ = 0;       // groups with a lane
  uint64_t full_groups_ = 0;  // of these, full-attention ones
  std::shared_ptr<Store> disk_, storage_;
  std::vector<std::shared_ptr<Store>> attached_;
  uint32_t attached_tiers_ = 0;  // of disk_ and storage_
  bool storage_left_out_ = false;
  bool announces_ = false;
  uint32_t chunk_blocks_ = 1;
  double time_s_ = Store::kNoTime;   // of the batch
  std::vector<Lesson> lessons_;      // for the stores attached
  ResidencyChanges changes_;         // in the store at hand
  std::unordered_map<uint64_t, std::string> lora_names_;

  static constexpr uint64_t kEngineKeyGone = uint64_t{1} << 32;
  std::shared_ptr<DeltaLog> engine_keys_;

  NodePool nodes_;
  NodeIndex<EngineKeyOf> by_engine_key_;
  // Two engine keys may mean one block key. While every engine block is an index block the nodes
  // of a key are found by it; from the first that is not on, keys are counted.
  NodeIndex<KeyOf> by_key_;
  bool counting_ = false;
  NodeId alone_ = kNoNode;  // known to be the only one with its key, while it is entered
  KeyCounts key_counts_;
  Segments segments_;
  std::vector<Shape> shapes_;
  std::unordered_map<uint64_t, Copies> group_copies_;   // node << 6 | group, groups other than 0
  std::unordered_map<uint64_t, uint8_t> emitted_;       // the same, parts: tiers its first key is resident in
  std::unordered_map<NodeId, std::string> part_salts_;  // parts: salt of a chain, by its first node
  std::deque<std::pair<NodeId, uint32_t>> ghost_queue_; // (node, stamp); stale entries are skipped
  uint64_t n_ghosts_ = 0;
  uint32_t ghost_stamp_ = 0;
  Orphans orphans_;
  Batch orphan_batch_;
  std::vector<uint64_t> ready_;      // numbers of orphans whose parent has come
  std::vector<NodeId> fresh_;        // with kFresh set
  std::vector<NodeId> this_event_;   // with kThisEvent set
  uint64_t n_nodes_ = 0;
  Sums sums_;
  uint32_t epoch_ = 0;               // doubts since the last restart
  bool incomplete_ = false;          // a doubt since the last clear or restart
  NodeId swept_ = 0;                 // where the next doubt goes on to freshen nodes
  uint64_t forgotten_maybe_gpu_ = 0, forgotten_maybe_cpu_ = 0;
  std::atomic<uint32_t> claims_changed_{0};
  uint64_t offloaded_ = 0;
  uint64_t lost_blocks_ = 0, lost_offloaded_ = 0, lost_stored_ = 0, extras_absent_ = 0;
  // Parts, forgotten but kept for their children: one that comes again is not yet their parent.
  std::unordered_map<uint64_t, uint32_t> forgotten_parts_;  // how many, by engine key
  uint64_t unlinked_parts_ = 0;                             // of these, whose engine key is known again
  uint64_t holes_ = 0;               // held blocks whose parent is not held (gpu, group 0)
  uint64_t n_not_gpu_ = 0;           // blocks of group 0 held in other tiers
  uint64_t n_parts_ = 0;             // nodes of parts shapes
  bool announced_closed_ = false;
  std::vector<bool> true_copies_;    // by event of the batch: from parent nil, and no report
  bool is_copy_ = false;             // the event at hand is no report
  std::unique_ptr<MirrorSnapshot> snapshot_;
  uint64_t n_snapshots_ = 0;
  uint64_t shard_segment_ = 0;       // the last one asked for
  uint32_t shard_ = 0;
};

}  // namespace kvatlas

#include "ingest/native/mirror_inline.hpp"
