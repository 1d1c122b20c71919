#include "index/native/budget_cut.hpp"

#include <bit>
#include <utility>

namespace kvatlas {
namespace {

constexpr uint32_t kLevels = 1 << 16;
constexpr float kCostMost = 4;  // times that of an entry without sets: others may share them

// Monotone in coldness: the exponent and the first five bits of the fraction, then the bucket's own.
uint16_t level_of(float coldness, uint32_t bucket) {
  constexpr uint32_t kBase = 127u << 5;  // of 1.0, below which nothing is
  const uint32_t logarithm = (std::bit_cast<uint32_t>(std::max(coldness * 16, 1.0f)) >> 18) - kBase;
  return static_cast<uint16_t>(std::max(std::min(logarithm, 2047u) << 5 | (bucket * 0x9e3779b9u) >> 27, 1u));
}

}  // namespace

BudgetCut::BudgetCut(Heat& heat, Costs costs) : heat_(&heat), costs_(costs), levels_(heat.n_buckets()), level_bytes_(kLevels) {}

bool BudgetCut::step(const Contents& live, uint64_t n_buckets) {
  const uint64_t n = live.entries.size();
  const uint64_t end = heat_ == nullptr ? 0 : std::min(2 * n, next_ + n_buckets);
  for (; next_ < end; ++next_) {
    if (next_ == n) choose();
    if (next_ < n) count(live, static_cast<uint32_t>(next_));
    else mark(live, static_cast<uint32_t>(next_ - n));
  }
  if (heat_ == nullptr || next_ < 2 * n) return heat_ == nullptr;
  levels_ = {};
  return true;
}

void BudgetCut::count(const Contents& live, uint32_t bucket) {
  if (live.entries[bucket] == 0) return;
  const Heat::Use use = heat_->settled_use_of(bucket);
  const double bytes = bytes_of(live, bucket);
  const auto cost = static_cast<float>(bytes / (live.entries[bucket] * costs_.entry_bytes));
  const float coldness = static_cast<float>(use.age_ticks + 1) * std::min(cost, kCostMost) / static_cast<float>(1 + use.lookups);
  levels_[bucket] = level_of(coldness, bucket);
  level_bytes_[levels_[bucket]] += bytes;
}

void BudgetCut::choose() {
  double bytes = 0;
  for (cold_from_ = kLevels; cold_from_ > 1 && bytes < costs_.bytes_to_drop;) bytes += level_bytes_[--cold_from_];
  level_bytes_ = {};
  cold_.resize(levels_.size(), false);
  unused_.resize(levels_.size(), false);
}

void BudgetCut::mark(const Contents& live, uint32_t bucket) {
  if (levels_[bucket] == 0 || levels_[bucket] < cold_from_) return;
  cold_[bucket] = true;
  unused_[bucket] = heat_->use_of(bucket).lookups == 0;
  dropped_set_bytes_ += live.set_units[bucket] * costs_.set_unit_bytes;
}

uint64_t BudgetCut::bytes() const {
  return levels_.bytes() + level_bytes_.bytes() + (cold_.capacity() + unused_.capacity()) / 8;
}

}  // namespace kvatlas
