// Looks at generations as they are before or after lanes of theirs are replaced, never in between.
//
// Thread safety: plain functions.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "index/native/generation.hpp"

namespace kvatlas {

using Pin = std::shared_ptr<const Generation>;

inline constexpr std::chrono::milliseconds kPatience{500};

// Calls look() until no lanes were replaced meanwhile; that takes the writer less than a
// microsecond a lane. A writer that the system holds up in the middle is waited for so long; of one
// that stops there for good (or is stopped) what it has taken down and not yet put up counts as not
// held, until its heartbeat is too old.
template <class Look>
void look_steadily(const std::vector<Pin>& pins, const Look& look) {
  struct Flips {
    uint64_t sum;
    bool under_way;
  };
  auto flips = [&pins] {
    Flips all{0, false};
    for (const Pin& pin : pins) {
      const uint64_t one = pin->flips();
      all.sum += one;
      all.under_way |= (one & 1) != 0;
    }
    return all;
  };
  Flips before = flips();
  if (!before.under_way) {  // nearly always
    look();
    if (flips().sum == before.sum) return;
  }
  const auto end = std::chrono::steady_clock::now() + kPatience;
  for (uint32_t i = 1; std::chrono::steady_clock::now() < end; ++i) {
    before = flips();
    if (!before.under_way) {
      look();
      if (flips().sum == before.sum) return;
    } else if (i % 16 != 0) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(50));  // lets one run that waits for this core
    }
  }
  look();
}

}  // namespace kvatlas
