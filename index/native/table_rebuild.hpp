// The next generation of a table while it is being filled (private to table*.cpp).
#pragma once

#include <memory>

#include "index/native/budget_cut.hpp"
#include "index/native/table.hpp"
#include "index/native/zeroed.hpp"

namespace kvatlas {

struct Table::Rebuild {
  bool is_scrubbing = false;      // blocks of dead lanes are taken out first: what lives is to be counted
  uint64_t scrubbed = 0;          // live slots left of it are
  Zeroed<uint8_t> fates;          // by live set: of lanes that live, or dead
  BudgetCut cut;                  // what is left behind
  std::unique_ptr<Writing> next;  // null until that is known
  uint64_t cursor = 0;            // live slots left of it are copied
  uint64_t run_begin = 0, run_end = 0;  // next slots that are all taken, where the last one was copied to
  Zeroed<uint64_t> stays;         // bits by live slot: it was added to since, so it stays although its bucket goes
  Zeroed<uint32_t> known;         // live set -> set in next, 0 unknown
  size_t n_reclaimable = 0;       // leading dead_phys_: dead before it began
  uint64_t dead_load = 0;         // their load
  uint64_t n_left_behind = 0, n_unused = 0;  // entries; they are there until the flip
  bool is_at_budget = false;      // the cut leaves something behind
  double slots_per_set_byte = 0;  // to be copied while the live sets grow by one, so that they do not run out of room

  // So many slots more; true when all are.
  bool scrub(Table& table, uint64_t n_slots);
  bool is_dead(const Table& table, uint32_t set);
  // Chooses what is left behind, or begins to copy. Where there is no room that ends the rebuild, and this with it.
  void plan(Table& table);

  static uint64_t stays_words(uint64_t n_slots) { return n_slots / 64 + 1; }
  void stay(uint64_t at) { stays[at / 64] |= 1ull << at % 64; }
  void fetch(const Slot* from, uint64_t begin, uint64_t end, const Heat& heat) const;
  bool may_go(uint64_t at) const { return (stays[at / 64] >> at % 64 & 1) == 0; }

  uint64_t bytes() const { return fates.bytes() + cut.bytes() + stays.bytes() + (next ? next->bytes() + known.bytes() : 0); }
};

}  // namespace kvatlas
