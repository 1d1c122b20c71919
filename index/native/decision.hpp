// What a choice came to: the row taken, and what was known of every candidate at that moment.
//
// Thread safety: immutable once made.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "index/native/pricing.hpp"

namespace kvatlas {

struct Decision {
  uint32_t row = kNoRow;  // kNoRow: nobody can take it
  uint32_t slot = ~0u;
  double cost = 0;
  int64_t cached_tokens = 0, index_tokens = 0;  // predicted of the row: hints too, and the index alone
  bool is_reserved = false;
  double retry_after_s = 0;  // where all are saturated
  bool in_seconds = false;

  // A row of the account: single precision is enough for people, and thousands of these are kept.
  struct Line {
    float cost, credit, prefill, decode, seconds_per_token;
    uint32_t requests;
    RowState state;
  };
  std::unique_ptr<Line[]> lines;  // [n_lines], as the candidates
  uint32_t n_lines = 0;

  void keep(std::span<const PricedRow> rows);
};

}  // namespace kvatlas
