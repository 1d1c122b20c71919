// Moves KV blocks between a device's tensors and rows of host memory; one for each worker of an engine.
//
// Jobs run beside the caller, those of one direction in the order in which they were submitted. Every job that was
// taken ends exactly once in finished(), with or without success:
//   1. Once a job has ended, none of its copies touches a row or a block any more, unless the device is lost.
//   2. A copy that fails fails its own job. A lost device fails all jobs, those submitted later too.
//   3. A job that takes longer than time_limit_s makes the device lost: nobody can say when its copies would end.
//
// Thread safety: one mutex; every method may be called from any thread. wait() lets others in while it waits.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "offload/native/copies_plan.hpp"
#include "offload/native/device.hpp"

namespace kvatlas {

struct FinishedCopy {
  uint64_t job;
  bool is_ok;
  uint64_t bytes;  // 0 where it failed
  double seconds;
};

struct CopierStatistics {
  uint64_t stores = 0, loads = 0;  // jobs that ended, in all
  uint64_t stored_bytes = 0, loaded_bytes = 0;
  double store_seconds = 0, load_seconds = 0;
  uint64_t failed_jobs = 0;
  uint64_t refused_jobs = 0;  // of the failed ones: jobs_max were unfinished
  uint64_t running_jobs = 0, unread_jobs = 0;
  bool is_pinned = false;
  bool is_lost = false;
  std::string first_error;
  DeviceCounts device;
};

struct CopierLimits {
  size_t jobs_max = 16384;    // unfinished; one more fails at once
  double time_limit_s = 120;  // of one job, with what it waits for
};

class Copier {
 public:
  // Pins the plan's memory. REQUIRES: it and the tensors stay where they are until close() has ended.
  Copier(CopyPlan plan, std::unique_ptr<Device> device, CopierLimits limits);
  Copier(const Copier&) = delete;
  ~Copier();

  // Throws Error{input}, and the job is not taken: see CopyPlan::runs; a closed copier; a number that runs; four times
  // jobs_max that nobody has read.
  void submit(Direction direction, uint64_t job, const BlockRuns& blocks, uint64_t after_stream);

  // The jobs that ended since the last call, in the order in which they ended.
  std::vector<FinishedCopy> finished();

  // Returns when none of these jobs runs. Numbers of no unfinished job are passed over.
  void wait(std::span<const uint64_t> jobs);

  // Ends all jobs, within `seconds`, or gives the device up. Later submits throw. False: it was given up, and its
  // copies may still run: the memory must stay for ever.
  bool close(double seconds);

  CopierStatistics statistics();
  std::string describe();
  std::string pci_address() const { return pci_address_; }

 private:
  struct Job {
    uint64_t number;
    Direction direction;
    uint64_t bytes;
    double deadline_s;
    std::unique_ptr<Batch> batch;  // null: refused
  };
  using Lock = std::unique_lock<std::mutex>;

  void collect();
  void end(Job& job, Batch::State state);
  bool runs_any(std::span<const uint64_t> jobs) const;

  std::mutex mutex_;
  CopyPlan plan_;
  std::unique_ptr<Device> device_;
  const CopierLimits limits_;
  const std::string pci_address_;
  std::deque<Job> running_;
  std::vector<FinishedCopy> finished_;
  CopierStatistics statistics_;
  bool is_closed_ = false;
  bool is_safe_ = true;  // what close() answered
};

}  // namespace kvatlas
