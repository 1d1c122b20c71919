// One thread of an engine: takes chunks from the board and moves them, as many at once as its transfers allow.
//
//   store   look whether the file is there; checksum; head; temporary file; write; publish
//   load    open; read head and payload into staging; verify; copy into the row
//   probe   open; read and verify the head
//   remove  unlink
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "offload/native/engine_files.hpp"
#include "offload/native/engine_jobs.hpp"
#include "offload/native/transfers.hpp"

namespace kvatlas {

// The rows, and what chunk files say about them. Outlives every thread that may read or write it: see Engine.
struct Rows {
  uint8_t* memory = nullptr;
  size_t row_bytes = 0;
  size_t n_rows = 0;
  uint32_t blocks = 1;
  uint8_t fingerprint[kFingerprintBytes] = {};
  uint8_t writer[kWriterBytes] = {};

  uint8_t* row(int32_t number) const { return memory + static_cast<size_t>(number) * row_bytes; }
};

class EngineWorker {
 public:
  EngineWorker(JobBoard& board, ChunkFiles& files, const Rows& rows, const BoardLimits& limits, std::unique_ptr<Transfers> transfers);
  EngineWorker(const EngineWorker&) = delete;

  // Until the board is stopped and all that is under way has ended.
  void run();
  uint64_t stale_retries() const { return stale_retries_.load(std::memory_order_relaxed); }

 private:
  // A chunk under way.
  struct Passage : Transfer {
    alignas(kPageBytes) uint8_t head[kHeadBytes];
    Task task;
    OpenFile file;
    bool was_stale = false;
  };

  const uint8_t* key(const Passage& passage) const { return passage.task.job->keys.data() + passage.task.at * limits_.key_bytes; }
  uint8_t* row(const Passage& passage) const { return rows_.row(passage.task.job->rows[passage.task.at]); }

  void begin(Passage& passage);
  void begin_read(Passage& passage);
  void begin_store(Passage& passage);
  // Fills the head; returns where the bytes to be written lie. REQUIRES: the chunk is `touching`.
  const uint8_t* seal_payload(Passage& passage) const;
  void fill_head(Passage& passage, uint32_t payload_crc32c) const;
  void step_ended(Passage& passage);
  void complete_read(Passage& passage);
  void complete_load(Passage& passage, uint32_t payload_crc32c);
  void complete_store(Passage& passage);
  // Each ends the passage.
  void fail(Passage& passage, const char* doing, int error);
  void fail_corrupt(Passage& passage, HeadFault fault);
  void end(Passage& passage, Outcome outcome, int error = 0, const std::string& text = {});

  JobBoard& board_;
  ChunkFiles& files_;
  const Rows& rows_;
  const BoardLimits& limits_;
  const size_t payload_bytes_;  // a row's, up to the next page
  const std::unique_ptr<Transfers> transfers_;
  std::vector<std::unique_ptr<Passage>> passages_;
  std::vector<Passage*> free_;
  std::atomic<uint64_t> stale_retries_{0};
};

}  // namespace kvatlas
