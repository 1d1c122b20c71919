// A table's slots copied while it is written: what a snapshot is made of (private to snapshot.* and loads).
//
//     live   [ copied ....... | cursor ........ not yet ... ]   every write lands here
//     copy   [ the same ..... |                             ]   and here when left of the cursor
//
// When the cursor has come to the end the copy equals the live generation, and goes on doing so until it is taken.
// Sets need no copy: they never change, and the generation is held until they are read.
//
// Thread safety: one TableCopying a table at a time; its calls by one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "index/native/table.hpp"

namespace kvatlas {

// What a table held at one instant, as it lay there.
struct TableCopy {
  std::shared_ptr<const Generation> generation;  // of the sets
  Zeroed<Slot> slots;
  uint64_t n_slots = 0;
  std::vector<uint32_t> lane_words;  // [physical lanes]
};

class TableCopying {
 public:
  // Throws Error{table_file} when the table is closed, Error{dump} when what is held of it already leaves no room:
  // all snapshots of a table together may take as much as its budget.
  explicit TableCopying(Table& table);
  TableCopying(const TableCopying&) = delete;
  ~TableCopying();  // REQUIRES: the turn is not held by this thread

  // Copies until all is, some hundred microseconds a turn.
  void run();
  // The same within the caller's turn.
  void finish();
  // REQUIRES: the caller has the turn.
  bool is_done() const;
  TableCopy take();  // REQUIRES: is_done()

  Turns& turns() { return table_.writer_; }

 private:
  void step(uint64_t n_slots);

  Table& table_;
};

// All of these turns at once; none is held for long while another is waited for. In any order, each once.
std::vector<std::unique_lock<Turns>> lock_all(const std::vector<Turns*>& turns);

}  // namespace kvatlas
