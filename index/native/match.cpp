#include "index/native/match.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <limits>
#include <utility>

#include "index/native/lane_masks.hpp"
#include "index/native/walk.hpp"

namespace kvatlas {
namespace {

uint32_t tier_column(uint32_t mask) {
  return std::min(static_cast<uint32_t>(std::countr_zero(mask)), kTierColumns - 1);
}

constexpr size_t kMaskBytes = size_t{1} << 20;

struct Active {
  uint32_t lane;
  uint8_t mask;   // tiers in the current run
  uint32_t row;   // of the result
  uint32_t seen;  // run in which it was seen last
};

// What a match needs besides its result; kept by the thread, so that most allocate nothing.
struct Scratch {
  std::vector<Active> active;
  // Lane -> its place in `active`. Never cleared: a place counts only when the list there names
  // the lane again (Briggs and Torczon's sparse set).
  std::vector<uint32_t> place_of_lane = std::vector<uint32_t>(65536, 0);
  std::vector<Run> runs;
  std::vector<uint32_t> gathered;       // places of workers to be looked at one by one
  std::vector<uint64_t> gathered_in;    // by place: the match in which it was gathered last
  uint64_t n_matches = 0;
  LaneMasks masks;                      // of the lanes of some of them
  std::vector<uint8_t> stored;          // of one worker's stores together
};

class Matcher {
 public:
  Matcher(const Question& question, const RosterView& roster, Matches& out, Scratch& scratch)
      : allowed_(question.allowed), n_allowed_(question.n_allowed), roster_(roster), out_(out), scratch_(scratch), active_(scratch.active),
        place_of_lane_(scratch.place_of_lane.data()), reusable_(question.prompt_tokens > 0),
        prompt_{static_cast<uint32_t>(question.n_keys), question.prompt_tokens, question.block_size_tokens} {
    out_.n = 0;
    out_.partial_rows.clear();
    active_.clear();
    scratch_.runs.clear();
    scratch_.gathered.clear();
    scratch_.gathered_in.resize(std::max(scratch_.gathered_in.size(), roster_.workers.size()), 0);
    ++scratch_.n_matches;
    for (uint32_t place : roster_.wide)
      if (reusable_ && is_allowed(roster_.workers[place]->number)) spread(*roster_.workers[place]);
  }

  // How many blocks in a row may be held by nobody before the end is certain.
  size_t misses_max() const { return misses_max_; }

  bool may_skip(const Generation& g, SetView set) const {
    if (misses_max_ > 1) return false;
    for (uint32_t i = 0; i < set.count; ++i) {
      const uint32_t word = g.lane_word(set.elements[i] >> 8);
      if (word == 0) continue;
      const uint32_t lane = word & 0xffff;
      if ((word & kLaneClosed) == 0 || (reusable_ && lane < roster_.n_lanes && roster_.is_scattered[lane] != 0)) return false;
    }
    return true;
  }

  bool run(const Generation& g, uint32_t number, uint32_t length) {
    const SetView set = g.set(number);
    scratch_.runs.push_back({&g, set, length});
    if (!roster_.others.empty() && (position_ == 0 || reusable_) && !was_gathered(g, number)) gather(g, set);
    if (position_ == 0) admit(g, set, length);
    else if (!active_.empty()) follow(g, set, length);
    position_ += length;
    return !active_.empty() || !scratch_.gathered.empty() || misses_max_ > 1;
  }

  void finish(uint32_t n_probed) {
    if (!active_.empty()) settle_rest();
    if (has_empty_) drop_empty_rows();
    if (reusable_) look_at_gathered();
    else
      for (uint32_t place : scratch_.gathered) look_at_prefix(*roster_.workers[place]);
    out_.n_probed = n_probed;
  }

 private:
  bool is_allowed(uint32_t worker) const {
    return allowed_ == nullptr || (worker < n_allowed_ && allowed_[worker] != 0);
  }

  // A wide worker may hold a block behind others that nobody holds.
  void spread(const Worker& worker) {
    size_t longest = worker.has_full() ? 1 : std::numeric_limits<size_t>::max();
    for (const Group& group : worker.groups) {
      const uint64_t size = group.block_size_tokens != 0 ? group.block_size_tokens : prompt_.block_size_tokens;
      longest = std::max<size_t>(longest, worker.chunk_blocks * (size / prompt_.block_size_tokens + 1));
    }
    misses_max_ = std::max(misses_max_, longest);
  }

