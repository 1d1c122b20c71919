// Reads another process's shared-memory table. Read-only, without a lock or message between the
// processes; threads that share one reader take turns on pin() alone.
//
// Thread safety: any thread may call any method.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "index/native/control.hpp"
#include "index/native/table.hpp"
#include "index/native/touched.hpp"

namespace kvatlas {

class TableReader final : public Source {
 public:
  // `path` as given to the Table. age_ms_max: how old the writer's heartbeat may be; a killed
  // writer leaves no other mark. Throws Error{table_file} (missing, foreign, another version,
  // another user's, cut short) and Error{stale}.
  TableReader(const std::string& path, uint64_t age_ms_max);

  // Attaches to the newest generation first when the writer moved on. Throws as above.
  std::shared_ptr<const Generation> pin() override;
  void touch(const uint64_t* segment_keys, size_t n) override { touched_.add(segment_keys, n); }
  // Segments that lookups used since the last call: what to tell the writer's process.
  std::vector<uint64_t> take_touched() { return touched_.take(); }

  bool whole() const override;  // false as well when the writer is gone or silent
  uint64_t incarnation() const;
  uint64_t age_ms() const;

 private:
  ControlReader::State checked_state() const;
  void attach(ControlReader::State state);

  const std::string path_;
  const uint64_t age_ms_max_;
  std::mutex mutex_;  // guards generation_
  const std::unique_ptr<const ControlReader> control_;
  std::shared_ptr<const Generation> generation_;
  Touched touched_;
};

}  // namespace kvatlas
