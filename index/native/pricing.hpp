// What it would cost to send a request to each candidate, and which one to take.
//
//   own     = prompt - credit                    what the worker would have to compute of it
//   others  = prefill x P + decode x D           the work in front of it and beside it
//   cost    = overlap x own + others + offset - bonus            in tokens to prefill
//   cost    x seconds per token of that worker                   in seconds, where rates are known
//
// credit. A reused token is worth 1, less what loading it back from its tier costs: by the terms, or where
// that was measured the seconds that it takes there as a share of those for computing it (half way back to
// the terms in a minute without anything new), at most 1. All of it times how far the worker's truth goes:
// 1 where it is sound, the measured accuracy where it may not be.
// What the worker was sent a moment ago (hints) counts in full, but for the last block of a whole prompt,
// which engines compute again: it holds it or computes it, and then it stands in P. So siblings of a cold burst go one to each worker before any gets a second, and
// warm siblings leave the worker that holds their prefix when its queue costs more than a prefill.
// From `hot_requests` on the credit, as a reason to choose, shrinks as hot_requests / requests.
//
// P: tokens that reserved requests have still to prefill there. D: tokens that they hold, or will
// when they are done. Reading another request's cache in 256 steps takes about a quarter of the time of
// computing it. But a token that is computed instead of reused also holds up every request that the worker
// decodes and every one that waits, and a chat that was moved away once moves more easily again: in
// simulations weights of D from 0.01 to 0.03 gave the shortest waits, and 0.25 lost the caches.
//
// bonus: the worker that has served the request's session before.
//
// Seconds. Of one kind of hardware tokens and seconds order workers alike; of two they do not. Where at
// least half of the candidates have a rate all costs are in seconds, the others at the mean rate. A
// measured rate drifts to the configured one, or the mean, while nothing new is measured (half way in
// a minute): a worker that was slow once is tried again. Rates that differ by a quarter at most are taken
// for equal: among idle workers, noise in what was measured would else decide every cold choice.
//
// Choice. Cheapest, among equals by chance: the same costs at the same moment must not mean the same
// worker. (By longest prefix alone: of equals the least loaded.) `temperature` > 0: softmax over
// (cost - least) / (most - least) / temperature. A worker whose others' work reaches its limit, or which
// has requests_max of them, is saturated and not taken.
//
// Prior art. NVIDIA Dynamo: overlap weight x blocks to prefill, queued ones too, + blocks decoded, softmax over
// costs. llm-d: a weighted sum of scores normalised over candidates, in which a queue twice as long weighs
// the same at 2 and at 200 requests. Here all terms are work in one unit, so that a cached prefix is worth
// exactly the prefill that it saves, and stops being worth it where waiting takes longer.
//
// Thread safety: pure functions. Cost: candidates + rows of the match.
#pragma once

#include <cstdint>
#include <span>

#include "index/native/candidates.hpp"

namespace kvatlas {

// Of a match: one row a worker that has a block at least.
struct MatchRows {
  std::span<const uint32_t> workers, blocks;
  std::span<const uint32_t> tier_blocks;   // [n, kTierColumns]
  std::span<const uint32_t> partial_rows;  // whose last token is computed again
  uint32_t block_size_tokens = 0;
};

struct Request {
  double now_s = 0;
  uint64_t prompt_tokens = 0, output_tokens = 0;
  MatchRows matches;
  std::span<const float> hints;  // [n_candidates] tokens, or empty
  uint32_t bonus_row = kNoRow;
  uint64_t seed = 0;
};

enum class RowState : uint8_t { open, saturated, gone };

struct PricedRow {
  uint32_t match = kNoRow;   // row of the match; kNoRow: the index has nothing, or cannot be relied on
  bool is_partial = false;
  double index_tokens = 0;   // that the index says are there
  double cached_tokens = 0;  // the same, or those of hints where they are more
  double credit = 0;         // tokens
  double prefill = 0, decode = 0;
  uint32_t requests = 0;
  float measured_weight = 0;           // 0 to 1: how much of the measured rate counts
  double measured_seconds_per_token = 0;  // where measured_weight > 0
  double seconds_per_token = 0;        // that the cost was made with; 0: in tokens
  double cost = 0;
  RowState state = RowState::open;
};

// Fills match, is_partial and index_tokens. Rows are new ones.
// Throws Error{input} where arrays do not fit each other or a hint is not a number of tokens.
void claim(const Candidates& candidates, const Request& request, std::span<PricedRow> rows);

// The most that a hint can say of a request, in tokens.
double hint_most(const Request& request);

// Fills cached_tokens and credit of a row as `claim` left it. `share`: how far its truth goes.
void give_credit(const Request& request, const TierCosts& tier_costs, double hint, double share, PricedRow& row);

// Workers are of one kind whose times a token differ by this factor at most.
inline constexpr double kAlikeRates = 1.25;

// Fills seconds_per_token; whether costs are in seconds.
bool settle_rates(const Candidates& candidates, std::span<PricedRow> rows);

// Fills cost. REQUIRES: all else.
void price(const Candidates& candidates, const Terms& terms, const Request& request, bool in_seconds, std::span<PricedRow> rows);

// The row to take, or kNoRow where none is open. Rows that cost infinity are never taken.
uint32_t choose_row(const Terms& terms, std::span<const PricedRow> rows, uint64_t seed);

// What others have a worker do, in tokens, whatever the policy.
inline double work_of(const Terms& terms, const PricedRow& row) { return terms.work_prefill * row.prefill + terms.work_decode * row.decode; }

}  // namespace kvatlas
