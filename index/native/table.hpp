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
// At the byte budget the entries of the segments unused for longest are not copied (counted,
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

#include "index/native/control.hpp"
#include "index/native/generation.hpp"
#include "index/native/heat.hpp"
#include "index/native/sets.hpp"

namespace kvatlas {

// Something a match can read: a table in this process or a reader of another's.
class Source {
 public:
  virtual ~Source() = default;
  // The generation to read now; it stays valid while the pointer is held.
  virtual std::shared_ptr<const Generation> pin() = 0;
  // A sample of the segments that lookups use, by their first keys.
  virtual void touch(const uint64_t* segment_keys, size_t n) = 0;
};

struct TableStatistics {
  uint64_t entries, slots, slots_used, sets, set_bytes, bytes, bytes_max;
  uint64_t records, adds, removes, removes_missing, dropped_entries, dropped_adds;
  uint64_t lanes, generation, rebuilds, rebuild_failures, incarnation;
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
  void heartbeat();
  void close();  // marks the files as closed and removes them; later calls throw

  std::shared_ptr<const Generation> pin() override;
  void touch(const uint64_t* segment_keys, size_t n) override { heat_.touch(segment_keys, n); }
  TableStatistics statistics();

 private:
  // One generation being written: the live one, or the next.
  struct Writing {
    explicit Writing(std::shared_ptr<Generation> g) : generation(std::move(g)), sets(*generation), bucket_entries(Heat::kBuckets, 0) {}
    std::shared_ptr<Generation> generation;
    SetArena sets;
    uint64_t slots_used = 0;  // keys ever written, also those whose set is empty now
    uint64_t entries = 0;     // keys with a set
    std::vector<uint32_t> bucket_entries;  // the same by heat bucket

    uint64_t fixed_bytes() const { return bucket_entries.capacity() * sizeof(uint32_t); }
    uint64_t bytes() const {
      return generation->header().slots_offset + generation->backed_slots() * sizeof(Slot) + sets.used_bytes() + sets.private_bytes() + fixed_bytes();
    }
  };
  struct Rebuild;
  struct Change {
    uint32_t phys;
    uint8_t tiers;
    bool add;
    uint32_t bucket;
  };

  void apply_keys(const uint8_t* keys, uint32_t count, uint32_t lane, uint8_t tiers, bool add, uint64_t segment_key);
  void put_or_drop(uint64_t key, const Change& change);
  // Slot number written to, or n_slots when nothing changed.
  uint64_t put(Writing& writing, uint64_t key, const Change& change);
  void forget(uint64_t key);
  uint16_t claim_phys(uint32_t lane);  // kNoLane when 65 535 are in use
  void clear_lane(uint32_t lane);
  void set_closed(uint32_t lane, bool closed);
  void mark_lossy(uint32_t phys);

  bool rebuild_due() const;
  void begin_rebuild();
  void step_rebuild(uint64_t n_slots);
  void finish_rebuild();   // at once
  void abandon_rebuild();  // no room: stay with the live generation for a while
  void flip();
  void copy_slot(const Slot& slot);
  void drop(uint64_t word);
  uint64_t generation_bytes_max() const;
  std::shared_ptr<Generation> new_generation(uint64_t entries);  // with room for these and more
  void require_open() const;

  const uint64_t bytes_max_;
  std::mutex writer_;
  std::mutex pin_;  // guards live_->generation against pin()
  std::unique_ptr<Control> control_;  // shared memory only
  std::unique_ptr<Writing> live_;
  std::unique_ptr<Rebuild> rebuild_;
  Heat heat_;
  bool closed_ = false;

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
  uint64_t dropped_entries_ = 0, dropped_adds_ = 0, rebuilds_ = 0, rebuild_failures_ = 0;
};

}  // namespace kvatlas
