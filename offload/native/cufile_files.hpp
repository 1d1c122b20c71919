// Chunk files straight from and to a GPU's memory, by cuFile: the bytes of a file do not pass through the engine's rows.
//
//   full         blocks are read into and written from where they lie
//   read_only    as full, loads alone;  write_only: as full, stores alone
//   bounce       a whole payload goes through one buffer in the GPU's memory, in one call
//
// What is verified: stores carry a checksum as every chunk file does (the payload crosses the bus for it). Loads check
// size and head, and in `bounce` the payload too before a byte of it reaches a block. In `full` and `read_only` nobody
// can check a payload in time: such a load is marked unverified, and the caller must have asked for it.
//
// A load that is unverified has no time limit: its late bytes could land in a block that is another request's by then.
//
// Thread safety: one mutex; every method may be called from any thread. A few threads of its own do the work.
#pragma once

#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "offload/native/chunk_file.hpp"
#include "offload/native/copies_plan.hpp"
#include "offload/native/cuda_driver.hpp"
#include "offload/native/cufile_driver.hpp"
#include "offload/native/engine_counts.hpp"
#include "offload/native/engine_files.hpp"

namespace kvatlas {

enum class DirectMode : uint8_t { full, bounce, read_only, write_only };

struct DirectOptions {
  DirectMode mode = DirectMode::bounce;
  bool allow_unverified = false;  // full and read_only need it
  uint32_t n_threads = 4;
  size_t chunks_max = 8192;       // unfinished; as many jobs may be unread
  double time_limit_s = 30;
  uint8_t fingerprint[kFingerprintBytes] = {};
  uint8_t writer[kWriterBytes] = {};
  size_t key_bytes = 0;
};

struct FinishedDirect {
  uint64_t job;
  std::string outcomes;  // [n_chunks] of Outcome
  uint64_t bytes;        // of the chunks that are ok
  double seconds;
  bool is_verified;
  std::string error;     // of the first chunk that failed
};

struct DirectCounts {
  uint64_t loaded_chunks = 0, stored_chunks = 0, present_chunks = 0, failed_chunks = 0, corrupt_chunks = 0;
  uint64_t unverified_chunks = 0, timed_out_chunks = 0, refused_jobs = 0, open_chunks = 0;
};

class DirectFiles {
 public:
  struct Layout {  // as Copier's
    uint64_t row_bytes;
    uint32_t blocks_per_chunk;
    std::vector<TensorPlace> tensors;
    std::vector<std::vector<GroupPart>> groups;
  };

  // Throws Error{input}: a layout that does not fit, an unverified mode that was not asked for. Error{store}: the GPU
  // or cuFile cannot be used. REQUIRES: the tensors stay until close() has ended.
  DirectFiles(Layout layout, const std::string& folder, std::shared_ptr<const cuda::Driver> driver,
              std::shared_ptr<const cufile::Library> library, int ordinal, const DirectOptions& options);
  DirectFiles(const DirectFiles&) = delete;
  ~DirectFiles();

  // `keys`: one for each chunk that the blocks fall into, packed. False: chunks_max, nothing was taken. Throws
  // Error{input}: as CopyPlan::runs; a direction that the mode has not; a store of a part of a chunk; closed.
  bool submit(Direction direction, uint64_t job, const std::string& keys, const BlockRuns& blocks, uint64_t after_stream);

  // The jobs that ended since the last call; where there are none, those that end within `wait_s`.
  std::vector<FinishedDirect> finished(double wait_s);
  DirectCounts counts();

  // Begins nothing more and waits `seconds` for what runs. False: a thread hangs; it keeps what it holds.
  bool close(double seconds);

 private:
  struct Piece;
  struct Chunk;
  struct Job;
  struct Shared;
  class Worker;

  CopyPlan plan_for(size_t n_chunks) const;

  const Layout layout_;
  std::shared_ptr<Shared> shared_;
  std::vector<std::thread> threads_;
};

}  // namespace kvatlas
