#include "index/native/match.hpp"

#include <algorithm>
#include <bit>

namespace kvatlas {
namespace {

using Pin = std::shared_ptr<const Generation>;

constexpr size_t kAhead = 32;  // slots fetched before they are needed

// Lane -> its place in the list of lanes still matching. Never cleared: a place counts only
// when the list there names the lane again (Briggs and Torczon's sparse set).
thread_local std::vector<uint32_t> place_of_lane(65536, 0);

bool is_closed(const Generation& g, SetView set) {
  for (uint32_t i = 0; i < set.count; ++i) {
    const uint32_t word = g.lane_word(set.elements[i] >> 8);
    if (word != 0 && (word & kLaneClosed) == 0) return false;
  }
  return true;
}

uint32_t live_mask(uint32_t lane_word, uint32_t element) {
  return element & 0xff & (lane_word >> kLaneLiveShift);
}

uint32_t tier_column(uint32_t mask) {
  return std::min(static_cast<uint32_t>(std::countr_zero(mask)), kTierColumns - 1);
}

struct Active {
  uint32_t lane;
  uint32_t mask;  // tiers in the current run
  uint32_t out;   // row of the result
  uint32_t seen;  // run in which it was seen last
};

// The rows still matching; kept by the thread, so that a match allocates nothing.
thread_local std::vector<Active> active_rows;

class Matcher {
 public:
  Matcher(const RosterView& roster, const uint8_t* allowed, size_t n_allowed, Matches& out)
      : roster_(roster), allowed_(allowed), n_allowed_(n_allowed), out_(out), active_(active_rows),
        place_of_lane_(place_of_lane.data()) {
    out_.n = 0;
    active_.clear();
    for (const auto& c : roster.combined)
      if (is_allowed(c.worker)) combined_.push_back({&c, -1, true});
  }

  // Takes the next run of blocks, all naming `set`. Returns whether any worker still matches.
  bool run(const Generation& g, SetView set, uint32_t length) {
    if (position_ == 0) {
      admit(g, set, length);
    } else {
      retire(g, set);
      uint32_t* tier_blocks = out_.tier_blocks.data();
      for (const Active& a : active_) tier_blocks[a.out * kTierColumns + tier_column(a.mask)] += length;
    }
    run_combined(g, set, length);
    position_ += length;
    return !active_.empty() || n_combined_ > 0;
  }

  void finish(uint32_t n_probed) {
    for (const Active& a : active_) out_.blocks[a.out] = position_;
    out_.n_probed = n_probed;
  }

 private:
  struct Combined {
    const RosterView::Combined* worker;
    int64_t out;
    bool matching;
  };

  bool is_allowed(uint32_t worker) const { return allowed_ == nullptr || (worker < n_allowed_ && allowed_[worker] != 0); }

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

  // The first run: a row for each worker in it. Plain pointers, for this is most of a match by
  // many workers.
  void admit(const Generation& g, SetView set, uint32_t length) {
    n_combined_ = combined_.size();
    active_.resize(set.count);
    require_rows(set.count);
    Active* active = active_.data();
    uint32_t* workers = out_.workers.data();
    uint32_t* tier_blocks = out_.tier_blocks.data();
    const uint32_t n_lanes = static_cast<uint32_t>(roster_.worker_of_lane.size());
    const uint32_t* worker_of_lane = roster_.worker_of_lane.data();
    uint32_t n = 0;
    for (uint32_t i = 0; i < set.count; ++i) {
      const uint32_t word = g.lane_word(set.elements[i] >> 8);
      const uint32_t mask = live_mask(word, set.elements[i]);
      const uint32_t lane = word & 0xffff;
      if (mask == 0 || lane >= n_lanes) continue;
      const uint32_t worker = worker_of_lane[lane];
      if (worker == kNoWorker || !is_allowed(worker)) continue;
      active[n] = {lane, mask, n, n_runs_};
      std::fill_n(tier_blocks, kTierColumns, 0u);
      tier_blocks[tier_column(mask)] = length;
      tier_blocks += kTierColumns;
      workers[n++] = worker;
    }
    active_.resize(n);
    out_.n = n;
  }

