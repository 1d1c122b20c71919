// What DirectFiles' threads share, and one of them. Included by cufile_files.cpp and cufile_worker.cpp alone.
#pragma once

#include <chrono>

#include "offload/native/cufile_files.hpp"

namespace kvatlas {

using DirectClock = std::chrono::steady_clock;

struct OwnedEvent {
  OwnedEvent(const cuda::Driver& with, cuda::Event made) : driver(with), event(made) {}
  OwnedEvent(const OwnedEvent&) = delete;
  ~OwnedEvent() { driver.event_destroy(event); }
  const cuda::Driver& driver;
  const cuda::Event event;
};

// Bytes of a block, and their place in the payload.
struct DirectFiles::Piece {
  uint64_t block;
  uint64_t at;
  size_t bytes;
};

struct DirectFiles::Chunk {
  std::string key;
  std::vector<Piece> pieces;
  Outcome outcome = Outcome::cancelled;
  bool has_ended = false;
  bool is_landing = false;  // its bytes are on their way into blocks: they will be there in no time, or never
};

struct DirectFiles::Job {
  uint64_t number = 0;
  Direction direction = Direction::store;
  std::vector<Chunk> chunks;
  size_t next = 0, left = 0;  // the first that no thread has taken; how many have not ended
  DirectClock::time_point began{};
  std::unique_ptr<OwnedEvent> after;  // what the caller's stream was given before the job
  std::string error;
  bool has_ended = false;
};

// Everything under `mutex` but what is constant.
struct DirectFiles::Shared {
  Shared(const std::string& folder, uint64_t row_bytes, std::shared_ptr<const cuda::Driver> driver,
         std::shared_ptr<const cufile::Library> library, const DirectOptions& options);
  ~Shared();
  Shared(const Shared&) = delete;

  void open(int ordinal);  // throws Error{store}
  bool take(std::shared_ptr<Job> job, uint64_t after_stream);
  bool next(std::shared_ptr<Job>& job, size_t& chunk);  // waits; false: it closes
  bool may_land(Job& job, Chunk& chunk);
  bool is_wanted(Job& job);
  void end(const std::shared_ptr<Job>& job, Chunk& chunk, Outcome outcome, const std::string& error);
  std::vector<FinishedDirect> finished(double wait_s);
  bool close(double seconds);

  const std::shared_ptr<const cuda::Driver> driver;
  const std::shared_ptr<const cufile::Library> library;
  const DirectOptions options;
  const uint64_t row_bytes;
  uint32_t blocks = 1;
  ChunkFiles files;
  cuda::DeviceNumber device = 0;
  cuda::Context context = nullptr;

  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::shared_ptr<Job>> queue;    // jobs with chunks that no thread has taken
  std::vector<std::shared_ptr<Job>> open_jobs;
  std::vector<FinishedDirect> done;
  DirectCounts counts;
  uint32_t n_threads = 0;
  bool is_closed = false;

 private:
  void drop_late();
  void finish_if_ended(const std::shared_ptr<Job>& job);
};

// One thread's stream and buffers. Made by the thread that opens, used by its own.
class DirectFiles::Worker {
 public:
  explicit Worker(Shared& shared);  // throws Error{store}
  ~Worker() { release(); }
  Worker(const Worker&) = delete;

  void run();

 private:
  struct Failure;
  struct Opened;

  void open();
  void release();
  Outcome load(Job& job, Chunk& chunk);
  Outcome store(Job& job, Chunk& chunk);
  bool read_head(const OpenFile& file, const Chunk& chunk, ChunkHead& head);
  void wait_for(const Job& job);
  void must(const char* call, cuda::Result result) const;

  Shared& shared_;
  const size_t padded_bytes_;
  cuda::Stream stream_ = nullptr;
  cuda::DeviceAddress bounce_ = 0;  // padded_bytes_ in the GPU's memory; 0 in the other modes
  uint8_t* scratch_ = nullptr;      // kHeadBytes and padded_bytes_, pinned
  bool is_registered_ = false;
};

}  // namespace kvatlas
