#include "offload/native/engine.hpp"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <system_error>
#include <utility>

#include "index/native/error.hpp"
#include "offload/native/engine_worker.hpp"
#include "offload/native/numa.hpp"
#include "offload/native/uring.hpp"

namespace kvatlas {
namespace {

constexpr size_t kLanesMax = 1024;
constexpr double kSecondsMax = 1e6;

void expect(bool holds, const std::string& expected, const std::string& got) {
  if (!holds) throw Error(ErrorKind::input, "engine: expected " + expected + ", got " + got);
}

void expect_within(const char* name, size_t value, size_t least, size_t most) {
  expect(value >= least && value <= most, std::string(name) + " from " + std::to_string(least) + " to " + std::to_string(most), std::to_string(value));
}

const EngineOptions& checked(const EngineOptions& o) {
  expect_within("row_bytes", o.row_bytes, 1, o.memory_bytes);
  expect_within("fingerprint's length", o.fingerprint.size(), kFingerprintBytes, kFingerprintBytes);
  expect_within("writer's length", o.writer.size(), kWriterBytes, kWriterBytes);
  expect_within("key_bytes", o.key_bytes, kKeyBytesMin, kKeyBytesMax);
  expect_within("blocks", o.blocks, 1, 1u << 30);
  expect_within("readers", o.readers, 1, kLanesMax);
  expect_within("writers", o.writers, 1, kLanesMax);
  expect_within("reads_per_write", o.reads_per_write, 1, 1u << 30);
  expect_within("queued_max", o.queued_max, 1, 1u << 24);
  expect_within("ring_depth", o.ring_depth, 1, kLanesMax);
  expect(o.time_limit_s > 0 && o.time_limit_s <= kSecondsMax, "time_limit_s above 0", std::to_string(o.time_limit_s));
  return o;
}

EngineClock::duration duration_of(double seconds) {
  return std::chrono::duration_cast<EngineClock::duration>(std::chrono::duration<double>(std::clamp(seconds, 0.0, kSecondsMax)));
}

bool is_page_aligned(const EngineOptions& o) { return reinterpret_cast<uintptr_t>(o.memory) % kPageBytes == 0 && o.row_bytes % kPageBytes == 0; }

BoardLimits limits_of(const EngineOptions& o) {
  return {.key_bytes = o.key_bytes,
          .row_bytes = o.row_bytes,
          .readers = o.readers,
          .writers = o.writers,
          .reads_per_write = o.reads_per_write,
          .queued_max = o.queued_max,
          .stages_stores = !is_page_aligned(o),
          .time_limit = duration_of(o.time_limit_s)};
}

// Signals are for the program's own threads.
void begin_thread(const char* name) {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);
  pthread_setname_np(pthread_self(), name);
}

// A thread that is woken does not take the processor from the one that has woken it, which is an engine core in the middle of its
// step; it runs as soon as one is free, or as anybody else does. Where it is refused, all is as it was.
void yield_to_submitters() {
  const sched_param none{};
  pthread_setschedparam(pthread_self(), SCHED_BATCH, &none);
}

FileOptions file_options_of(const EngineOptions& o) {
  FileOptions out;
  std::memcpy(out.writer, o.writer.data(), kWriterBytes);
  out.key_bytes = o.key_bytes;
  out.file_bytes = file_bytes(o.row_bytes);
  out.direct = o.direct;
  out.sync = o.sync;
  return out;
}

Rows rows_of(const EngineOptions& o) {
  Rows out;
  out.memory = o.memory;
  out.row_bytes = o.row_bytes;
  out.n_rows = o.memory_bytes / o.row_bytes;
  out.blocks = o.blocks;
  std::memcpy(out.fingerprint, o.fingerprint.data(), kFingerprintBytes);
  std::memcpy(out.writer, o.writer.data(), kWriterBytes);
  return out;
}

}  // namespace

struct Engine::Core {
  explicit Core(const EngineOptions& o)
      : limits(limits_of(o)),
        rows(rows_of(o)),
        files(o.folder, file_options_of(o)),
        staging(file_bytes(o.row_bytes) - kHeadBytes, o.staging_bytes, o.readers + (limits.stages_stores ? o.writers : 0), o.numa_node),
        board(limits, staging),
        cpus(cpus_of_node(o.numa_node)) {
    const size_t lanes = o.readers + o.writers;
    if (o.uring) make_rings(lanes, std::min(o.ring_depth, lanes));
    for (size_t i = 0; workers.size() < lanes && !is_uring; ++i) add(std::make_unique<BlockingTransfers>());
  }

