// Walks a chain of block keys through the shards and hands it on as runs.
//
//   keys  k0 k1 ... k127 | k128 ... k255 | ...       one segment (128 blocks) lies in one shard
//   runs  [----- set 9 ------][- set 4 -][set 2]     consecutive blocks that name the same set
//
// Where all lanes of a set are closed under prefixes, a segment whose first and last block name it
// is one run without looking in between; that is exact for those lanes, since along a chain they
// only become fewer. Lanes with holes may be held in between: the sink says where they matter.
//
// Thread safety: one thread at a time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "index/native/match.hpp"
#include "index/native/steady.hpp"

namespace kvatlas {

// Sink: bool run(const Generation&, uint32_t set, uint32_t length): whether to go on. Set 0 is held
//         by nobody.
//       bool may_skip(const Generation&, SetView): whether blocks between two of this set may be
//         taken to name it as well, its lanes all being closed.
template <class Sink>
class Walk {
 public:
  // Stops at `misses_max` blocks in a row that nobody holds; at least 1.
  Walk(const uint64_t* keys, size_t n_keys, const std::vector<Pin>& pins, size_t misses_max, Sink& sink)
      : keys_(keys), n_keys_(n_keys), pins_(pins), misses_max_(misses_max), sink_(sink) {}

  // Returns how many slots were looked up.
  uint32_t run() {
    for (size_t begin = 0; begin < n_keys_; begin += kSegmentBlocks) {
      const size_t end = std::min(n_keys_, begin + kSegmentBlocks);
      const Generation& g = generation_of(begin);
      const uint32_t first = probe(g, begin);
      if (begin == 0 && first != 0) prefetch_ends();
      const bool goes_on = is_one_run(g, begin, end, first) ? extend(g, first, static_cast<uint32_t>(end - begin))
                                                            : walk(g, begin, end, first);
      if (!goes_on) break;
    }
    flush();
    return n_probed_;
  }

 private:
  static constexpr size_t kAhead = 32;  // slots fetched before they are needed

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
    if (first == 0 || end - begin < 3 || probe(g, end - 1) != first) return false;
    if (&g == closed_in_ && first == closed_set_) return true;
    // Asked after both probes: a lane says that it is open before a hole is made in it.
    if (!sink_.may_skip(g, g.set(first))) return false;
    closed_in_ = &g;
    closed_set_ = first;
    return true;
  }

  bool walk(const Generation& g, size_t begin, size_t end, uint32_t first) {
    if (first == 0 && misses_max_ == 1) return false;
    for (size_t i = begin + 1; i < end && i < begin + kAhead; ++i) g.prefetch(keys_[i]);
    if (!extend(g, first, 1)) return false;
    for (size_t i = begin + 1; i < end; ++i) {
      if (i + kAhead < end) g.prefetch(keys_[i + kAhead]);
      if (!extend(g, probe(g, i), 1)) return false;
    }
    return true;
  }

  // Adds blocks to the pending run; a change of set hands the pending one over.
  bool extend(const Generation& g, uint32_t set, uint32_t length) {
    n_missed_ = set == 0 ? n_missed_ + length : 0;
    if (n_missed_ >= misses_max_) return false;
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
    const bool goes_on = sink_.run(*pending_in_, pending_set_, pending_length_);
    pending_length_ = 0;
    pending_in_ = nullptr;
    return goes_on;
  }

  const uint64_t* keys_;
  size_t n_keys_;
  const std::vector<Pin>& pins_;
  size_t misses_max_;
  Sink& sink_;
  const Generation* pending_in_ = nullptr;
  uint32_t pending_set_ = 0;
  uint32_t pending_length_ = 0;
  const Generation* closed_in_ = nullptr;
  uint32_t closed_set_ = 0;
  size_t n_missed_ = 0;
  uint32_t n_probed_ = 0;
};

}  // namespace kvatlas
