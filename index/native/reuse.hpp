// How much of a prompt an engine reuses: the rules of vLLM 0.32, read off what its groups hold.
//
//   blocks   0 1 2 3 4 5 6 7 8 9
//   device   [-----------)           the longest length at which every group hits, gpu only
//   behind               [-----)     then, in whole chunks, what the other tiers hold from there
//
// Device. Lengths are multiples of the groups' common block size, at most prompt - 1 tokens. At a
// length a group needs: full, every block from 0; sliding window, the ceil((window - 1) / block)
// blocks before it, or all from 0; chunked local, those since the last multiple of the chunk; state,
// the state stored exactly there. A hit at one length says nothing of a shorter one, so the search
// begins at the longest and goes down: each group in turn cuts the length to its own longest hit,
// until a round changes nothing. Groups with a speculative decoder look one block further and then
// drop it.
//
// Behind. All groups once more, in chunks counted from block 0 and from the chunk that holds the
// device's end. At least one whole chunk must be new. Without window or state groups all of the
// prompt may come from there, else all but its last token.
//
// Cost of one worker: its groups x blocks, and for each round the blocks of one window; every round
// but the last shortens the length by a block at least.
//
// Source: vLLM 0.32, find_longest_cache_hit of kv_cache_coordinator.py and of the managers,
// _lookup_complete_chunks of the offloading connector. docs/indexer.md has the rules in full.
//
// Thread safety: plain data.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "index/native/roster.hpp"

namespace kvatlas {

inline constexpr uint32_t kTierColumns = 5;  // gpu cpu disk storage unknown, best first
inline constexpr uint8_t kDeviceTier = 1;
inline constexpr uint8_t kOtherTiers = 0b11110;  // cpu disk storage unknown; not what is speculative

struct Prompt {
  uint32_t n_blocks = 0;
  uint64_t tokens = 0;  // of them at least n_blocks * block_size_tokens
  uint32_t block_size_tokens = 0;
};

// Tier masks of each block [n_blocks]: of each of the worker's groups, and of its stores together.
struct Held {
  std::vector<const uint8_t*> groups;
  const uint8_t* stores;
};

struct Reused {
  uint32_t blocks = 0;
  bool partial = false;  // all of the last one but the prompt's last token
  std::array<uint32_t, kTierColumns> tier_blocks{};
};

Reused reused(const Worker& worker, const Prompt& prompt, const Held& held);

// The same for a plain worker that holds the first n_held blocks on its device, and nothing else.
uint32_t reused_on_device(PlainRule rule, const Prompt& prompt, uint32_t n_held);

}  // namespace kvatlas
