#include "offload/native/engine_jobs.hpp"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "index/native/error.hpp"

namespace kvatlas {
namespace {

double seconds_between(EngineClock::time_point from, EngineClock::time_point to) { return std::chrono::duration<double>(to - from).count(); }

// What a job takes of the bound: one of no keys must be collected, too.
size_t room_of(size_t n_chunks) { return std::max<size_t>(n_chunks, 1); }

}  // namespace

JobBoard::JobBoard(const BoardLimits& limits, StagingPool& staging) : limits_(limits), staging_(staging) {}

bool JobBoard::post(JobKind kind, int64_t id, std::vector<uint8_t> keys, std::vector<int32_t> rows) {
  auto job = std::make_shared<Job>();
  const size_t n = keys.size() / limits_.key_bytes;
  job->id = job->finished.id = id;
  job->kind = kind;
  job->keys = std::move(keys);
  job->rows = std::move(rows);
  job->states.assign(n, Job::State::queued);
  job->finished.outcomes.assign(n, static_cast<uint8_t>(Outcome::cancelled));
  job->n_open = n;

  Lock lock(mutex_);
  if (open_by_id_.contains(id)) throw Error(ErrorKind::input, "job: expected a number that no open job has, got " + std::to_string(id));
  Side& mine = side(kind);
  if (stopped_ || mine.held + room_of(n) > limits_.queued_max) {
    counted_.refused_chunks += n;
    return false;
  }
  job->number = next_number_++;
  job->posted = EngineClock::now();
  job->deadline = job->posted + limits_.time_limit;
  ++counted_.jobs[static_cast<size_t>(kind)];
  counted_.chunks[static_cast<size_t>(kind)] += n;
  mine.held += room_of(n);
  open_.emplace(job->number, job);
  open_by_id_.emplace(id, job);
  if (n == 0) {
    finish_if_decided(job);
    return true;
  }
  mine.queued += n;
  (kind == JobKind::probe || kind == JobKind::store ? mine.first : mine.second).push_back(job);
  if (std::exchange(is_watch_idle_, false)) watch_.notify_one();
  pass_on();
  return true;
}

bool JobBoard::cancel(int64_t id) {
  Lock lock(mutex_);
  const auto found = open_by_id_.find(id);
  if (found == open_by_id_.end()) return false;
  const std::shared_ptr<Job> job = found->second;
  give_up(*job, Outcome::cancelled);
  finish_if_decided(job);
  return true;
}

void JobBoard::collect(std::vector<FinishedJob>& out) {
  Lock lock(mutex_);
  expire(EngineClock::now());
  if (finished_.empty()) return;
  finished_event_.clear();
  out.swap(finished_);
  for (const FinishedJob& job : out) (job.is_read ? reads_ : writes_).held -= room_of(job.outcomes.size());
}

bool JobBoard::take(Task& task, Doorbell* doorbell) {
  Lock lock(mutex_);
  if (doorbell != nullptr) {
    if (std::exchange(doorbell->is_listening, false)) std::erase(listening_, doorbell);
    if (take_any(task)) return true;
    if (!stopped_) {
      doorbell->is_listening = true;
      listening_.push_back(doorbell);
    }
    return false;
  }
  while (!stopped_) {
    if (take_any(task)) return true;
    work_.wait(lock);
  }
  return false;
}

bool JobBoard::may_write() const {
  const bool turn = reads_.queued == 0 || reads_since_write_ >= limits_.reads_per_write;
  return turn && writes_.queued != 0 && writes_.under_way < limits_.writers;
}

bool JobBoard::take_any(Task& task) {
  // Where both may go, it is a write's turn.
  const bool taken = (may_write() && take_from(writes_, task)) || (may_read() && take_from(reads_, task));
  if (taken) pass_on();
  return taken;
}

bool JobBoard::take_from(Side& from, Task& task) {
  std::deque<std::shared_ptr<Job>>& jobs = from.first.empty() ? from.second : from.first;
  const std::shared_ptr<Job> job = jobs.front();
  if (needs_staging(job->kind)) {
    task.staging = staging_.take();
    if (task.staging == nullptr) {
      ++counted_.staging_waits;
      return false;
    }
  }
  task.at = job->next++;
  if (job->next == job->states.size()) jobs.pop_front();
  job->states[task.at] = Job::State::running;
  --from.queued;
  ++from.under_way;
  const double waited = seconds_between(job->posted, EngineClock::now());
  (is_read(job->kind) ? counted_.read_queue_seconds : counted_.write_queue_seconds) += waited;
  reads_since_write_ = is_read(job->kind) ? reads_since_write_ + 1 : 0;
  task.job = job;
  return true;
}

bool JobBoard::is_stopped() const {
  Lock lock(mutex_);
  return stopped_;
}

bool JobBoard::wants(const Task& task) const {
  Lock lock(mutex_);
  return task.job->states[task.at] == Job::State::running;
}

bool JobBoard::begin_touching(const Task& task) {
  Lock lock(mutex_);
  Job::State& state = task.job->states[task.at];
  if (state != Job::State::running) return false;
  state = Job::State::touching;
  ++n_touching_;
  return true;
}

void JobBoard::end_touching(const Task& task) {
  Lock lock(mutex_);
  task.job->states[task.at] = Job::State::running;
  if (--n_touching_ == 0) idle_.notify_all();
}

void JobBoard::end(Task& task, Outcome outcome, int error_number, const std::string& error) {
  Lock lock(mutex_);
  const std::shared_ptr<Job> job = std::move(task.job);
  Side& mine = side(job->kind);
  --mine.under_way;
  if (task.staging != nullptr) staging_.give(std::exchange(task.staging, nullptr));
  Job::State& state = job->states[task.at];
  if (state == Job::State::decided) {
    --counted_.hung;  // given up while under way
  } else {
    if (error_number != 0 && job->finished.error_number == 0) {
      job->finished.error_number = error_number;
      job->finished.error = error;
    }
    decide(*job, task.at, outcome);
    finish_if_decided(job);
  }
  pass_on();
}

void JobBoard::decide(Job& job, size_t at, Outcome outcome) {
  job.states[at] = Job::State::decided;
  job.finished.outcomes[at] = static_cast<uint8_t>(outcome);
  --job.n_open;
  ++counted_.outcomes[static_cast<size_t>(job.kind)][static_cast<size_t>(outcome)];
  if (outcome != Outcome::ok || job.rows.empty()) return;
  job.finished.n_bytes += limits_.row_bytes;
  (job.kind == JobKind::store ? counted_.stored_bytes : counted_.loaded_bytes) += limits_.row_bytes;
}

void JobBoard::give_up(Job& job, Outcome outcome) {
  if (job.next == job.states.size()) return;
  Side& mine = side(job.kind);
  for (; job.next < job.states.size(); ++job.next) {
    decide(job, job.next, outcome);
    --mine.queued;
  }
  const auto is_it = [&job](const std::shared_ptr<Job>& other) { return other.get() == &job; };
  std::erase_if(mine.first, is_it);
  std::erase_if(mine.second, is_it);
  pass_on();  // writes may have waited for these reads
}

void JobBoard::give_up_running(Job& job) {
  for (size_t at = 0; at < job.next; ++at) {
    if (job.states[at] != Job::State::running) continue;
    decide(job, at, Outcome::timed_out);
    ++counted_.hung;
    ++counted_.hung_total;
  }
}

void JobBoard::finish_if_decided(const std::shared_ptr<Job>& job) {
  if (job->n_open != 0) return;
  job->finished.is_read = is_read(job->kind);
  job->finished.seconds = seconds_between(job->posted, EngineClock::now());
  open_.erase(job->number);
  open_by_id_.erase(job->id);
  finished_.push_back(std::move(job->finished));
  if (finished_.size() == 1) finished_event_.signal();
  idle_.notify_all();
}

void JobBoard::expire(EngineClock::time_point now) {
  // A job of which a row is being touched stays a moment longer.
  for (auto next = open_.begin(); next != open_.end() && next->second->deadline <= now;) {
    const std::shared_ptr<Job> job = (next++)->second;
    const size_t n_open = job->n_open;
    give_up(*job, Outcome::timed_out);
    give_up_running(*job);
    if (job->n_open != n_open && job->finished.error_number == 0) {
      job->finished.error_number = ETIMEDOUT;
      job->finished.error = "no end within the time limit";
    }
    finish_if_decided(job);
  }
}

void JobBoard::watch() {
  Lock lock(mutex_);
  while (!watching_ends_) {
    if (open_.empty()) {
      is_watch_idle_ = true;
      watch_.wait(lock);
      continue;
    }
    is_watch_idle_ = false;
    const EngineClock::time_point deadline = open_.begin()->second->deadline;
    const EngineClock::time_point now = EngineClock::now();
    // A job that is beyond its limit and still open has a row that is being touched: look again soon.
    watch_.wait_until(lock, std::max(deadline, now + std::chrono::milliseconds(1)));
    expire(EngineClock::now());
  }
}

void JobBoard::stop_watching() {
  Lock lock(mutex_);
  watching_ends_ = true;
  watch_.notify_all();
}

bool JobBoard::wait_until_idle(EngineClock::time_point until) {
  Lock lock(mutex_);
  return idle_.wait_until(lock, until, [this] { return open_.empty(); });
}

void JobBoard::stop() {
  Lock lock(mutex_);
  stopped_ = true;
  for (auto next = open_.begin(); next != open_.end();) {
    const std::shared_ptr<Job> job = (next++)->second;
    give_up(*job, Outcome::cancelled);
    finish_if_decided(job);
  }
  wake(true);
}

void JobBoard::give_up_all() {
  Lock lock(mutex_);
  for (const auto& [number, job] : open_) give_up(*job, Outcome::cancelled);
  idle_.wait(lock, [this] { return n_touching_ == 0; });
  for (auto next = open_.begin(); next != open_.end();) {
    const std::shared_ptr<Job> job = (next++)->second;
    give_up_running(*job);
    finish_if_decided(job);
  }
}

void JobBoard::pass_on() {
  if (may_write() || may_read()) wake(false);
}

void JobBoard::wake(bool all) {
  all ? work_.notify_all() : work_.notify_one();
  while (!listening_.empty()) {
    Doorbell* doorbell = listening_.back();
    listening_.pop_back();
    doorbell->is_listening = false;
    doorbell->event.signal();
    if (!all) return;
  }
}

void JobBoard::count_fault(HeadFault fault) {
  Lock lock(mutex_);
  ++counted_.faults[static_cast<size_t>(fault)];
}

void JobBoard::fill(EngineStatistics& out) const {
  Lock lock(mutex_);
  out = counted_;
  out.open_jobs = open_.size();
  out.finished_jobs = finished_.size();
  out.queued_reads = reads_.queued;
  out.queued_writes = writes_.queued;
  out.reading = reads_.under_way;
  out.writing = writes_.under_way;
  out.staging_bytes = staging_.bytes();
  out.staging_free_bytes = staging_.free_bytes();
  out.is_staging_locked = staging_.is_locked();
  out.stages_stores = limits_.stages_stores;
}

}  // namespace kvatlas
