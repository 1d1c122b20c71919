// Choices out of a load book, and what they see of it.
#include <algorithm>
#include <cmath>
#include <limits>

#include "index/native/error.hpp"
#include "index/native/loads.hpp"

namespace kvatlas {
namespace {

// What the chosen worker has to compute and to load of a request, where the match can be relied on.
void set_work(const Request& request, const PricedRow& row, double discount, Reservation& reservation) {
  reservation.computed_tokens = std::llround(static_cast<double>(request.prompt_tokens) - row.index_tokens);
  reservation.is_sure = discount == 1 && reservation.is_by_index;
  if (row.match == kNoRow) return;
  const uint32_t* blocks = &request.matches.tier_blocks[row.match * size_t{kTierColumns}];
  for (uint32_t tier = 0; tier < kLoadTiers; ++tier)
    reservation.loaded_tokens[tier] = int64_t{blocks[kFirstLoadTier + tier]} * request.matches.block_size_tokens;
  reservation.is_sure &= blocks[kTierColumns - 1] == 0;  // wherever those are
}

void expect_costs(std::span<const double> costs, size_t n) {
  if (costs.size() != n) throw Error(ErrorKind::input, "costs: expected " + std::to_string(n) + " rows, got " + std::to_string(costs.size()));
  for (size_t row = 0; row < n; ++row)
    if (!(costs[row] >= -kTokensMax)) throw Error(ErrorKind::input, "costs[" + std::to_string(row) + "]: expected a number of at least -1e12, got " + std::to_string(costs[row]));
}

}  // namespace

Decision LoadBook::choose(const Candidates& candidates, const Terms& terms, const Request& request, std::span<const double> costs,
                          std::string_view request_id) {
  if (costs.data() != nullptr) expect_costs(costs, candidates.size());
  thread_local std::vector<PricedRow> rows;  // no allocation per choice
  rows.assign(candidates.size(), {});
  claim(candidates, request, rows);
  Decision decision;
  {
    std::lock_guard guard(mutex_);
    read(candidates, request.now_s, rows);
    decision.in_seconds = costs.data() == nullptr && terms.kind != PolicyKind::round_robin && settle_rates(candidates, rows);
    give_credits(candidates, terms, request, rows);
    saturate(candidates, terms, rows);
    set_costs(candidates, terms, request, costs, decision.in_seconds, rows);
    decision.row = choose_row(terms, rows, request.seed);
    ++counted_.choices;
    if (decision.row == kNoRow) {
      ++counted_.saturated;
      decision.retry_after_s = retry_after_s(candidates, terms, rows);
    } else {
      take(candidates, terms, request, rows[decision.row], request_id, decision);
    }
  }
  decision.keep(rows);
  return decision;
}

// Where loading has been measured that counts, as a share of the time that computing takes there.
TierCosts LoadBook::tier_costs(const Terms& terms, const WorkerRates& rates, const PricedRow& row, double now_s) {
  TierCosts costs = terms.tier_costs;
  const double computing = row.seconds_per_token > 0 ? row.seconds_per_token : row.measured_seconds_per_token;
  for (uint32_t tier = 0; tier < kLoadTiers; ++tier) {
    const LoadBackRate& known = rates.load_back(tier);
    if (!known.is_known()) continue;
    double& cost = costs[kFirstLoadTier + tier];
    const double weight = known.weight(now_s), measured = std::min(known.seconds_per_token() / computing, 1.0);
    cost = weight * measured + (1 - weight) * std::min(cost, 1.0);
  }
  return costs;
}

void LoadBook::give_credits(const Candidates& candidates, const Terms& terms, const Request& request, std::span<PricedRow> rows) const {
  const double most = hint_most(request);
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].state == RowState::gone) continue;
    const float share = candidates[i].discount;
    const double hint = request.hints.empty() ? 0 : std::min<double>(request.hints[i], most);
    const Slot& slot = slots_[candidates[i].slot];
    const bool is_measured = slot.rates.knows_load_back() && rows[i].match != kNoRow;
    give_credit(request, is_measured ? tier_costs(terms, slot.rates, rows[i], request.now_s) : terms.tier_costs, hint,
                share < 0 ? slot.accuracy.share() : share, rows[i]);
  }
}

void LoadBook::set_costs(const Candidates& candidates, const Terms& terms, const Request& request, std::span<const double> costs,
                         bool in_seconds, std::span<PricedRow> rows) const {
  if (costs.data() != nullptr) {
    for (size_t i = 0; i < rows.size(); ++i) rows[i].cost = costs[i];
  } else if (terms.kind == PolicyKind::round_robin) {
    price_turns(candidates, rows);
  } else {
    price(candidates, terms, request, in_seconds, rows);
  }
}

