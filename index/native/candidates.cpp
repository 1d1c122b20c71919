#include "index/native/candidates.hpp"

#include <algorithm>
#include <bit>
#include <limits>
#include <string>

#include "index/native/error.hpp"

namespace kvatlas {
namespace {

std::string shown(double value) { return std::to_string(value); }

void expect(bool good, const char* name, size_t row, const char* expected, double got) {
  if (!good) throw Error(ErrorKind::input, std::string(name) + "[" + std::to_string(row) + "]: expected " + expected + ", got " + shown(got));
}

template <class T>
T at(std::span<const T> column, size_t row, T otherwise) {
  return column.empty() ? otherwise : column[row];
}

void expect_length(size_t n, size_t got, const char* name, bool may_be_empty) {
  if (got != n && !(may_be_empty && got == 0))
    throw Error(ErrorKind::input, std::string(name) + ": expected " + std::to_string(n) + " rows, got " + std::to_string(got));
}

void expect_distinct(std::vector<uint32_t> values, const char* name) {
  std::sort(values.begin(), values.end());
  const auto twice = std::adjacent_find(values.begin(), values.end());
  if (twice != values.end()) throw Error(ErrorKind::input, std::string(name) + ": expected each once, got " + std::to_string(*twice) + " twice");
}

}  // namespace

Candidates::Candidates(const CandidateColumns& columns) {
  const size_t n = columns.numbers.size();
  if (n > kCandidatesMax) throw Error(ErrorKind::input, "numbers: expected at most 65536 rows, got " + std::to_string(n));
  expect_length(n, columns.slots.size(), "slots", false);
  expect_length(n, columns.discounts.size(), "discounts", false);
  expect_length(n, columns.limits.size(), "limits", true);
  expect_length(n, columns.offsets.size(), "offsets", true);
  expect_length(n, columns.requests_max.size(), "requests_max", true);
  expect_length(n, columns.rates.size(), "rates", true);
  rows_.reserve(n);
  for (size_t row = 0; row < n; ++row) {
    const float discount = columns.discounts[row];
    const double limit = at(columns.limits, row, std::numeric_limits<double>::infinity());
    const double offset = at(columns.offsets, row, 0.0);
    const double rate = at(columns.rates, row, 0.0);
    expect(discount <= 1, "discounts", row, "at most 1", discount);
    expect(limit >= 0, "limits", row, "0 to inf", limit);
    expect(offset >= -kTokensMax && offset <= kTokensMax, "offsets", row, "-1e12 to 1e12", offset);
    expect(rate == 0 || (rate >= 1e-3 && rate <= kTokensMax), "rates", row, "0, or 0.001 to 1e12", rate);
    rows_.push_back({.slot = columns.slots[row], .requests_max = at(columns.requests_max, row, 0u), .discount = discount,
                     .limit = limit, .offset = offset, .seconds_per_token = rate > 0 ? 1 / rate : 0});
  }
  expect_distinct({columns.slots.begin(), columns.slots.end()}, "slots");
  index(columns.numbers);
}

void Candidates::index(std::span<const uint32_t> numbers) {
  std::vector<uint32_t> known;
  std::copy_if(numbers.begin(), numbers.end(), std::back_inserter(known), [](uint32_t number) { return number != kNoWorker; });
  expect_distinct(std::move(known), "numbers");
  rows_by_number_.resize(std::bit_ceil(2 * numbers.size() + 2));
  mask_ = rows_by_number_.size() - 1;
  for (uint32_t row = 0; row < numbers.size(); ++row) {
    if (numbers[row] == kNoWorker) continue;
    size_t at = place_of(numbers[row]);
    while (rows_by_number_[at & mask_].number != kNoWorker) ++at;
    rows_by_number_[at & mask_] = {numbers[row], row};
  }
}

void Terms::settle() {
  const auto check = [](const char* name, double value, double most) {
    if (!(value >= 0 && value <= most)) throw Error(ErrorKind::input, std::string(name) + ": expected 0 to " + shown(most) + ", got " + shown(value));
  };
  check("overlap", overlap, 1e9);
  check("prefill", prefill, 1e9);
  check("decode", decode, 1e9);
  check("temperature", temperature, 100);
  check("session_bonus_tokens", session_bonus_tokens, kTokensMax);
  for (double cost : tier_costs) check("tier_costs", cost, 1e9);
  work_prefill = prefill;
  work_decode = decode;
  if (kind == PolicyKind::weighted) return;
  const bool by_prefix = kind == PolicyKind::longest_prefix, by_load = kind == PolicyKind::least_loaded;
  overlap = by_prefix ? 1 : 0;
  if (!by_load) prefill = decode = 0;
  temperature = session_bonus_tokens = 0;
  hot_requests = 0;
}

}  // namespace kvatlas