  void gather_worker(uint32_t place) {
    if (scratch_.gathered_in[place] == scratch_.n_matches || !is_allowed(roster_.workers[place]->number)) return;
    scratch_.gathered_in[place] = scratch_.n_matches;
    scratch_.gathered.push_back(place);
  }

  void gather_plain(uint32_t lane) {
    gather_worker(roster_.place_of_lane[lane]);
    has_gathered_plain_ = true;
  }

  // Along a chain a few sets take turns where a window keeps some blocks.
  bool was_gathered(const Generation& g, uint32_t number) {
    auto& last = last_gathered_[number % last_gathered_.size()];
    const bool again = last.first == &g && last.second == number;
    last = {&g, number};
    return again;
  }

  // Workers that are not plain, by any lane or store of theirs.
  void gather(const Generation& g, SetView set) {
    for (uint32_t i = 0; i < set.count; ++i) {
      const uint32_t word = g.lane_word(set.elements[i] >> 8);
      const uint32_t lane = word & 0xffff;
      if (live_mask(word, set.elements[i]) == 0 || lane >= roster_.n_lanes) continue;
      for (uint32_t at = roster_.first_other[lane]; at < roster_.first_other[lane + 1]; ++at) gather_worker(roster_.others[at]);
    }
  }

  uint32_t new_row(uint32_t worker) {
    require_rows(out_.n + 1);
    std::fill_n(&out_.tier_blocks[size_t{out_.n} * kTierColumns], kTierColumns, 0u);
    out_.blocks[out_.n] = 0;
    out_.workers[out_.n] = worker;
    return out_.n++;
  }

  void require_rows(size_t n) {
    if (n <= out_.workers.size()) return;
    n += n / 2;
    out_.workers.resize(n);
    out_.blocks.resize(n);
    out_.tier_blocks.resize(n * kTierColumns);
  }

  // The first run: a row for each plain worker in it. Plain pointers, for this is most of a match
  // by many workers.
  void admit(const Generation& g, SetView set, uint32_t length) {
    active_.resize(set.count);
    require_rows(set.count);
    Active* active = active_.data();
    uint32_t* workers = out_.workers.data();
    uint32_t* tier_blocks = out_.tier_blocks.data();
    const uint32_t* plain_of_lane = roster_.plain_of_lane.data();
    const uint8_t leaves = reusable_ ? static_cast<uint8_t>(~kDeviceTier) : 0;
    uint32_t n = 0;
    for (uint32_t i = 0; i < set.count; ++i) {
      const uint32_t word = g.lane_word(set.elements[i] >> 8);
      const uint8_t mask = live_mask(word, set.elements[i]);
      const uint32_t lane = word & 0xffff;
      if (mask == 0 || lane >= roster_.n_lanes) continue;
      const uint32_t worker = plain_of_lane[lane];
      if (worker == kNoWorker || !is_allowed(worker)) continue;
      if (mask & leaves) {
        gather_plain(lane);
        continue;
      }
      active[n] = {lane, mask, n, n_runs_};
      std::fill_n(tier_blocks, kTierColumns, 0u);
      tier_blocks[tier_column(mask)] = length;
      tier_blocks += kTierColumns;
      workers[n++] = worker;
    }
    active_.resize(n);
    out_.n = n;
  }

  // A later run: what is held on in it goes on. Where only the device counts, a lane with another
  // tier leaves the row that it has; it is looked at by itself.
  void follow(const Generation& g, SetView set, uint32_t length) {
    retire(g, set);
    if (reusable_) return;
    uint32_t* tier_blocks = out_.tier_blocks.data();
    for (const Active& a : active_) tier_blocks[a.row * kTierColumns + tier_column(a.mask)] += length;
  }

