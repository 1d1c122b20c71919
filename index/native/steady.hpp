// Looks at generations as they are before or after lanes of theirs are replaced, never in between.
//
// Thread safety: plain functions.
#pragma once

#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "index/native/generation.hpp"

namespace kvatlas {

using Pin = std::shared_ptr<const Generation>;

// Calls look() until no lanes were replaced meanwhile; that takes the writer less than a
// microsecond a lane. A writer that stops in the middle is not waited for: what it has taken down
// and not yet put up counts as not held.
template <class Look>
void look_steadily(const std::vector<Pin>& pins, const Look& look) {
  constexpr int kTries = 64;
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
  for (int i = 1; i < kTries; ++i) {
    const Flips before = flips();
    if (!before.under_way) {
      look();
      if (flips().sum == before.sum) return;
    } else {
      std::this_thread::yield();
    }
  }
  look();
}

}  // namespace kvatlas
