// The jobs of an engine: what waits, what is under way, what is done and not yet collected.
//
// A job is a list of chunks of one kind. Chunks are taken one by one by the engine's threads, in this order:
//
//   probes, then loads     at most `readers` under way at once
//   stores, then removals  at most `writers` under way; while a probe or a load waits, one for every `reads_per_write` of them
//
// Each chunk is decided exactly once, by whoever comes first: the thread that has it, or the time limit, or `cancel`. A thread
// that comes second finds that nobody wants its chunk any more, and undoes it. A job is finished when all its chunks are
// decided. So a thread that hangs in the file system delays a job up to its time limit and no longer:
//
//   queued -> running <-> touching      running -> decided, by its thread or by the time limit
//   queued -> decided, by `cancel` or by the time limit
//
// While a chunk is `touching`, a thread reads or writes the caller's row. That state cannot be taken away, and lasts as long as a
// pass over memory does: once a job is finished, no instruction of the engine's touches its rows. Only the kernel may still
// read one, for a write that hangs.
//
// Bounds: chunks from `post` until their job is collected, `queued_max` of reads and as many of writes.
//
// Thread safety: all methods may be called from any thread; one mutex, held for microseconds and across no system call but
// that on an event descriptor.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "offload/native/engine_counts.hpp"
#include "offload/native/event_descriptor.hpp"
#include "offload/native/staging.hpp"

namespace kvatlas {

using EngineClock = std::chrono::steady_clock;

// What a finished job says. `outcomes` has a byte for each key.
struct FinishedJob {
  int64_t id = 0;
  std::vector<uint8_t> outcomes;
  uint64_t n_bytes = 0;    // of payload, of the chunks whose outcome is ok
  double seconds = 0;      // from post to the last decision
  bool is_read = false;    // a load or a probe
  int error_number = 0;    // errno of the first failure, 0 where there was none
  std::string error;       // what was done, and where
};

// A job while it is open. `keys` and `rows` do not change; the rest is the board's, under its mutex.
struct Job {
  enum class State : uint8_t { queued, running, touching, decided };

  int64_t id = 0;
  JobKind kind = JobKind::load;
  std::vector<uint8_t> keys;   // packed
  std::vector<int32_t> rows;   // none for probes and removals
  std::vector<State> states;
  size_t next = 0;             // the first that is queued
  size_t n_open = 0;           // not decided
  uint64_t number = 0;         // in the order of arrival, which is that of time limits
  EngineClock::time_point posted, deadline;
  FinishedJob finished;
};

// A chunk that a thread has taken. Ended by JobBoard::end, always.
struct Task {
  std::shared_ptr<Job> job;
  size_t at = 0;
  uint8_t* staging = nullptr;  // a buffer of the pool, where the chunk needs one
};

// How the thread of a ring hears of work while it waits for its transfers.
struct Doorbell {
  EventDescriptor event;
  bool is_listening = false;  // guarded by the board's mutex
};

struct BoardLimits {
  size_t key_bytes = 0;
  size_t row_bytes = 0;
  size_t readers = 0, writers = 0;
  size_t reads_per_write = 0;
  size_t queued_max = 0;      // chunks
  bool stages_stores = false; // rows cannot be written as they lie
  EngineClock::duration time_limit{};
};

class JobBoard {
 public:
  JobBoard(const BoardLimits& limits, StagingPool& staging);
  JobBoard(const JobBoard&) = delete;

  // False: no room, or stopped; nothing was taken. A job of no keys is finished at once. Throws Error{input}: the id is that
  // of an open job. REQUIRES: keys.size() is a multiple of key_bytes; rows are checked.
  bool post(JobKind kind, int64_t id, std::vector<uint8_t> keys, std::vector<int32_t> rows);
  // Chunks that wait are decided `cancelled`; those under way go on. False: no such open job.
  bool cancel(int64_t id);
  void collect(std::vector<FinishedJob>& out);
  // Readable when `collect` has something.
  int event_fd() const { return finished_event_.fd(); }

  // For threads. False: there is nothing to do (with a doorbell, which then listens), or no more ever (without; waits until then).
  bool take(Task& task, Doorbell* doorbell);
  bool is_stopped() const;
  // Whether anybody still wants the chunk. REQUIRES, as do the next three: taken, not ended.
  bool wants(const Task& task) const;
  // Makes it `touching`. False: nobody wants it.
  bool begin_touching(const Task& task);
  void end_touching(const Task& task);
  // Decides the chunk, unless that is done, and gives back what the task holds.
  void end(Task& task, Outcome outcome, int error_number, const std::string& error);

  // Decides what is beyond its time limit, then and again, until `stop_watching`: the body of a thread.
  void watch();
  void stop_watching();
  // False: not all jobs were finished in time.
  bool wait_until_idle(EngineClock::time_point until);
  // Nothing is taken from here on; what waits is cancelled.
  void stop();
  // Decides all that is open: what waits as cancelled, the rest as timed out. Afterwards nothing touches a row of these jobs.
  void give_up_all();

  void fill(EngineStatistics& out) const;
  void count_fault(HeadFault fault);

 private:
  using Lock = std::unique_lock<std::mutex>;
  struct Side {  // reads, or writes
    std::deque<std::shared_ptr<Job>> first, second;  // probes and loads; stores and removals
    size_t queued = 0, under_way = 0, held = 0;      // chunks; held: until their job is collected
  };

  static bool is_read(JobKind kind) { return kind == JobKind::load || kind == JobKind::probe; }
  Side& side(JobKind kind) { return is_read(kind) ? reads_ : writes_; }
  bool needs_staging(JobKind kind) const { return kind == JobKind::load || (kind == JobKind::store && limits_.stages_stores); }
  bool may_read() const { return reads_.queued != 0 && reads_.under_way < limits_.readers; }
  bool may_write() const;
  bool take_from(Side& side, Task& task);
  bool take_any(Task& task);
  void decide(Job& job, size_t at, Outcome outcome);
  void give_up(Job& job, Outcome outcome);
  void give_up_running(Job& job);  // as timed out
  void finish_if_decided(const std::shared_ptr<Job>& job);
  void expire(EngineClock::time_point now);
  void pass_on();  // wakes one thread more when there is work for it
  void wake(bool all);

  const BoardLimits limits_;
  StagingPool& staging_;
  EventDescriptor finished_event_;
  mutable std::mutex mutex_;
  std::condition_variable work_, watch_, idle_;
  Side reads_, writes_;
  size_t reads_since_write_ = 0;
  size_t n_touching_ = 0;
  uint64_t next_number_ = 0;
  std::map<uint64_t, std::shared_ptr<Job>> open_;  // by number: the first has the earliest deadline
  std::unordered_map<int64_t, std::shared_ptr<Job>> open_by_id_;
  std::vector<FinishedJob> finished_;
  std::vector<Doorbell*> listening_;
  bool stopped_ = false, watching_ends_ = false;
  bool is_watch_idle_ = false;  // it waits for a job; else it looks by itself at a time before any later job's limit
  EngineStatistics counted_;
};

}  // namespace kvatlas