  void retire(const Generation& g, SetView set) {
    if (n_runs_++ == 0)  // many matches are one run, and need no places
      for (uint32_t i = 0; i < active_.size(); ++i) place_of_lane_[active_[i].lane] = i;
    const uint8_t leaves = reusable_ ? static_cast<uint8_t>(~kDeviceTier) : 0;
    for (uint32_t i = 0; i < set.count; ++i) {
      const uint32_t word = g.lane_word(set.elements[i] >> 8);
      const uint8_t mask = live_mask(word, set.elements[i]);
      const uint32_t lane = word & 0xffff;
      const uint32_t place = place_of_lane_[lane];
      if (mask == 0 || place >= active_.size() || active_[place].lane != lane) continue;
      active_[place].mask = mask;
      if (mask & leaves) gather_plain(lane);
      else active_[place].seen = n_runs_;
    }
    for (size_t i = 0; i < active_.size();) {
      if (active_[i].seen == n_runs_) {
        ++i;
        continue;
      }
      settle(active_[i]);
      active_[i] = active_.back();
      place_of_lane_[active_[i].lane] = static_cast<uint32_t>(i);
      active_.pop_back();
    }
  }

  // The row of a plain worker that has been followed up to here.
  void settle(const Active& a) {
    uint32_t blocks = position_;
    if (reusable_) {
      blocks = is_gathered(a.lane) ? 0 : reused_here(roster_.one_rule ? roster_.rule : roster_.rule_of_lane[a.lane]);
      out_.tier_blocks[a.row * kTierColumns] = blocks;
      has_empty_ |= blocks == 0;
    }
    out_.blocks[a.row] = blocks;
  }

  // Those that go on to the end, most of a match by many workers.
  void settle_rest() {
    if (reusable_ && (has_gathered_plain_ || !roster_.one_rule)) {
      for (const Active& a : active_) settle(a);
      return;
    }
    const uint32_t blocks = reusable_ ? reused_here(roster_.rule) : position_;
    has_empty_ |= blocks == 0;
    for (const Active& a : active_) {
      out_.blocks[a.row] = blocks;
      if (reusable_) out_.tier_blocks[a.row * kTierColumns] = blocks;
    }
  }

  bool is_gathered(uint32_t lane) const {
    return has_gathered_plain_ && scratch_.gathered_in[roster_.place_of_lane[lane]] == scratch_.n_matches;
  }

  // Many lanes end at one block, by one rule.
  uint32_t reused_here(const PlainRule& rule) {
    if (position_ != last_position_ || rule != last_rule_) {
      last_rule_ = rule;
      last_position_ = position_;
      last_reused_ = reused_on_device(rule, prompt_, position_);
    }
    return last_reused_;
  }

  // Some at a time, so that their masks stay small.
  void look_at_gathered() {
    const std::vector<uint32_t>& gathered = scratch_.gathered;
    for (size_t first = 0, next = 0; first < gathered.size(); first = next) {
      scratch_.masks.begin(prompt_.n_blocks);
      while (next < gathered.size() && (next == first || scratch_.masks.bytes() < kMaskBytes)) {
        const Worker& worker = *roster_.workers[gathered[next++]];
        for (const Group& group : worker.groups)
          if (group.kind != GroupKind::uncached) scratch_.masks.add(group.lane);
        for (uint32_t store : worker.stores) scratch_.masks.add(store);
      }
      scratch_.masks.read(scratch_.runs);
      for (size_t i = first; i < next; ++i) look_at(*roster_.workers[gathered[i]]);
    }
  }

  void look_at(const Worker& worker) {
    Held held{{}, stored(worker)};
    for (const Group& group : worker.groups)
      held.groups.push_back(group.kind == GroupKind::uncached ? scratch_.masks.none() : scratch_.masks.of(group.lane));
    const Reused found = reused(worker, prompt_, held);
    if (found.blocks == 0) return;
    const uint32_t row = new_row(worker.number);
    out_.blocks[row] = found.blocks;
    std::copy(found.tier_blocks.begin(), found.tier_blocks.end(), &out_.tier_blocks[row * kTierColumns]);
    if (found.partial) out_.partial_rows.push_back(row);
  }

  const uint8_t* stored(const Worker& worker) {
    if (worker.stores.empty()) return scratch_.masks.none();
    if (worker.stores.size() == 1) return scratch_.masks.of(worker.stores[0]);
    scratch_.stored.assign(prompt_.n_blocks, 0);
    for (uint32_t store : worker.stores) {
      const uint8_t* masks = scratch_.masks.of(store);
      for (uint32_t i = 0; i < prompt_.n_blocks; ++i) scratch_.stored[i] |= masks[i];
    }
    return scratch_.stored.data();
  }

