// Loads content records into tables: all lanes that they name become what they say, in all tables at one instant.
//
// Whole sets are written: a block that a thousand lanes hold is one store, as one that a single lane holds. Applies of
// other lanes go on meanwhile; what is applied to these is lost, but a clear wins, as in Table::replace.
//
// Thread safety: one thread, the same from the first call to the last (it holds locks that replaces wait for).
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "index/native/section.hpp"
#include "index/native/table.hpp"

namespace kvatlas {

class ContentLoading {
 public:
  // The tables are the shards of one index, in their order. Throws Error{input} for none or one given twice,
  // Error{table_file} for a closed one.
  explicit ContentLoading(std::vector<std::shared_ptr<Table>> tables);
  ContentLoading(const ContentLoading&) = delete;
  ~ContentLoading();  // what was added and not shown is dropped

  void add(const SectionView& section, const LaneNumbers& lanes);
  // Shows it all, at one instant to who looks at the generations that are live then. A lane is closed where every section that names it says so.
  void finish();

  uint64_t n_entries() const { return n_entries_; }

 private:
  struct Part {
    std::shared_ptr<Table> table;
    std::unique_lock<std::mutex> alone;  // one replace at a time
    std::vector<Table::Shadow> shadows;  // ascending by lane
  };
  // Some keys of a section that one set holds.
  struct Stretch {
    SectionRun run;
    size_t key_at;
  };
  struct Lane {
    bool is_named = false, is_closed = true, is_lossy = false;
  };

  void name_lanes(const SectionView& section, const LaneNumbers& lanes);
  void load(Part& part, const SectionView& section, const std::vector<Stretch>& stretches);
  static void make_room(Table& table, uint64_t n_keys);
  uint32_t load_some(Part& part, const SectionView& section, const Stretch& stretch, uint32_t done, uint32_t n_keys_max);
  bool claim(Part& part, const SectionView& section, uint32_t set, std::vector<uint32_t>& elements);
  void mark(Part& part);

  std::vector<Part> parts_;
  std::vector<Lane> lanes_;              // [65536]
  std::vector<uint32_t> shadow_of_place_;  // of the section's lanes: which shadow, kNone: left out
  uint64_t next_number_ = 1;             // of Elements
  uint64_t n_entries_ = 0;
  bool is_shown_ = false;
};

}  // namespace kvatlas
