// What lies in one store of KV files, shared by all workers attached to it, and what its engine keys mean.
//
//   mirrors --teach--> [ engine key -> block keys, parent ]      known, held or not
//   events  --hold-->  [ file: engine key, groups, chunk ]  ---> blocks that a file covers are resident
//
// Rules (docs/events.md tells why):
//  - a file is named by the engine key of its last block and holds `chunk` blocks: that one and those
//    before it in its chain, as far as they are known;
//  - files are a set, not counts: a file is announced by every pod that writes it and removed once. It
//    is there for the groups it was announced for, and counts once these are all that are needed;
//  - a block is resident while a file that counts covers it; two engine keys that mean one block key
//    count as one;
//  - a file of which nobody has said what it means waits (at most known_max do, the oldest go) and is
//    placed when somebody does; what is known of blocks in no file is kept while there is room, and
//    goes by a clock, ends of chains first;
//  - streams are not ordered among each other: what is announced with a time more than kSkewS before
//    that of its removal, or of an inventory that did not name it, is old news and left out;
//  - an inventory names all files there are: those that it did not name by its end are gone.
// Each errs towards forgetting: what is resident here lies in the store, unless its removal was lost.
//
// Thread safety: any thread may call any method; calls take turns on a mutex.
#pragma once

#include <cstdint>
#include <deque>
#include <limits>
#include <mutex>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "ingest/native/byte_stream.hpp"
#include "ingest/native/key_counts.hpp"
#include "ingest/native/nodes.hpp"
#include "ingest/native/store_entries.hpp"

namespace kvatlas {

// An engine block made of whole index blocks; without keys: one that cannot be indexed.
struct Meaning {
  uint32_t block_size;        // of the engine
  uint32_t first_block;       // number of the first index block in its chain
  uint64_t segment_key;       // of the first index block
  std::vector<uint64_t> keys;
};

// The same, pointing into somebody else's, and the block before it.
struct Lesson {
  uint64_t engine_key;
  uint64_t parent;  // 0: not known, or it begins a chain
  bool has_meaning; // else only its place in its chain is told
  uint32_t block_size = 0, first_block = 0;
  uint64_t segment_key = 0;
  const uint64_t* keys = nullptr;
  uint32_t n_keys = 0;
};

// A block key that came to be resident, or ceased to be.
struct ResidencyChange {
  uint64_t segment_key, key;
  bool on;
};
using ResidencyChanges = std::vector<ResidencyChange>;

class Store {
 public:
  static constexpr double kSkewS = 5.0;  // clocks of two hosts may differ by so much
  static constexpr double kNoTime = std::numeric_limits<double>::quiet_NaN();
  static constexpr size_t kRemovedMax = 1 << 16;  // removals remembered with their time

  // `blocks_max`: resident ones; `known_max`: those that are not, and files that wait.
  Store(uint32_t lane, uint64_t blocks_max, uint64_t known_max);
  uint32_t lane() const { return lane_; }

  // What engine keys mean. Parents come before their children, or were told before.
  void teach(const std::vector<Lesson>& lessons, ResidencyChanges& changes);
  // Nothing where nobody has taught it.
  std::optional<Meaning> find(uint64_t engine_key) const;
  // The same of the last blocks of a chain, at most n, the first one first; a lesson each, which point
  // into `meanings`.
  std::vector<Lesson> chain(uint64_t engine_key, uint32_t n, std::vector<Meaning>& meanings) const;

  enum class Held : uint8_t { now, before, waits, stale, no_room };
  // A file is there; `time_s`: when that was said, kNoTime: not known. `owner`: who says it, where that
  // may be part of an inventory: then a removal at about the same time is the newer.
  Held hold(uint64_t engine_key, uint16_t group, uint32_t chunk_blocks, double time_s, uint64_t owner, ResidencyChanges& changes);
  struct Released {
    uint64_t removed = 0;  // files and their blocks that were named
    std::vector<uint64_t> unknown;
  };
  // Files, or blocks of files, are gone.
  Released release(const uint64_t* engine_keys, uint32_t n, uint16_t group, double time_s, ResidencyChanges& changes);

  // `owner` begins to name all files there are. The inventory begun last counts.
  void begin_inventory(uint64_t owner, double time_s);
  // It has named them all. Returns how many were not named, and are gone.
  uint64_t end_inventory(uint64_t owner, ResidencyChanges& changes);
  // Some of what it named was lost.
  void cancel_inventory(uint64_t owner);

  // Groups that a file must be there for, to count; at first none in particular.
  void need_groups(uint64_t groups, ResidencyChanges& changes);
  // What block keys mean has changed: files wait until they are taught anew. The lane is the caller's.
  void forget_meanings();
  // Everything.
  void clear();
  // It is not one any more, and takes nothing.
  void retire();

  // All of it, with the index's block size, for load(). Other calls take their turns meanwhile: what
  // they change may be in it or not, which a stream that is replayed from before it sets right.
  Bytes save(uint32_t index_block_tokens) const;
  // REQUIRES: empty. Throws Error{input} when it is not, Error{checkpoint} for anything that save()
  // would not have written; then it stays empty. What finds no room is left out.
  void load(std::string_view saved, uint32_t index_block_tokens);
  // The delta records that make each shard's lane hold what lies here; `tiers` is the store's.
  std::vector<Bytes> content(uint32_t n_shards, uint8_t tiers) const;
  // The same of some changes.
  std::vector<Bytes> deltas(const ResidencyChanges& changes, uint32_t n_shards, uint8_t tiers) const;
  // Calls visit(segment key, block key) for each that is resident; one may come more than once.
  template <class Visit>
  void each_resident(Visit visit) const {
    std::lock_guard turn(mutex_);
    for (EntryId id = 0; id < entries_.end(); ++id)
      if (entries_[id].covers > 0 && entries_[id].parent != kFreeEntry) each_key(entries_[id], visit);
  }

