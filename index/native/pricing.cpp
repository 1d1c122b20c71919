#include "index/native/pricing.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "index/native/error.hpp"

namespace kvatlas {
namespace {

// Source: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators" (2014).
uint64_t mixed(uint64_t x) {
  x += 0x9E3779B97F4A7C15;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

// Uniform in [0, 1).
double chance(uint64_t seed) { return static_cast<double>(mixed(seed) >> 11) * 0x1.0p-53; }

void expect_fit(const MatchRows& m) {
  const size_t n = m.workers.size();
  if (m.blocks.size() != n || m.tier_blocks.size() != n * kTierColumns)
    throw Error(ErrorKind::input, "blocks, tier_blocks: expected " + std::to_string(n) + " rows, got " + std::to_string(m.blocks.size()) + " and " + std::to_string(m.tier_blocks.size() / kTierColumns));
  for (uint32_t row : m.partial_rows)
    if (row >= n) throw Error(ErrorKind::input, "partial_rows: expected below " + std::to_string(n) + ", got " + std::to_string(row));
}

bool can_take(const PricedRow& row) { return row.state == RowState::open && std::isfinite(row.cost); }

// Costs this near the least are the same: sums of the same terms in another order.
double tie_end(double least) { return least + std::abs(least) * 1e-9 + 1e-6; }

uint32_t one_of(std::span<const uint32_t> equals, uint64_t seed) {
  return equals[static_cast<size_t>(chance(seed) * static_cast<double>(equals.size()))];
}

uint32_t one_of_cheapest(const Terms& terms, std::span<const PricedRow> rows, double least, uint64_t seed) {
  thread_local std::vector<uint32_t> equals;  // no allocation per choice
  equals.clear();
  for (uint32_t i = 0; i < rows.size(); ++i)
    if (can_take(rows[i]) && rows[i].cost <= tie_end(least)) equals.push_back(i);
  if (terms.kind == PolicyKind::longest_prefix) {
    double idlest = std::numeric_limits<double>::infinity();
    for (uint32_t i : equals) idlest = std::min(idlest, work_of(terms, rows[i]));
    std::erase_if(equals, [&](uint32_t i) { return work_of(terms, rows[i]) > tie_end(idlest); });
  }
  return one_of(equals, seed);
}

uint32_t by_softmax(std::span<const PricedRow> rows, double least, double most, double temperature, uint64_t seed) {
  const double scale = 1 / ((most - least) * temperature);
  double sum = 0;
  for (const PricedRow& row : rows)
    if (can_take(row)) sum += std::exp((least - row.cost) * scale);
  double left = chance(seed) * sum;
  uint32_t last = kNoRow;
  for (uint32_t i = 0; i < rows.size(); ++i) {
    if (!can_take(rows[i])) continue;
    last = i;
    left -= std::exp((least - rows[i].cost) * scale);
    if (left < 0) return i;
  }
  return last;  // rounding left a remainder
}

// Workers whose rates differ by no more than kAlikeRates get the mean of theirs: from the fastest on, group by group.
void even_out(std::span<PricedRow> rows) {
  std::vector<PricedRow*> order;
  order.reserve(rows.size());
  for (PricedRow& row : rows)
    if (row.state != RowState::gone) order.push_back(&row);
  std::sort(order.begin(), order.end(), [](const PricedRow* a, const PricedRow* b) { return a->seconds_per_token < b->seconds_per_token; });
  for (size_t first = 0, end = 0; first < order.size(); first = end) {
    double sum = 0;
    for (; end < order.size() && order[end]->seconds_per_token <= kAlikeRates * order[first]->seconds_per_token; ++end)
      sum += order[end]->seconds_per_token;
    const double mean = sum / static_cast<double>(end - first);
    for (size_t i = first; i < end; ++i) order[i]->seconds_per_token = mean;
  }
}

}  // namespace

void claim(const Candidates& candidates, const Request& request, std::span<PricedRow> rows) {
  const MatchRows& m = request.matches;
  expect_fit(m);
  if (!request.hints.empty() && request.hints.size() != candidates.size())
    throw Error(ErrorKind::input, "hints: expected " + std::to_string(candidates.size()) + " rows, got " + std::to_string(request.hints.size()));
  for (float hint : request.hints)
    if (!(hint >= 0 && hint <= 1e12f)) throw Error(ErrorKind::input, "hints: expected 0 to 1e12 tokens, got " + std::to_string(hint));
  const auto prompt = static_cast<double>(request.prompt_tokens);
  const double block = m.block_size_tokens;
  for (uint32_t i = 0; i < m.workers.size(); ++i) {
    const uint32_t at = candidates.row_of(m.workers[i]);
    if (at == kNoRow || candidates[at].discount == 0) continue;
    rows[at].match = i;
    rows[at].index_tokens = std::min(m.blocks[i] * block, prompt);
  }
  for (uint32_t partial : m.partial_rows)
    if (const uint32_t at = candidates.row_of(m.workers[partial]); at != kNoRow) {
      rows[at].is_partial = true;
      rows[at].index_tokens = std::max(rows[at].index_tokens - 1, 0.0);
    }
}

double hint_most(const Request& request) {
  const uint64_t block = std::max(request.matches.block_size_tokens, 1u);
  return request.prompt_tokens == 0 ? 0 : static_cast<double>((request.prompt_tokens - 1) / block * block);
}

void give_credit(const Request& request, const TierCosts& tier_costs, double hint, double share, PricedRow& row) {
  row.cached_tokens = std::max(row.index_tokens, hint);
  row.credit = hint;
  if (row.match == kNoRow) return;
  const uint32_t* blocks = &request.matches.tier_blocks[row.match * size_t{kTierColumns}];
  double worth = 0;
  for (uint32_t tier = 0; tier < kTierColumns; ++tier) worth += blocks[tier] * (1 - std::min(tier_costs[tier], 1.0));
  worth = std::min(worth * request.matches.block_size_tokens, static_cast<double>(request.prompt_tokens));
  if (row.is_partial) worth = std::max(worth - 1, 0.0);
  row.credit = std::max(worth * share, hint);
}

bool settle_rates(const Candidates& candidates, std::span<PricedRow> rows) {
  double sum = 0;
  size_t n_known = 0, n_live = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].state == RowState::gone) continue;
    ++n_live;
    const bool is_measured = rows[i].measured_weight > 0;
    const double known = is_measured ? rows[i].measured_seconds_per_token : candidates[i].seconds_per_token;
    sum += known;
    n_known += known > 0;
  }
  if (n_known == 0 || 2 * n_known < n_live) return false;
  const double mean = sum / static_cast<double>(n_known);
  for (size_t i = 0; i < rows.size(); ++i) {
    const double told = candidates[i].seconds_per_token > 0 ? candidates[i].seconds_per_token : mean;
    const double weight = rows[i].measured_weight;
    rows[i].seconds_per_token = weight * rows[i].measured_seconds_per_token + (1 - weight) * told;
  }
  even_out(rows);
  return true;
}

