// Moves rows of memory to chunk files and back, with threads of its own. Nothing of it waits for a disk in the caller's thread.
//
// Files: offload/native/chunk_file.hpp. Which chunk is taken when, and what a time limit does: engine_jobs.hpp.
//
// A load reads into memory of the engine's own, verifies there, and only then copies into the row: a read that hangs
// in the kernel never holds a row. The checksum is taken while copying, so after an outcome other than ok a row's bytes are
// undefined. A store is written from the row where rows are page-aligned, else through the engine's memory.
//
// What the caller owes:
//  1. `memory` lives until `close` returns. Where it returned false, threads hang in the file system. None of them touches
//     the memory again; a write of theirs may still be read from it by the kernel, which does no harm: its file is dropped.
//  2. The rows of a job are the job's until it is finished: a load's are not read, a store's not written by others.
//     A row of a store that timed out may be written again: its file is dropped when the thread wakes.
//
// Thread safety: any thread, any method. A forked child must not use it: its threads are the parent's.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "offload/native/engine_counts.hpp"
#include "offload/native/engine_jobs.hpp"

namespace kvatlas {

struct EngineOptions {
  // What is moved, and where to.
  uint8_t* memory = nullptr;
  size_t memory_bytes = 0;
  size_t row_bytes = 0;
  std::string folder;                        // <root>/<space>/<part>
  std::vector<uint8_t> fingerprint, writer;  // 16 bytes each
  size_t key_bytes = 0;
  uint32_t blocks = 1;                       // in a chunk
  bool sync = false;                         // a file's bytes reach the disk before its name does

  // How fast, and within what.
  size_t readers = 8, writers = 8;           // chunks under way at once
  size_t reads_per_write = 4;                // while reads wait
  size_t staging_bytes = 64 << 20;           // at least one chunk's
  size_t queued_max = 8192;                  // chunks of reads, and of writes, until collected
  double time_limit_s = 30;                  // of a job, from its submission
  bool direct = true;                        // O_DIRECT where the file system takes it
  bool uring = true;                         // io_uring where the kernel lets us
  size_t ring_depth = 4;                     // chunks under way in one ring; each has a thread
  int numa_node = -1;                        // threads and staging near it
};

class Engine {
 public:
  // Throws Error{input}: an option out of range. Throws Error{store}: no memory, threads or descriptors.
  explicit Engine(const EngineOptions& options);
  // Closes, waiting kCloseSeconds, unless that is done.
  ~Engine();
  Engine(const Engine&) = delete;

  // False: no room; nothing was taken. Throws Error{input}: keys not of key_bytes each, another number of rows, a row that
  // is not there, or the number of an open job. `rows` is empty for probes and removals.
  bool submit(JobKind kind, int64_t job, std::vector<uint8_t> keys, std::vector<int32_t> rows);
  bool cancel(int64_t job);
  std::vector<FinishedJob> finished();
  int event_fd() const;

  // Waits until no job is open. False: some were, after so many seconds.
  bool drain(double seconds);
  // Ends all open jobs now: what waits is cancelled, what is under way timed out. Their rows are the caller's again.
  void give_up();
  // Cancels what waits, waits for what is under way, then gives it up. True: no thread is left. May be called again.
  bool close(double seconds);
  EngineStatistics statistics() const;

  static constexpr double kCloseSeconds = 5;

 private:
  struct Core;

  const std::shared_ptr<Core> core_;  // shared with threads, which may outlive this
  std::vector<std::thread> threads_;
  std::thread watcher_;
  std::mutex closing_;
  bool is_closed_ = false;
  const pid_t process_;
};

}  // namespace kvatlas