  // The tiers in which a worker has a block: where its full groups all hold it the slowest of
  // their best, and what its stores hold.
  static uint8_t prefix_mask(const Worker& worker, const Run& run) {
    if (!worker.groups.empty() && !worker.has_full()) return 0;
    uint8_t slowest = 0;
    for (const Group& group : worker.groups) {
      if (group.kind != GroupKind::full) continue;
      const uint8_t mask = mask_of(run, group.lane);
      if (mask == 0) {
        slowest = 0;
        break;
      }
      slowest = std::max(slowest, static_cast<uint8_t>(mask & (~mask + 1)));
    }
    for (uint32_t store : worker.stores) slowest |= mask_of(run, store);
    return slowest;
  }

  void look_at_prefix(const Worker& worker) {
    uint32_t row = 0, blocks = 0;
    for (const Run& run : scratch_.runs) {
      const uint8_t mask = prefix_mask(worker, run);
      if (mask == 0) break;
      if (blocks == 0) row = new_row(worker.number);
      blocks += run.length;
      out_.blocks[row] = blocks;
      out_.tier_blocks[row * kTierColumns + tier_column(mask)] += run.length;
    }
  }

  void drop_empty_rows() {
    for (uint32_t row = 0; row < out_.n;) {
      if (out_.blocks[row] != 0) {
        ++row;
        continue;
      }
      const uint32_t last = --out_.n;
      out_.workers[row] = out_.workers[last];
      out_.blocks[row] = out_.blocks[last];
      std::copy_n(&out_.tier_blocks[size_t{last} * kTierColumns], kTierColumns, &out_.tier_blocks[size_t{row} * kTierColumns]);
    }
  }

  const uint8_t* allowed_;
  const size_t n_allowed_;
  const RosterView& roster_;
  Matches& out_;
  Scratch& scratch_;
  std::vector<Active>& active_;
  uint32_t* place_of_lane_;  // looked up once
  const bool reusable_;
  const Prompt prompt_;
  size_t misses_max_ = 1;
  std::array<std::pair<const Generation*, uint32_t>, 8> last_gathered_{};
  bool has_gathered_plain_ = false, has_empty_ = false;
  PlainRule last_rule_;
  uint32_t last_position_ = 0, last_reused_ = 0;  // 0 blocks held are 0 reused, by any rule
  uint32_t n_runs_ = 0;
  uint32_t position_ = 0;  // blocks walked so far
};

}  // namespace

uint32_t shard_of(uint64_t segment_key, uint32_t n_shards) {
  if (n_shards <= 1) return 0;
  const uint32_t tag = segment_tag(segment_key);
  uint64_t key = (static_cast<uint64_t>(tag) << 32) | tag;
  int64_t bucket = -1, next = 0;
  while (next < n_shards) {
    bucket = next;
    key = key * 2862933555777941757ULL + 1;
    next = static_cast<int64_t>(static_cast<double>(bucket + 1) * (static_cast<double>(1ll << 31) / static_cast<double>((key >> 33) + 1)));
  }
  return static_cast<uint32_t>(bucket);
}

void match(const Question& question, const std::vector<std::shared_ptr<Source>>& shards, const RosterView& roster, Matches& out) {
  std::vector<Pin> pins;
  pins.reserve(shards.size());
  for (const auto& shard : shards) pins.push_back(shard->pin());
  thread_local Scratch scratch;
  look_steadily(pins, [&] {
    Matcher matcher(question, roster, out, scratch);
    matcher.finish(Walk(question.keys, question.n_keys, pins, matcher.misses_max(), matcher).run());
  });
  // The segments that it could use: few of them come back often, so each time counts.
  const uint32_t longest = out.n == 0 ? 0 : *std::max_element(out.blocks.begin(), out.blocks.begin() + out.n);
  for (size_t begin = 0; begin < longest; begin += kSegmentBlocks)
    shards[shard_of(question.keys[begin], static_cast<uint32_t>(shards.size()))]->touch(question.keys + begin, 1);
}

}  // namespace kvatlas
