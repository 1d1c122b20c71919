// Matching: for each worker, how many leading blocks of a chain it has, and in which tiers.
//
// Two questions. *Reusable*: what the worker's engine would not compute again (reuse.hpp has the
// rules). *Longest prefix*: the leading run in any tier, over the worker's full-attention groups.
//
// A chain is walked as runs of blocks that name one residency set (walk.hpp). Plain workers are
// followed lane by lane: while the set is the same only one word is compared; at a change the lanes
// that are gone are retired. So the cost grows with the number of changes, not with the number of
// workers. The others, and plain workers with copies in other tiers, are gathered on the way and
// looked at one by one after it: their lanes x runs, then the rules.
//
// Thread safety: match() by any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "index/native/reuse.hpp"
#include "index/native/roster.hpp"
#include "index/native/table.hpp"

namespace kvatlas {

inline constexpr uint32_t kSegmentBlocks = 128;

// Which of n shards holds the segment that begins with this key.
// Source: Lamping and Veach, "A Fast, Minimal Memory, Consistent Hash Algorithm" (2014).
uint32_t shard_of(uint64_t segment_key, uint32_t n_shards);

// Made to be reused: the arrays only grow, and only their first n rows count.
struct Matches {
  uint32_t n = 0;
  std::vector<uint32_t> workers;       // [n] those with a block at least, in no particular order
  std::vector<uint32_t> blocks;        // [n]
  std::vector<uint32_t> tier_blocks;   // [n, kTierColumns] the same by tier
  std::vector<uint32_t> partial_rows;  // where the prompt's last token is computed again, of a reused block
  uint32_t n_probed = 0;               // slots looked up
};

struct Question {
  const uint64_t* keys;
  size_t n_keys;
  const uint8_t* allowed;  // one byte a worker, 0 skips it, as does its end; nullptr: all
  size_t n_allowed;
  // Both 0: the longest prefix. Else what is reusable. REQUIRES: n_keys * block_size <= prompt_tokens.
  uint64_t prompt_tokens;
  uint32_t block_size_tokens;
};

// One pin of each source is taken for the whole call.
void match(const Question& question, const std::vector<std::shared_ptr<Source>>& shards, const RosterView& roster, Matches& out);

}  // namespace kvatlas
