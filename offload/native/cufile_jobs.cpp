// DirectFiles' jobs: taken, handed to threads, ended, dropped when late.
#include <algorithm>

#include "index/native/error.hpp"
#include "offload/native/cufile_worker.hpp"

namespace kvatlas {
namespace {

FileOptions file_options(const DirectOptions& options, uint64_t row_bytes) {
  FileOptions out;
  std::copy(std::begin(options.writer), std::end(options.writer), out.writer);
  out.key_bytes = options.key_bytes;
  out.file_bytes = file_bytes(row_bytes);
  return out;
}

constexpr auto kLateLook = std::chrono::milliseconds(10);

double seconds_since(DirectClock::time_point began) { return std::chrono::duration<double>(DirectClock::now() - began).count(); }

}  // namespace

DirectFiles::Shared::Shared(const std::string& folder, uint64_t bytes, std::shared_ptr<const cuda::Driver> with,
                            std::shared_ptr<const cufile::Library> cufile, const DirectOptions& given)
    : driver(std::move(with)), library(std::move(cufile)), options(given), row_bytes(bytes), files(folder, file_options(given, bytes)) {}

DirectFiles::Shared::~Shared() {
  if (context != nullptr) driver->primary_context_release(device);
}

void DirectFiles::Shared::open(int ordinal) {
  const auto must = [&](const char* call, cuda::Result result) {
    if (result != cuda::kSuccess) throw Error(ErrorKind::store, "cuda:" + std::to_string(ordinal) + ": expected a usable device, got " + driver->explain(call, result));
  };
  must("cuDeviceGet", driver->device_get(&device, ordinal));
  must("cuDevicePrimaryCtxRetain", driver->primary_context_retain(&context, device));
}

bool DirectFiles::Shared::take(std::shared_ptr<Job> job, uint64_t after_stream) {
  const cuda::CurrentContext current(*driver, context);
  cuda::Event event = nullptr;
  cuda::Result result = current.result != cuda::kSuccess ? current.result : driver->event_create(&event, cuda::kEventWithoutTimes);
  if (event != nullptr) {
    job->after = std::make_unique<OwnedEvent>(*driver, event);
    result = driver->event_record(event, reinterpret_cast<cuda::Stream>(after_stream));
  }
  const std::lock_guard lock(mutex);
  if (is_closed) throw Error(ErrorKind::input, "job " + std::to_string(job->number) + ": expected open files, got closed ones");
  if (counts.open_chunks + job->chunks.size() > options.chunks_max || done.size() >= options.chunks_max) {
    ++counts.refused_jobs;
    return false;
  }
  job->began = DirectClock::now();
  job->left = job->chunks.size();
  counts.open_chunks += job->left;
  open_jobs.push_back(job);
  if (result != cuda::kSuccess) {  // nobody can say when its blocks may be touched
    job->error = driver->explain("cuEventRecord", result);
    for (Chunk& chunk : job->chunks) chunk.outcome = Outcome::failed, chunk.has_ended = true;
    counts.failed_chunks += job->left;
    counts.open_chunks -= job->left;
    job->left = 0;
    finish_if_ended(job);
    return true;
  }
  queue.push_back(std::move(job));
  changed.notify_all();
  return true;
}

bool DirectFiles::Shared::next(std::shared_ptr<Job>& job, size_t& chunk) {
  std::unique_lock lock(mutex);
  for (;;) {
    changed.wait(lock, [&] { return is_closed || !queue.empty(); });
    if (is_closed) return false;
    job = queue.front();
    chunk = job->next++;
    if (job->next >= job->chunks.size()) queue.pop_front();
    if (!job->has_ended && chunk < job->chunks.size()) return true;
  }
}

bool DirectFiles::Shared::may_land(Job& job, Chunk& chunk) {
  const std::lock_guard lock(mutex);
  return chunk.is_landing = !job.has_ended;
}

bool DirectFiles::Shared::is_wanted(Job& job) {
  const std::lock_guard lock(mutex);
  return !job.has_ended;
}

void DirectFiles::Shared::end(const std::shared_ptr<Job>& job, Chunk& chunk, Outcome outcome, const std::string& error) {
  const std::lock_guard lock(mutex);
  chunk.is_landing = false;
  if (job->has_ended) return;  // it was late
  chunk.outcome = outcome;
  chunk.has_ended = true;
  const bool is_load = job->direction == Direction::load;
  if (outcome == Outcome::ok) ++(is_load ? counts.loaded_chunks : counts.stored_chunks);
  else if (outcome == Outcome::present) ++counts.present_chunks;
  else ++(outcome == Outcome::corrupt ? counts.corrupt_chunks : counts.failed_chunks);
  if (outcome == Outcome::ok && is_load && options.mode != DirectMode::bounce) ++counts.unverified_chunks;
  if (job->error.empty()) job->error = error;
  --job->left;
  --counts.open_chunks;
  finish_if_ended(job);
}

// REQUIRES, as all below but finished() and close(): the mutex is held.
void DirectFiles::Shared::finish_if_ended(const std::shared_ptr<Job>& job) {
  if (job->left != 0 || job->has_ended) return;
  job->has_ended = true;
  FinishedDirect out{job->number, {}, 0, seconds_since(job->began), job->direction == Direction::store || options.mode == DirectMode::bounce, job->error};
  for (const Chunk& chunk : job->chunks) {
    out.outcomes.push_back(static_cast<char>(chunk.outcome));
    if (chunk.outcome != Outcome::ok) continue;
    for (const Piece& piece : chunk.pieces) out.bytes += piece.bytes;
  }
  done.push_back(std::move(out));
  open_jobs.erase(std::find(open_jobs.begin(), open_jobs.end(), job));
  changed.notify_all();
}

void DirectFiles::Shared::drop_late() {
  const std::vector<std::shared_ptr<Job>> all = open_jobs;
  for (const std::shared_ptr<Job>& job : all) {
    const bool may_be_dropped = job->direction == Direction::store || options.mode == DirectMode::bounce;
    const bool lands = std::any_of(job->chunks.begin(), job->chunks.end(), [](const Chunk& chunk) { return chunk.is_landing; });
    if (!may_be_dropped || lands || seconds_since(job->began) <= options.time_limit_s) continue;
    for (Chunk& chunk : job->chunks) {
      if (chunk.has_ended) continue;
      chunk.outcome = Outcome::timed_out;
      ++counts.timed_out_chunks;
      --counts.open_chunks;
    }
    if (job->error.empty()) job->error = "not done within " + std::to_string(options.time_limit_s) + " s";
    job->left = 0;
    finish_if_ended(job);
    queue.erase(std::remove(queue.begin(), queue.end(), job), queue.end());
  }
}

std::vector<FinishedDirect> DirectFiles::Shared::finished(double wait_s) {
  const auto until = DirectClock::now() + std::chrono::duration<double>(wait_s);
  std::unique_lock lock(mutex);
  for (drop_late(); done.empty() && DirectClock::now() < until; drop_late()) changed.wait_for(lock, kLateLook);
  std::vector<FinishedDirect> out;
  out.swap(done);
  return out;
}

bool DirectFiles::Shared::close(double seconds) {
  std::unique_lock lock(mutex);
  is_closed = true;
  changed.notify_all();
  const bool has_ended = changed.wait_for(lock, std::chrono::duration<double>(seconds), [&] { return n_threads == 0; });
  const std::vector<std::shared_ptr<Job>> all = open_jobs;
  for (const std::shared_ptr<Job>& job : all) {  // those that no thread began, or that hang
    for (size_t i = 0; i < job->next && i < job->chunks.size(); ++i) {
      if (!job->chunks[i].has_ended) job->chunks[i].outcome = Outcome::timed_out;
    }
    counts.open_chunks -= job->left;
    job->left = 0;
    finish_if_ended(job);
  }
  queue.clear();
  return has_ended;
}

}  // namespace kvatlas