  void retire(const Generation& g, SetView set) {
    if (n_runs_++ == 0)  // many matches are one run, and need no places
      for (uint32_t i = 0; i < active_.size(); ++i) place_of_lane_[active_[i].lane] = i;
    for (uint32_t i = 0; i < set.count; ++i) {
      const uint32_t word = g.lane_word(set.elements[i] >> 8);
      const uint32_t mask = live_mask(word, set.elements[i]);
      const uint32_t lane = word & 0xffff;
      const uint32_t place = place_of_lane_[lane];
      if (mask == 0 || place >= active_.size() || active_[place].lane != lane) continue;
      active_[place].mask = mask;
      active_[place].seen = n_runs_;
    }
    for (size_t i = 0; i < active_.size();) {
      if (active_[i].seen == n_runs_) {
        ++i;
        continue;
      }
      out_.blocks[active_[i].out] = position_;
      active_[i] = active_.back();
      place_of_lane_[active_[i].lane] = static_cast<uint32_t>(i);
      active_.pop_back();
    }
  }

  static uint32_t mask_of(const Generation& g, SetView set, uint32_t lane) {
    const uint32_t phys = g.phys_of(lane);
    const uint32_t* end = set.elements + set.count;
    const uint32_t* at = std::lower_bound(set.elements, end, phys << 8);
    if (phys == kNoLane || at == end || *at >> 8 != phys) return 0;
    const uint32_t word = g.lane_word(phys);
    return (word & 0xffff) == lane ? live_mask(word, *at) : 0;
  }

  // The tiers in which a combined worker can use a block: where its lanes all hold it the
  // slowest of their best, and what its stores hold.
  static uint32_t combined_mask(const RosterView::Combined& worker, const Generation& g, SetView set) {
    uint32_t slowest = 0;
    for (uint32_t lane : worker.lanes) {
      const uint32_t mask = mask_of(g, set, lane);
      if (mask == 0) {
        slowest = 0;
        break;
      }
      slowest = std::max(slowest, mask & (~mask + 1));
    }
    uint32_t stored = 0;
    for (uint32_t store : worker.stores) stored |= mask_of(g, set, store);
    return slowest | stored;
  }

  void run_combined(const Generation& g, SetView set, uint32_t length) {
    for (Combined& c : combined_) {
      if (!c.matching) continue;
      const uint32_t mask = combined_mask(*c.worker, g, set);
      if (mask == 0) {
        c.matching = false;
        --n_combined_;
        continue;
      }
      if (c.out < 0) c.out = new_row(c.worker->worker);
      const auto row = static_cast<size_t>(c.out);
      out_.blocks[row] += length;
      out_.tier_blocks[row * kTierColumns + tier_column(mask)] += length;
    }
  }

  const RosterView& roster_;
  const uint8_t* allowed_;
  size_t n_allowed_;
  Matches& out_;
  std::vector<Active>& active_;
  uint32_t* place_of_lane_;  // of this thread, looked up once
  std::vector<Combined> combined_;
  size_t n_combined_ = 0;
  uint32_t n_runs_ = 0;
  uint32_t position_ = 0;  // blocks matched so far
};

// Hands the chain to the matcher run by run.
class Walk {
 public:
  Walk(const uint64_t* keys, size_t n_keys, const std::vector<Pin>& pins, Matcher& matcher)
      : keys_(keys), n_keys_(n_keys), pins_(pins), matcher_(matcher) {}

  uint32_t run() {
    for (size_t begin = 0; begin < n_keys_; begin += kSegmentBlocks) {
      const size_t end = std::min(n_keys_, begin + kSegmentBlocks);
      const Generation& g = generation_of(begin);
      const uint32_t first = probe(g, begin);
      if (begin == 0 && first != 0) prefetch_ends();
      if (first == 0) break;
      const bool goes_on = is_one_run(g, begin, end, first) ? extend(g, first, static_cast<uint32_t>(end - begin))
                                                            : walk(g, begin, end, first);
      if (!goes_on) break;
    }
    flush();
    return n_probed_;
  }

 private:
  const Generation& generation_of(size_t segment_begin) const {
    return *pins_[shard_of(keys_[segment_begin], static_cast<uint32_t>(pins_.size()))];
  }

