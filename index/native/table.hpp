// The residency table: block key -> which lanes hold it, in which tiers. The writer's side.
//
// Open addressing over generations (generation.hpp): updates are single stores; growth,
// compaction and the byte budget are one mechanism, copying what lives into the next
// generation a few slots per update, so that no update waits for a whole rebuild:
//
//     live   [ copied ........ | cursor ........ not yet ... ]   every update lands here
//     next   [ copied + updates left of the cursor ]             and here when left of the cursor
//     flip:  next becomes live; readers that hold the old one finish on it
//
// At the byte budget the entries of the segments least in use (heat.hpp) are not copied (counted,
// and the lanes that lost something are marked).
//
// Thread safety: any thread may call any method; writers take turns on a mutex, readers (pin)
// never wait for a writer.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "index/native/budget_cut.hpp"
#include "index/native/control.hpp"
#include "index/native/generation.hpp"
#include "index/native/heat.hpp"
#include "index/native/sets.hpp"
#include "index/native/spare_region.hpp"
#include "index/native/turns.hpp"
#include "index/native/zeroed.hpp"

namespace kvatlas {

// Something a match can read: a table in this process or a reader of another's.
class Source {
 public:
  virtual ~Source() = default;
  // The generation to read now; it stays valid while the pointer is held.
  virtual std::shared_ptr<const Generation> pin() = 0;
  // Segments that a lookup could use, by their first keys.
  virtual void touch(const uint64_t* segment_keys, size_t n) = 0;
  // Whether its writer says that nothing is missing in it.
  virtual bool whole() const = 0;
};

struct TableStatistics {
  uint64_t entries, slots, slots_used, sets, set_bytes, bytes, bytes_max;
  uint64_t records, adds, removes, removes_missing, dropped_entries, dropped_unused, dropped_adds;
  uint64_t heat_buckets, lanes, generation, rebuilds, rebuild_failures, replaces, incarnation, snapshot_bytes;
};

class Table final : public Source {
 public:
  // `path` empty: private memory; else the control file of a shared-memory table, its
  // generations lie beside it as <path>.<number>. Throws Error{table_file} when another live
  // writer owns the path, or a foreign file lies there, or there is no room.
  Table(uint64_t bytes_max, const std::string& path);
  ~Table() override;

  // Applies delta records (delta.hpp); all of them or, when malformed, none (Error{input}).
  // Returns how many records.
  uint64_t apply(const uint8_t* delta, size_t bytes);
  // All that these lanes hold becomes what the delta leaves in empty ones. A match sees of all of
  // them the old or the new. Applies of other lanes go on meanwhile; what is applied to these is
  // lost, but a clear wins: that lane stays empty. All or nothing when malformed or when a record
  // is of another lane (Error{input}). Takes turns with other replaces. Returns how many records.
  uint64_t replace(const std::vector<uint32_t>& lanes, const uint8_t* delta, size_t bytes);
  void set_whole(bool whole);
  void heartbeat();
  void close();  // marks the files as closed and removes them; later calls throw

  const std::string& path() const { return path_; }  // empty: private memory
  std::shared_ptr<const Generation> pin() override;
  void touch(const uint64_t* segment_keys, size_t n) override {
    for (size_t i = 0; i < n; ++i) heat_.looked_up(heat_.bucket_of(segment_tag(segment_keys[i])));
  }
  bool whole() const override { return whole_.load(std::memory_order_relaxed); }
  TableStatistics statistics();
  // Bytes that snapshots of this table take, also after its end.
  const std::shared_ptr<std::atomic<uint64_t>>& snapshot_bytes() const { return snapshot_bytes_; }

 private:
  // One generation being written: the live one, or the next.
  struct Writing {
    Writing(std::shared_ptr<Generation> g, uint64_t set_bytes_max, uint32_t n_buckets)
        : generation(std::move(g)), sets(*generation, set_bytes_max), contents(n_buckets), slots_most(static_cast<uint64_t>(kLoadFull * static_cast<double>(generation->n_homes()))) {}
    static constexpr double kLoadFull = 0.97;  // when a generation takes no more keys
    std::shared_ptr<Generation> generation;
    SetArena sets;
    uint64_t slots_used = 0;  // keys ever written, also those whose set is empty now
    uint64_t entries = 0;     // keys with a set
    Contents contents;        // the same by heat bucket
    const uint64_t slots_most;

    uint64_t bytes() const {
      return generation->slot_bytes() + sets.used_bytes() + sets.private_bytes() + contents.bytes();
    }
  };
  struct Rebuild;
  struct Many {
    Elements elements;      // by physical lane
    uint64_t n_changed = 0;  // entries
  };
  struct Change {
    uint32_t phys;
    uint8_t tiers;
    bool add;
    uint32_t tag;  // of the keys' segment
    Many* many = nullptr;  // added, in place of (phys, tiers)
  };

  // What a lane is to become, under a physical lane of its own that nobody sees yet.
  struct Shadow {
    uint32_t lane;
    uint16_t phys = kNoLane;
    bool closed = false;
    bool lossy = false;      // no physical lane was free at some time
    bool cancelled = false;  // the lane was cleared meanwhile
  };
  struct Keys {
    const uint8_t* at;
    uint32_t count;
    uint8_t tiers;
    bool add;
    uint64_t segment_key;
  };

