// Matching: for each worker, how many leading blocks of a chain it holds, and in which tiers.
//
//   keys  k0 k1 ... k127 | k128 ... k255 | ...       one segment (128 blocks) lies in one shard
//   runs  [----- set 9 ------][- set 4 -][set 2]     consecutive blocks that name the same set
//
// A chain is walked as runs: while the set is the same only one word is compared; at a change
// the lanes that are gone are retired. So the cost grows with the number of changes, not with
// the number of workers. Where all lanes of a set are closed under prefixes, a segment whose
// first and last block name it is one run without looking in between; that is exact, since
// the sets of such lanes only shrink along a chain.
//
// Thread safety: match() by any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "index/native/roster.hpp"
#include "index/native/table.hpp"

namespace kvatlas {

inline constexpr uint32_t kSegmentBlocks = 128;
inline constexpr uint32_t kTierColumns = 5;  // gpu cpu disk storage unknown, best first

// Which of n shards holds the segment that begins with this key.
// Source: Lamping and Veach, "A Fast, Minimal Memory, Consistent Hash Algorithm" (2014).
uint32_t shard_of(uint64_t segment_key, uint32_t n_shards);

// Made to be reused: the arrays only grow, and only their first n rows count.
struct Matches {
  uint32_t n = 0;
  std::vector<uint32_t> workers;      // [n] those that hold block 0, in no particular order
  std::vector<uint32_t> blocks;       // [n] leading blocks held
  std::vector<uint32_t> tier_blocks;  // [n, kTierColumns] the same by each block's best tier
  uint32_t n_probed = 0;              // slots looked up
};

// `allowed`: one byte a worker, 0 skips it; nullptr allows all; workers beyond n_allowed are
// skipped. One pin of each source is taken for the whole call.
void match(const uint64_t* keys, size_t n_keys, const std::vector<std::shared_ptr<Source>>& shards,
           const RosterView& roster, const uint8_t* allowed, size_t n_allowed, Matches& out);

}  // namespace kvatlas