  uint32_t probe(const Generation& g, size_t block) {
    ++n_probed_;
    return word_set(g.find(keys_[block]));
  }

  // The first and last slot of every segment are needed whatever happens in between.
  void prefetch_ends() const {
    for (size_t begin = 0; begin < n_keys_; begin += kSegmentBlocks) {
      const Generation& g = generation_of(begin);
      g.prefetch(keys_[begin]);
      g.prefetch(keys_[std::min(n_keys_, begin + kSegmentBlocks) - 1]);
    }
  }

  // Whether all blocks of the segment name the set of its first, without looking at them.
  bool is_one_run(const Generation& g, size_t begin, size_t end, uint32_t first) {
    if (end - begin < 3 || probe(g, end - 1) != first) return false;
    if (&g == closed_in_ && first == closed_set_) return true;
    // Asked after both probes: a lane says that it is open before a hole is made in it.
    if (!is_closed(g, g.set(first))) return false;
    closed_in_ = &g;
    closed_set_ = first;
    return true;
  }

  bool walk(const Generation& g, size_t begin, size_t end, uint32_t first) {
    for (size_t i = begin + 1; i < end && i < begin + kAhead; ++i) g.prefetch(keys_[i]);
    if (!extend(g, first, 1)) return false;
    for (size_t i = begin + 1; i < end; ++i) {
      if (i + kAhead < end) g.prefetch(keys_[i + kAhead]);
      const uint32_t set = probe(g, i);
      if (set == 0 || !extend(g, set, 1)) return false;
    }
    return true;
  }

  // Adds blocks to the pending run; a change of set hands the pending one over.
  bool extend(const Generation& g, uint32_t set, uint32_t length) {
    if (&g == pending_in_ && set == pending_set_) {
      pending_length_ += length;
      return true;
    }
    if (!flush()) return false;
    pending_in_ = &g;
    pending_set_ = set;
    pending_length_ = length;
    return true;
  }

  bool flush() {
    if (pending_length_ == 0) return true;
    const bool matching = matcher_.run(*pending_in_, pending_in_->set(pending_set_), pending_length_);
    pending_length_ = 0;
    pending_in_ = nullptr;
    return matching;
  }

  const uint64_t* keys_;
  size_t n_keys_;
  const std::vector<Pin>& pins_;
  Matcher& matcher_;
  const Generation* pending_in_ = nullptr;
  uint32_t pending_set_ = 0;
  uint32_t pending_length_ = 0;
  const Generation* closed_in_ = nullptr;
  uint32_t closed_set_ = 0;
  uint32_t n_probed_ = 0;
};

}  // namespace

uint32_t shard_of(uint64_t segment_key, uint32_t n_shards) {
  if (n_shards <= 1) return 0;
  uint64_t key = Generation::scramble(segment_key);
  int64_t bucket = -1, next = 0;
  while (next < n_shards) {
    bucket = next;
    key = key * 2862933555777941757ULL + 1;
    next = static_cast<int64_t>(static_cast<double>(bucket + 1) * (static_cast<double>(1ll << 31) / static_cast<double>((key >> 33) + 1)));
  }
  return static_cast<uint32_t>(bucket);
}

void match(const uint64_t* keys, size_t n_keys, const std::vector<std::shared_ptr<Source>>& shards,
           const RosterView& roster, const uint8_t* allowed, size_t n_allowed, Matches& out) {
  std::vector<Pin> pins;
  pins.reserve(shards.size());
  for (const auto& shard : shards) pins.push_back(shard->pin());
  Matcher matcher(roster, allowed, n_allowed, out);
  matcher.finish(Walk(keys, n_keys, pins, matcher).run());
  // One lookup in 16 reports the segments it could use.
  thread_local uint32_t n_calls = 0;
  if ((n_calls++ & 15) == 0) {
    const uint32_t longest = out.n == 0 ? 0 : *std::max_element(out.blocks.begin(), out.blocks.begin() + out.n);
    for (size_t begin = 0; begin < longest; begin += kSegmentBlocks)
      shards[shard_of(keys[begin], static_cast<uint32_t>(shards.size()))]->touch(keys + begin, 1);
  }
}

}  // namespace kvatlas
