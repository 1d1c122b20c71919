// What a worker's cache consists of, and how its engine reuses it, for matching.
//
// Most workers are *plain*: one full-attention group, no store, no chunks. Those are matched lane
// by lane. The others are looked at one by one, when a block of a chain names a lane of theirs.
//
// Thread safety: any thread; readers get an immutable snapshot, made when the first asks for it
// after a change. Cost of making one: all lanes and workers once.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

namespace kvatlas {

inline constexpr uint32_t kNoWorker = ~0u;

enum class GroupKind : uint8_t {
  full = 0,            // needs every block from 0
  sliding_window = 1,  // needs the blocks of the last window_tokens - 1 tokens
  chunked_local = 2,   // needs the blocks since the last multiple of window_tokens
  state = 3,           // needs the state stored exactly at the end
  uncached = 4         // takes no part
};
inline constexpr uint32_t kGroupKinds = 5;
inline constexpr uint32_t kGroupsMax = 64;

struct Group {
  uint32_t lane = 0;
  GroupKind kind = GroupKind::full;
  uint32_t window_tokens = 0;      // of a window, or of a local chunk; 0 unknown: needs every block
  uint32_t block_size_tokens = 0;  // the engine's; 0: the index's
  bool is_draft = false;           // holds the layers of a speculative decoder
};

struct Worker {
  uint32_t number = kNoWorker;
  std::vector<Group> groups;     // at most kGroupsMax
  std::vector<uint32_t> stores;  // lanes
  uint32_t chunk_blocks = 1;     // engine blocks that are offloaded as one, counted from block 0
  bool recomputes_last_block = true;  // at least one token of a prompt is always computed
  bool drops_matched_block = false;   // a speculative decoder's: one matched block fewer

  bool has_full() const;
  bool is_plain() const;
  // Whether one of its blocks may be found where none was found before it.
  bool is_wide() const;
};

// What decides how much a plain worker reuses of what its device holds.
struct PlainRule {
  uint32_t block_size_tokens = 0;
  bool recomputes_last_block = true;
  bool drops_matched_block = false;
  bool operator==(const PlainRule&) const = default;
};

struct RosterView {
  std::vector<std::shared_ptr<const Worker>> workers;
  uint32_t n_lanes = 0;
  // By lane [n_lanes]. Of plain workers: number and place in `workers`, else kNoWorker.
  std::vector<uint32_t> plain_of_lane, place_of_lane;
  std::vector<PlainRule> rule_of_lane;
  PlainRule rule;        // of all plain workers, where it is
  bool one_rule = true;  // the same
  // Of the others: their places stand in others[first_other[lane] .. first_other[lane + 1]).
  std::vector<uint32_t> first_other, others;
  std::vector<uint8_t> is_scattered;  // a lane of a worker whose other lanes have holes
  std::vector<uint32_t> wide;         // places
};

class Roster {
 public:
  // Replaces what a worker consists of; neither groups nor stores: removes it. A plain worker's
  // lane is its own.
  void set(Worker worker);
  std::shared_ptr<const RosterView> view() const;

 private:
  mutable std::mutex mutex_;
  std::map<uint32_t, std::shared_ptr<const Worker>> workers_;
  mutable std::shared_ptr<const RosterView> view_;  // null: to be made
};

}  // namespace kvatlas
