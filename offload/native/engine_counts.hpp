// What an engine counts, and the outcomes that it tells.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "offload/native/chunk_file.hpp"

namespace kvatlas {

enum class JobKind : uint8_t { store, load, probe, remove };
inline constexpr size_t kJobKinds = 4;

// Of one chunk. The numbers are part of the Python interface.
enum class Outcome : uint8_t {
  ok = 0,
  present = 1,    // a store found the file there
  absent = 2,     // a load, probe or removal did not
  corrupt = 3,    // the file was not what its name says; it has been removed
  failed = 4,     // any other error
  no_space = 5,   // the file system, or a quota, is full
  read_only = 6,
  timed_out = 7,  // nobody knows: it may still be done
  cancelled = 8   // never begun
};
inline constexpr size_t kOutcomes = 9;

struct EngineStatistics {
  // Now.
  uint64_t open_jobs = 0, finished_jobs = 0;            // finished: not yet collected
  uint64_t queued_reads = 0, queued_writes = 0;         // chunks
  uint64_t reading = 0, writing = 0;                    // chunks under way
  uint64_t hung = 0;                                    // of these, chunks given up that a thread still waits for
  uint64_t threads = 0;
  uint64_t staging_bytes = 0, staging_free_bytes = 0;
  bool is_staging_locked = false;                       // in physical memory
  bool is_direct = false, is_uring = false, is_pinned = false, stages_stores = false;
  // Since the start.
  std::array<uint64_t, kJobKinds> jobs{}, chunks{};     // posted
  std::array<std::array<uint64_t, kOutcomes>, kJobKinds> outcomes{};
  std::array<uint64_t, kHeadFaults> faults{};           // why files were corrupt
  uint64_t stored_bytes = 0, loaded_bytes = 0;          // payload
  uint64_t refused_chunks = 0;                          // no room in the queue
  uint64_t staging_waits = 0;                           // times that a thread found no buffer for a chunk that waited
  uint64_t hung_total = 0;                              // chunks given up while under way
  double read_queue_seconds = 0, write_queue_seconds = 0;  // that chunks waited, summed
  uint64_t direct_refusals = 0;                         // times that O_DIRECT was refused
  uint64_t stale_retries = 0, open_file_limits = 0;     // ESTALE; EMFILE, ENFILE
  uint64_t removed_corrupt = 0, temporary_left = 0;     // files; temporary ones that could not be removed
};

}  // namespace kvatlas
