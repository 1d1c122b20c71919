#include "offload/native/copies.hpp"

#include <algorithm>
#include <chrono>

#include "index/native/error.hpp"

namespace kvatlas {
namespace {

constexpr double kPauseSeconds = 2e-4;  // between looks at a device, which wakes us sooner where it can

double now_s() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

Copier::Copier(CopyPlan plan, std::unique_ptr<Device> device, CopierLimits limits)
    : plan_(std::move(plan)), device_(std::move(device)), limits_(limits), pci_address_(device_->pci_address()) {
  statistics_.is_pinned = device_->pin(plan_.memory(), plan_.memory_bytes(), plan_.row_bytes());
}

Copier::~Copier() { close(0); }

void Copier::submit(Direction direction, uint64_t job, const BlockRuns& blocks, uint64_t after_stream) {
  uint64_t bytes = 0;
  std::vector<Copy> runs = plan_.runs(blocks, direction, bytes);
  const Lock lock(mutex_);
  if (is_closed_) throw Error(ErrorKind::input, "job " + std::to_string(job) + ": expected an open copier, got a closed one");
  if (runs_any({&job, 1})) throw Error(ErrorKind::input, "job " + std::to_string(job) + ": expected a number of its own, got one that runs");
  if (finished_.size() >= 4 * limits_.jobs_max) throw Error(ErrorKind::input, "job " + std::to_string(job) + ": expected finished() to be read, got " + std::to_string(finished_.size()) + " unread jobs");
  Job taken{job, direction, bytes, now_s() + limits_.time_limit_s, nullptr};
  if (running_.size() >= limits_.jobs_max) {
    ++statistics_.refused_jobs;
    end(taken, Batch::State::failed);
    return;
  }
  taken.batch = device_->start(std::move(runs), direction, after_stream);
  running_.push_back(std::move(taken));
}

// REQUIRES: the mutex is held, as for all below.
void Copier::end(Job& job, Batch::State state) {
  const bool is_ok = state == Batch::State::done;
  const double seconds = job.batch == nullptr ? 0 : job.batch->seconds();
  const bool is_store = job.direction == Direction::store;
  ++(is_store ? statistics_.stores : statistics_.loads);
  (is_store ? statistics_.store_seconds : statistics_.load_seconds) += seconds;
  if (is_ok) (is_store ? statistics_.stored_bytes : statistics_.loaded_bytes) += job.bytes;
  else ++statistics_.failed_jobs;
  if (!is_ok && statistics_.first_error.empty()) {
    statistics_.first_error = job.batch == nullptr ? "more than jobs_max jobs" : job.batch->error();
  }
  finished_.push_back({job.number, is_ok, is_ok ? job.bytes : 0, seconds});
}

void Copier::collect() {
  const double now = now_s();
  std::deque<Job> still;
  for (Job& job : running_) {
    Batch::State state = job.batch->state();
    if (state == Batch::State::running && now > job.deadline_s) {
      device_->lose("job " + std::to_string(job.number) + " did not end within " + std::to_string(limits_.time_limit_s) + " s");
      state = job.batch->state();
    }
    if (state == Batch::State::running) still.push_back(std::move(job));
    else end(job, state);
  }
  running_.swap(still);
}

std::vector<FinishedCopy> Copier::finished() {
  const Lock lock(mutex_);
  collect();
  std::vector<FinishedCopy> out;
  out.swap(finished_);
  return out;
}

bool Copier::runs_any(std::span<const uint64_t> jobs) const {
  return std::any_of(running_.begin(), running_.end(), [&](const Job& job) {
    return std::find(jobs.begin(), jobs.end(), job.number) != jobs.end();
  });
}

void Copier::wait(std::span<const uint64_t> jobs) {
  Lock lock(mutex_);
  for (collect(); runs_any(jobs); collect()) {
    device_->pause(kPauseSeconds);
    lock.unlock();
    lock.lock();
  }
}

bool Copier::close(double seconds) {
  Lock lock(mutex_);
  if (is_closed_) return is_safe_;
  is_closed_ = true;
  const double until = now_s() + seconds;
  for (collect(); !running_.empty() && now_s() < until; collect()) device_->pause(kPauseSeconds);
  if (!running_.empty()) {
    device_->lose("closed while " + std::to_string(running_.size()) + " jobs ran");
    collect();
  }
  is_safe_ = !device_->is_lost();
  device_->unpin();
  return is_safe_;
}

CopierStatistics Copier::statistics() {
  const Lock lock(mutex_);
  CopierStatistics out = statistics_;
  out.running_jobs = running_.size();
  out.unread_jobs = finished_.size();
  out.is_lost = device_->is_lost();
  out.device = device_->counts();
  return out;
}

std::string Copier::describe() {
  const Lock lock(mutex_);
  return device_->describe();
}

}  // namespace kvatlas
