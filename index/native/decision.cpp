#include "index/native/decision.hpp"

namespace kvatlas {

void Decision::keep(std::span<const PricedRow> rows) {
  lines = std::make_unique_for_overwrite<Line[]>(rows.size());
  n_lines = static_cast<uint32_t>(rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    const PricedRow& row = rows[i];
    lines[i] = {static_cast<float>(row.cost), static_cast<float>(row.credit), static_cast<float>(row.prefill),
                static_cast<float>(row.decode), static_cast<float>(row.seconds_per_token), row.requests, row.state};
  }
}

}  // namespace kvatlas
