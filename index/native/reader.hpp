// Reads another process's shared-memory table. Read-only, without a lock or message between the
// processes; threads that share one reader take turns on pin() alone.
//
// Thread safety: any thread may call any method.
#pragma once

#include <memory>
#include <mutex>
#include <string>

#include "index/native/control.hpp"
#include "index/native/table.hpp"

namespace kvatlas {

class TableReader final : public Source {
 public:
  // `path` as given to the Table. age_ms_max: how old the writer's heartbeat may be; a killed
  // writer leaves no other mark. Throws Error{table_file} (missing, foreign, another version,
  // another user's, cut short) and Error{stale}.
  TableReader(const std::string& path, uint64_t age_ms_max);

  // Attaches to the newest generation first when the writer moved on. Throws as above.
  std::shared_ptr<const Generation> pin() override;
  void touch(const uint64_t*, size_t) override {}  // the writer's process keeps the heat

  uint64_t incarnation();
  uint64_t age_ms();

 private:
  ControlReader::State checked_state();
  void attach(ControlReader::State state);

  const std::string path_;
  const uint64_t age_ms_max_;
  std::mutex mutex_;
  std::unique_ptr<ControlReader> control_;
  std::shared_ptr<const Generation> generation_;
};

}  // namespace kvatlas