  struct Statistics {
    uint64_t blocks = 0, known = 0, files = 0, waiting = 0, bytes = 0;  // now
    uint64_t placed_late = 0, stale = 0, forgotten = 0, refused = 0, swept = 0, waiting_dropped = 0;  // ever
  };
  Statistics statistics() const;
  uint64_t size() const;  // engine blocks that are resident

 private:
  struct EngineKeyOf {
    const EntryPool* entries;
    uint64_t operator()(EntryId id) const { return (*entries)[id].engine_key; }
    void prefetch(EntryId id) const { __builtin_prefetch(&(*entries)[id]); }
  };
  struct KeyOf {  // of entries that are one index block
    const EntryPool* entries;
    uint64_t operator()(EntryId id) const { return (*entries)[id].key; }
    void prefetch(EntryId id) const { __builtin_prefetch(&(*entries)[id]); }
  };

  EntryId entry(uint64_t engine_key);  // found or new; kNoEntry: no room
  void link(EntryId id, uint64_t parent, ResidencyChanges& changes);
  bool place(EntryId id, const Lesson& lesson);
  void place_keys(Entry& entry, const Lesson& lesson);
  int shape_for(uint32_t block_size, uint32_t stride);
  Meaning meaning_of(const Entry& entry) const;

  bool counts_now(const Entry& entry) const;  // the file is there for all groups that are needed
  bool cover(EntryId id, ResidencyChanges& changes);
  void uncover(EntryId id, ResidencyChanges& changes);
  EntryId cut_end(EntryId id) const;
  void add_cover(EntryId id, ResidencyChanges& changes);
  void drop_cover(EntryId id, ResidencyChanges& changes);
  template <class Visit>
  void each_covered(EntryId id, Visit visit) const;
  template <class Visit>
  void each_key(const Entry& entry, Visit visit) const;
  void emit(EntryId id, bool on, ResidencyChanges& changes);
  void begin_counting();
  void hide(EntryId id, ResidencyChanges& changes);
  void show(EntryId id, ResidencyChanges& changes);
  uint32_t first_block(const Entry& entry) const;
  uint32_t stride(const Entry& entry) const { return entry.shape == kNoKeys ? 0 : shapes_[entry.shape].stride; }
  uint64_t groups_of(const Entry& entry) const { return masks_[entry.groups]; }

  int mask_number(uint64_t mask);
  bool is_old_news(uint64_t name, double time_s, bool is_held, bool is_listed);
  bool note_removed(uint64_t name, double time_s);
  void remove_file(EntryId id, ResidencyChanges& changes);
  void begin_waiting(EntryId id);
  void trim_waiting();
  void let_go(EntryId id);  // frees it, unless something needs it
  void free_entry(EntryId id);
  bool make_room();
  void forget_all();
  static uint64_t name_of(uint64_t engine_key, uint16_t group) { return engine_key ^ (group * 0x9e3779b97f4a7c15ULL); }

  void save_head(uint32_t index_block_tokens, Bytes& out) const;
  void save_entry(const Entry& entry, Bytes& out) const;
  struct Loading {
    std::vector<std::pair<uint64_t, uint64_t>> links;  // child, parent
    std::vector<EntryId> hidden;                       // in no file, or said to be gone
  };
  void load_head(ByteReader& in, uint32_t index_block_tokens);
  void load_entry(ByteReader& in, uint32_t index_block_tokens, Loading& loading);

  const uint32_t lane_;
  const uint64_t blocks_max_, known_max_, entries_max_;
  mutable std::mutex mutex_;
  bool retired_ = false;
  EntryPool entries_;
  NodeIndex<EngineKeyOf> by_engine_key_;
  // Residents by block key, while every engine block is an index block; from the first that is not on,
  // keys are counted.
  NodeIndex<KeyOf> by_key_;
  bool counting_ = false;
  KeyCounts key_counts_;
  Segments segments_;
  uint32_t last_segment_ = ~0u;  // that a block was placed in
  std::vector<Shape> shapes_;
  std::vector<uint64_t> masks_{0};  // sets of groups, by number
  std::unordered_map<EntryId, uint64_t> more_covers_;  // beyond kCoversMax
  std::unordered_map<EntryId, std::vector<EntryId>> cut_at_;  // files whose blocks before this one are not known
  std::deque<uint64_t> waiting_;  // engine keys of files that wait, the oldest first; some do no longer
  uint64_t n_files_ = 0, n_waiting_ = 0, n_resident_ = 0;
  bool is_stuck_ = false;  // nothing could go, and nothing has been freed since
  uint64_t needed_ = 0;
  EntryId hand_ = 0;  // of the clock
  struct Removal {
    double removed_s;
    double stored_s;  // again, since then; kNoTime: not
  };
  std::unordered_map<uint64_t, Removal> removed_at_;
  std::deque<uint64_t> removed_order_;
  uint64_t inventory_owner_ = 0;
  double inventory_began_s_ = kNoTime, floor_s_ = kNoTime;
  Statistics counts_;
};

}  // namespace kvatlas

#include "ingest/native/store_inline.hpp"
