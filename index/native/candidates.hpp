// Who may be chosen, and what the terms of a cost weigh.
//
// Thread safety: immutable once made.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "index/native/reuse.hpp"

namespace kvatlas {

inline constexpr uint32_t kNoRow = ~0u;
inline constexpr uint32_t kCandidatesMax = 1u << 16;
inline constexpr double kTokensMax = 1e12;  // of anything: sums of 2^22 such stay whole numbers of a double's 53 bits

// One row a candidate. Empty columns stand for their defaults.
struct CandidateColumns {
  std::span<const uint32_t> numbers;      // worker numbers of the index; kNoWorker: not in it
  std::span<const uint32_t> slots;        // of the book
  std::span<const float> discounts;       // 0 to 1: what a token of a match is worth; negative: the slot's accuracy
  std::span<const double> limits;         // tokens that others' work may cost; inf: no limit. Default inf
  std::span<const double> offsets;        // tokens added to the cost: of a worker that is not near. Default 0
  std::span<const uint32_t> requests_max; // from which it takes no more; 0: no limit. Default 0
  std::span<const double> rates;          // tokens/s it is configured to prefill; 0: not known. Default 0
};

class Candidates {
 public:
  // Throws Error{input}: lengths differ, a value is out of range, a number or slot stands twice.
  explicit Candidates(const CandidateColumns& columns);
  Candidates(const Candidates&) = delete;

  size_t size() const { return rows_.size(); }

  struct Row {
    uint32_t slot;
    uint32_t requests_max;
    float discount;
    double limit, offset;
    double seconds_per_token;  // configured; 0: not known
  };
  const Row& operator[](size_t row) const { return rows_[row]; }

  // The row of a worker number, or kNoRow. One probe, nearly always.
  uint32_t row_of(uint32_t number) const {
    for (size_t at = place_of(number);; ++at) {
      const Entry& entry = rows_by_number_[at & mask_];
      if (entry.number == number) return entry.row;
      if (entry.number == kNoWorker) return kNoRow;
    }
  }

 private:
  struct Entry {
    uint32_t number = kNoWorker, row = kNoRow;
  };
  size_t place_of(uint32_t number) const { return (number * uint64_t{0x9E3779B97F4A7C15}) >> 32; }
  void index(std::span<const uint32_t> numbers);

  std::vector<Row> rows_;
  std::vector<Entry> rows_by_number_;  // open addressing, at most half full
  size_t mask_ = 0;
};

// Of a token loaded back from each tier, as a share of one that is computed; above 1 counts as 1.
using TierCosts = std::array<double, kTierColumns>;

enum class PolicyKind : uint8_t { weighted, longest_prefix, least_loaded, random, round_robin };

// What a cost is made of; pricing.hpp has the formula.
struct Terms {
  PolicyKind kind = PolicyKind::weighted;
  double overlap = 1.0;   // of the request's own tokens that are not reused there
  double prefill = 1.0;   // of tokens that the worker must still prefill for others
  double decode = 0.02;   // of tokens in the caches of requests that it works on
  double temperature = 0.0;  // softmax over costs, as a share of their spread; 0: the cheapest
  TierCosts tier_costs{};  // where nothing has been measured
  double session_bonus_tokens = 0.0;
  uint32_t hot_requests = 0;  // from which a worker's overlap counts less; 0: never
  double work_prefill = 1.0, work_decode = 0.02;  // the same two for limits, whatever the kind; settle() sets them
  // Whether a reservation counts as prefill and as decode work there: not both where roles are split.
  bool reserves_prefill = true, reserves_decode = true;

  // Throws Error{input} for what is not a number, negative or huge. The other kinds than `weighted`
  // set the weights that make them what they are.
  void settle();
};

}  // namespace kvatlas