void price(const Candidates& candidates, const Terms& terms, const Request& request, bool in_seconds, std::span<PricedRow> rows) {
  const auto prompt = static_cast<double>(request.prompt_tokens);
  const double hot = terms.hot_requests;
  for (size_t i = 0; i < rows.size(); ++i) {
    PricedRow& row = rows[i];
    const double worth = hot > 0 && row.requests > hot ? hot / row.requests : 1;
    const double own = prompt - row.credit * worth;
    const double others = terms.prefill * row.prefill + terms.decode * row.decode;
    row.cost = terms.overlap * own + others;
    if (terms.kind != PolicyKind::random) row.cost += candidates[i].offset;
    if (i == request.bonus_row) row.cost -= terms.session_bonus_tokens;
    if (in_seconds) row.cost *= row.seconds_per_token;
  }
}

uint32_t choose_row(const Terms& terms, std::span<const PricedRow> rows, uint64_t seed) {
  double least = std::numeric_limits<double>::infinity(), most = -least;
  for (const PricedRow& row : rows) {
    if (!can_take(row)) continue;
    least = std::min(least, row.cost);
    most = std::max(most, row.cost);
  }
  if (!std::isfinite(least)) return kNoRow;
  if (terms.temperature > 0 && most > tie_end(least)) return by_softmax(rows, least, most, terms.temperature, seed);
  return one_of_cheapest(terms, rows, least, seed);
}

}  // namespace kvatlas