  // All or none: with fewer rings than wanted fewer chunks would be under way.
  void make_rings(size_t lanes, size_t depth) {
    std::vector<std::unique_ptr<Transfers>> rings;
    try {
      for (size_t made = 0; made < lanes; made += depth) rings.push_back(std::make_unique<UringTransfers>(static_cast<uint32_t>(depth)));
    } catch (const Error&) {
      return;
    }
    is_uring = true;
    for (auto& ring : rings) add(std::move(ring));
  }
  void add(std::unique_ptr<Transfers> transfers) {
    workers.push_back(std::make_unique<EngineWorker>(board, files, rows, limits, std::move(transfers)));
  }

  void run(EngineWorker& worker) {
    begin_thread("kvatlas-io");
    yield_to_submitters();
    if (!cpus.empty() && pin_to(cpus)) is_pinned.store(true, std::memory_order_relaxed);
    worker.run();
    std::lock_guard lock(mutex);
    --n_running;
    ended.notify_all();
  }

  const BoardLimits limits;
  const Rows rows;
  ChunkFiles files;
  StagingPool staging;
  JobBoard board;
  const std::vector<int> cpus;
  std::vector<std::unique_ptr<EngineWorker>> workers;
  bool is_uring = false;
  std::atomic<bool> is_pinned{false};
  std::mutex mutex;
  std::condition_variable ended;
  size_t n_running = 0;  // threads, under the mutex
};

Engine::Engine(const EngineOptions& options) : core_(std::make_shared<Core>(checked(options))), process_(getpid()) {
  try {
    watcher_ = std::thread([core = core_] {
      begin_thread("kvatlas-limits");
      core->board.watch();
    });
    for (const auto& worker : core_->workers) {
      {
        std::lock_guard lock(core_->mutex);
        ++core_->n_running;
      }
      threads_.emplace_back([core = core_, one = worker.get()] { core->run(*one); });
    }
  } catch (const std::system_error& error) {
    {
      std::lock_guard lock(core_->mutex);
      core_->n_running = threads_.size();
    }
    close(kCloseSeconds);
    throw Error(ErrorKind::store, "expected " + std::to_string(core_->workers.size() + 1) + " threads, got " + error.what());
  }
}

Engine::~Engine() {
  if (!is_closed_) close(kCloseSeconds);
}

bool Engine::submit(JobKind kind, int64_t job, std::vector<uint8_t> keys, std::vector<int32_t> rows) {
  const size_t key_bytes = core_->limits.key_bytes;
  if (keys.size() % key_bytes != 0) {
    throw Error(ErrorKind::input, "keys: expected a multiple of " + std::to_string(key_bytes) + " bytes, got " + std::to_string(keys.size()));
  }
  const size_t n_rows = kind == JobKind::store || kind == JobKind::load ? keys.size() / key_bytes : 0;
  if (rows.size() != n_rows) throw Error(ErrorKind::input, "rows: expected " + std::to_string(n_rows) + " of them, got " + std::to_string(rows.size()));
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i] >= 0 && static_cast<size_t>(rows[i]) < core_->rows.n_rows) continue;
    const std::string expected = "a row from 0 to " + std::to_string(core_->rows.n_rows - 1);
    throw Error(ErrorKind::input, "rows[" + std::to_string(i) + "]: expected " + expected + ", got " + std::to_string(rows[i]));
  }
  return core_->board.post(kind, job, std::move(keys), std::move(rows));
}

bool Engine::cancel(int64_t job) { return core_->board.cancel(job); }

std::vector<FinishedJob> Engine::finished() {
  std::vector<FinishedJob> out;
  core_->board.collect(out);
  return out;
}

int Engine::event_fd() const { return core_->board.event_fd(); }

bool Engine::drain(double seconds) { return core_->board.wait_until_idle(EngineClock::now() + duration_of(seconds)); }

void Engine::give_up() { core_->board.give_up_all(); }

bool Engine::close(double seconds) {
  std::lock_guard closing(closing_);
  is_closed_ = true;
  if (getpid() != process_) {  // a forked child has none of the threads; it must not wait for them
    for (std::thread& thread : threads_) thread.detach();
    if (watcher_.joinable()) watcher_.detach();
    threads_.clear();
    return false;
  }
  core_->board.stop();
  bool all_ended = false;
  {
    std::unique_lock lock(core_->mutex);
    all_ended = core_->ended.wait_for(lock, duration_of(seconds), [this] { return core_->n_running == 0; });
  }
  core_->board.give_up_all();
  core_->board.stop_watching();
  if (watcher_.joinable()) watcher_.join();
  for (std::thread& thread : threads_) all_ended ? thread.join() : thread.detach();
  threads_.clear();
  return all_ended;
}

EngineStatistics Engine::statistics() const {
  EngineStatistics out;
  core_->board.fill(out);
  core_->files.fill(out);
  for (const auto& worker : core_->workers) out.stale_retries += worker->stale_retries();
  out.is_uring = core_->is_uring;
  out.is_pinned = core_->is_pinned.load(std::memory_order_relaxed);
  std::lock_guard lock(core_->mutex);
  out.threads = core_->n_running;
  return out;
}

}  // namespace kvatlas
