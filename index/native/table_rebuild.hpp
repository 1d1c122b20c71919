// The next generation of a table while it is being filled (private to table*.cpp).
#pragma once

#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "index/native/table.hpp"

namespace kvatlas {

struct Table::Rebuild {
  struct Free {
    void operator()(uint32_t* p) const { std::free(p); }
  };
  Rebuild(std::shared_ptr<Generation> generation, uint64_t live_set_bytes)
      : next(std::move(generation)), n_known(live_set_bytes / 8 + 1),
        known(static_cast<uint32_t*>(std::calloc(n_known, sizeof(uint32_t)))) {
    if (known == nullptr) throw std::bad_alloc();
  }

  Writing next;
  uint64_t cursor = 0;                       // live slots left of it are copied
  uint64_t n_known;
  std::unique_ptr<uint32_t[], Free> known;   // live set -> set in next, 0 unknown
  size_t n_reclaimable = 0;                  // leading dead_phys_: dead before it began
  uint64_t dead_load = 0;                    // their load
  std::vector<bool> cold;                    // buckets that are dropped; empty: none
};

}  // namespace kvatlas