  // To the lane, or to its shadow where there is one.
  void apply_keys(const Keys& keys, uint32_t lane, Shadow* shadow);
  void prefetch(uint64_t key) const;
  void put_or_drop(uint64_t key, const Change& change);
  // Slot number written to, or n_slots when nothing changed.
  uint64_t put(Writing& writing, uint64_t key, const Change& change);
  void forget(uint64_t key);
  uint16_t fresh_phys();  // kNoLane when 65 535 are in use
  uint16_t claim_phys(uint32_t lane);
  uint16_t claim_shadow(Shadow& shadow);
  uint32_t changed_set(Writing& writing, uint32_t set, const Change& change, uint32_t bucket);
  void count_load(const Change& change);
  void retire_phys(uint16_t phys);  // from here on no reader sees anything of it
  void clear_lane(uint32_t lane);
  static std::vector<Shadow> shadows_of(std::vector<uint32_t> lanes);  // ascending, each once
  static Shadow* shadow_of(std::vector<Shadow>& shadows, uint32_t lane);
  void load(std::vector<Shadow>& shadows, const uint8_t* delta, size_t bytes, std::unique_lock<Turns>& turn);
  void abandon(std::vector<Shadow>& shadows);
  void flip_lanes(std::vector<Shadow>& shadows);
  void show_lanes(std::vector<Shadow>& shadows);  // within a flip
  void bury_lanes(const std::vector<Shadow>& shadows);
  void set_closed(uint32_t lane, bool closed);
  void mark_lossy(uint32_t phys);

  bool rebuild_due() const;
  void begin_rebuild();
  void step_rebuild(uint64_t n_slots);
  void written(uint64_t at, uint64_t key, const Change& change);  // to this live slot, while the next generation is filled
  void start_copy();       // what is left behind is known
  void finish_rebuild();   // at once
  void abandon_rebuild();  // no room: stay with the live generation for a while
  void flip();
  void copy_slots(uint64_t end);
  uint32_t copied_set(uint32_t set, uint32_t bucket);
  uint32_t copy_set(uint32_t set, uint32_t bucket);
  void leave_behind(uint64_t word, uint32_t bucket);
  void unload(uint64_t word);  // an entry that goes, from its lanes
  uint64_t generation_bytes_max() const;
  std::unique_ptr<Writing> new_writing(uint64_t n_homes);
  uint64_t set_bytes_due() const;    // of sets, when a rebuild is
  double set_bytes_wanted() const;  // in the next generation
  double bytes_too_many() const;
  void require_open() const;

  // Snapshots (table_snapshot.cpp): a copy of the live slots that is made in turns, and kept up by every write meanwhile.
  friend class TableCopying;
  friend class ContentLoading;  // content_loading.cpp
  struct Copy {
    Zeroed<Slot> slots;  // [n_slots of the live generation], empty: not begun
    uint64_t cursor = 0;  // slots left of it are copied
  };
  // REQUIRES, after every store to a slot of the live generation: that slot's number. One that was not written may be n_slots.
  void copied(uint64_t at) {
    if (copy_ && at < copy_->cursor) copy_->slots[at] = live_->generation->slots()[at];
  }
  // Another generation is live: the copy begins anew.
  void recopy() {
    if (copy_) *copy_ = Copy{};
  }
  std::unique_ptr<Copy> copy_;
  uint64_t expected_entries_ = 0;  // that a load is about to bring: the next generation has room for them
  const std::shared_ptr<std::atomic<uint64_t>> snapshot_bytes_ = std::make_shared<std::atomic<uint64_t>>(0);  // held by anyone

  const uint64_t bytes_max_;
  const std::string path_;
  std::mutex replacing_;  // before writer_: one replace at a time
  Turns writer_;
  const std::shared_ptr<SpareRegion> spare_ = std::make_shared<SpareRegion>();  // generations give theirs to it
  std::mutex pin_;  // guards live_->generation against pin()
  std::unique_ptr<Control> control_;  // shared memory only
  std::unique_ptr<Writing> live_;
  std::unique_ptr<Rebuild> rebuild_;
  Heat heat_;
  bool closed_ = false;
  std::atomic<bool> whole_{false};
  std::vector<Shadow>* loading_ = nullptr;  // of the replace under way

  // Lanes. A lane is cleared by giving it a fresh physical lane; the old number is used again
  // once a rebuild has left no trace of it.
  std::vector<uint16_t> free_phys_;
  std::vector<uint16_t> dead_phys_;
  uint32_t phys_next_ = 0;
  std::vector<bool> lane_closed_;
  std::vector<uint64_t> phys_load_;  // set changes minus their reverses, per physical lane
  uint64_t dead_load_ = 0, total_load_ = 0;  // of cleared lanes; of the others

  uint64_t set_bytes_kept_ = 8;  // arena bytes right after the last rebuild
  uint64_t retry_rebuild_at_ = 0;
  uint64_t records_ = 0, adds_ = 0, removes_ = 0, removes_missing_ = 0;
  uint64_t dropped_entries_ = 0, dropped_unused_ = 0, dropped_adds_ = 0, rebuilds_ = 0, rebuild_failures_ = 0, replaces_ = 0;
};

}  // namespace kvatlas