void LoadBook::take(const Candidates& candidates, const Terms& terms, const Request& request, const PricedRow& row,
                    std::string_view request_id, Decision& decision) {
  decision.slot = candidates[decision.row].slot;
  decision.cost = row.cost;
  decision.cached_tokens = std::llround(row.cached_tokens);
  decision.index_tokens = std::llround(row.index_tokens);
  if (terms.kind == PolicyKind::round_robin) slots_[decision.slot].turn = ++turns_;
  if (request_id.empty()) return;
  const auto prompt = static_cast<int64_t>(request.prompt_tokens);
  const auto output = static_cast<int64_t>(request.output_tokens);
  Reservation reservation;
  reservation.request_id = request_id;
  reservation.slot = decision.slot;
  reservation.prefill_tokens = terms.reserves_prefill ? std::max<int64_t>(std::llround(static_cast<double>(prompt) - row.credit), 0) : 0;
  reservation.counts_decode = terms.reserves_decode;
  reservation.decode_tokens = terms.reserves_decode ? prompt + output : 0;
  reservation.prompt_tokens = prompt;
  reservation.is_by_index = decision.cached_tokens == decision.index_tokens;
  reservation.cached_tokens = decision.cached_tokens;
  reservation.output_tokens = output;
  set_work(request, row, candidates[decision.row].discount, reservation);
  decision.is_reserved = enter(std::move(reservation), request.now_s);
}

void LoadBook::read(const Candidates& candidates, double now_s, std::span<PricedRow> rows) const {
  for (size_t i = 0; i < rows.size(); ++i) {
    PricedRow& row = rows[i];
    const Slot* slot = live(candidates[i].slot);
    if (slot == nullptr) {
      row.state = RowState::gone;
      continue;
    }
    const Sums& others = remote_.of(candidates[i].slot);
    row.measured_seconds_per_token = slot->rates.prefill().seconds_per_token();
    row.measured_weight = static_cast<float>(slot->rates.prefill().weight(now_s));
    row.prefill = static_cast<double>(slot->own.prefill + others.prefill) - drained(*slot, row, candidates[i].seconds_per_token, now_s);
    row.decode = static_cast<double>(slot->own.decode + others.decode);
    row.requests = static_cast<uint32_t>(slot->own.requests + others.requests);
  }
}

// What has been done of the prefill at the front.
double LoadBook::drained(const Slot& slot, const PricedRow& row, double told_seconds_per_token, double now_s) const {
  const double seconds_per_token = row.measured_weight > 0 ? row.measured_seconds_per_token : told_seconds_per_token;
  if (slot.prefilling.first == kNone || seconds_per_token <= 0) return 0;
  const auto front = static_cast<double>(reservations_[slot.prefilling.first].prefill_tokens);
  return std::clamp((now_s - slot.front_since_s) / seconds_per_token, 0.0, front);
}

void LoadBook::saturate(const Candidates& candidates, const Terms& terms, std::span<PricedRow> rows) const {
  for (size_t i = 0; i < rows.size(); ++i) {
    const Candidates::Row& candidate = candidates[i];
    const bool is_full = candidate.requests_max > 0 && rows[i].requests >= candidate.requests_max;
    if (rows[i].state == RowState::open && (is_full || work_of(terms, rows[i]) >= candidate.limit)) rows[i].state = RowState::saturated;
  }
}

// Whose turn was longest ago costs least.
void LoadBook::price_turns(const Candidates& candidates, std::span<PricedRow> rows) const {
  for (size_t i = 0; i < rows.size(); ++i)
    if (rows[i].state != RowState::gone) rows[i].cost = static_cast<double>(slots_[candidates[i].slot].turn);
}

// When the first of the saturated is expected to take one more.
double LoadBook::retry_after_s(const Candidates& candidates, const Terms& terms, std::span<const PricedRow> rows) const {
  constexpr double kUnknown = 1, kLeast = 0.05, kMost = 60;
  double least = std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < rows.size(); ++i) {
    const PricedRow& row = rows[i];
    const Candidates::Row& candidate = candidates[i];
    if (row.state != RowState::saturated) continue;
    double wait = 0;
    if (candidate.requests_max > 0 && row.requests >= candidate.requests_max) {
      const double stay = slots_[candidate.slot].stay.mean_s();
      wait = stay > 0 ? stay * (row.requests - candidate.requests_max + 1) / row.requests : kUnknown;
    }
    if (const double beyond = work_of(terms, row) - candidate.limit; beyond >= 0)
      wait = std::max(wait, row.seconds_per_token > 0 ? beyond * row.seconds_per_token : kUnknown);
    least = std::min(least, wait);
  }
  return std::isfinite(least) ? std::clamp(least, kLeast, kMost) : kUnknown;
}

std::vector<PricedRow> LoadBook::look(const Candidates& candidates, double now_s) const {
  std::vector<PricedRow> rows(candidates.size());
  std::lock_guard guard(mutex_);
  read(candidates, now_s, rows);
  return rows;
}

std::vector<double> LoadBook::accuracies(const Candidates& candidates) const {
  std::vector<double> shares(candidates.size(), Accuracy::kFirst);
  std::lock_guard guard(mutex_);
  for (size_t i = 0; i < shares.size(); ++i)
    if (const Slot* slot = live(candidates[i].slot)) shares[i] = slot->accuracy.share();
  return shares;
}

std::vector<double> LoadBook::load_back_rates(const Candidates& candidates) const {
  std::vector<double> rates(candidates.size() * kLoadTiers, 0);
  std::lock_guard guard(mutex_);
  for (size_t i = 0; i < rates.size(); ++i) {
    const Slot* slot = live(candidates[i / kLoadTiers].slot);
    const LoadBackRate* known = slot != nullptr ? &slot->rates.load_back(i % kLoadTiers) : nullptr;
    if (known == nullptr || !known->is_known()) continue;
    const double seconds = known->seconds_per_token();
    rates[i] = seconds > 0 ? 1 / seconds : std::numeric_limits<double>::infinity();
  }
  return rates;
}

}  // namespace kvatlas
