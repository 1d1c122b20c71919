// Snapshots: what tables held at one instant, frozen, while they go on being written and read.
//
// Cost: applies wait for a copy of 32 768 slots at a time, and once, for all tables together, as long as it takes to
// copy the words of their lanes. What was copied is sorted when somebody first asks for it. Memory: 16 bytes a slot
// until then, 16 bytes an entry and the sets afterwards.
//
// Thread safety: Snapshot by any thread; make_snapshots by any thread, one at a time in a process.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "index/native/section.hpp"
#include "index/native/table_snapshot.hpp"

namespace kvatlas {

class Snapshot {
 public:
  // `held_bytes`: the table's count of what is held of it.
  Snapshot(TableCopy copy, std::shared_ptr<std::atomic<uint64_t>> held_bytes);
  Snapshot(const Snapshot&) = delete;
  ~Snapshot() { held_bytes_->fetch_sub(bytes_); }

  // Made at the first call, which takes some 25 ns a block; the same ever after.
  const Content& content();
  uint64_t bytes() const { return bytes_; }

 private:
  void count(uint64_t bytes);

  std::mutex mutex_;  // guards the copy becoming the content
  bool is_sorted_ = false;
  TableCopy copy_;
  Content content_;
  std::atomic<uint64_t> bytes_{0};
  const std::shared_ptr<std::atomic<uint64_t>> held_bytes_;
};

// One of each table, in their order, all of one instant. What is being loaded by a replace is not in it yet.
// Throws Error{input} for a table given twice or none, Error{table_file} for a closed one, Error{dump}: no room.
std::vector<std::shared_ptr<Snapshot>> make_snapshots(const std::vector<std::shared_ptr<Table>>& tables);

}  // namespace kvatlas
