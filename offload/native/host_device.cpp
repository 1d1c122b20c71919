#include "offload/native/host_device.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "index/native/error.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace kvatlas {
namespace {

using Clock = std::chrono::steady_clock;

#if defined(__x86_64__)
// REQUIRES: `to` aligned to 32.
__attribute__((target("avx2"))) void stream_lines(uint8_t* to, const uint8_t* from, size_t n_lines) {
  for (; n_lines != 0; --n_lines, to += 128, from += 128) {
    const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 32));
    const __m256i c = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 64));
    const __m256i d = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 96));
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), a);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + 32), b);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + 64), c);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + 96), d);
  }
  _mm_sfence();  // before anybody is told that the bytes are there
}

bool can_stream() {
  static const bool can = __builtin_cpu_supports("avx2");
  return can;
}
#endif

}  // namespace

bool copy_bytes(uint8_t* to, const uint8_t* from, size_t bytes) {
#if defined(__x86_64__)
  if (bytes >= HostDevice::kStreamedBytes && can_stream()) {
    const size_t lead = (32 - reinterpret_cast<uintptr_t>(to) % 32) % 32;
    const size_t n_lines = (bytes - lead) / 128;
    const size_t rest = lead + n_lines * 128;
    std::memcpy(to, from, lead);
    stream_lines(to + lead, from + lead, n_lines);
    std::memcpy(to + rest, from + rest, bytes - rest);
    return true;
  }
#endif
  std::memcpy(to, from, bytes);
  return false;
}

// The copies of one batch. Everything but `copies`, which does not change, is under Shared::mutex.
struct HostDevice::Work {
  std::vector<Copy> copies;
  size_t next = 0;     // the first copy that no thread has taken
  size_t running = 0;  // threads that are in it
  Batch::State state = Batch::State::running;
  Clock::time_point began{}, ended{};
  std::string error;
};

class HostBatch final : public Batch {
 public:
  HostBatch(std::shared_ptr<HostDevice::Shared> shared, std::shared_ptr<HostDevice::Work> work)
      : shared_(std::move(shared)), work_(std::move(work)) {}

  State state() override {
    const std::lock_guard lock(shared_->mutex);
    return work_->state;
  }
  double seconds() override {
    const std::lock_guard lock(shared_->mutex);
    if (work_->state == State::running) return 0;
    return std::chrono::duration<double>(work_->ended - work_->began).count();
  }
  std::string error() override {
    const std::lock_guard lock(shared_->mutex);
    return work_->error;
  }

 private:
  std::shared_ptr<HostDevice::Shared> shared_;
  std::shared_ptr<HostDevice::Work> work_;
};

HostDevice::HostDevice(uint32_t n_threads) {
  if (n_threads < 1 || n_threads > 64) {
    throw Error(ErrorKind::input, "threads: expected 1 to 64, got " + std::to_string(n_threads));
  }
  threads_.reserve(n_threads);
  for (uint32_t i = 0; i < n_threads; ++i) threads_.emplace_back([shared = shared_] { run(*shared); });
}

HostDevice::~HostDevice() {
  {
    const std::lock_guard lock(shared_->mutex);
    shared_->closing = true;
  }
  shared_->has_work.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

std::unique_ptr<Batch> HostDevice::start(std::vector<Copy> copies, Direction direction, uint64_t) {
  // Large runs in pieces, so that all threads have a part even of a batch of one.
  auto work = std::make_shared<Work>();
  work->copies.reserve(copies.size());
  for (Copy copy : copies) {
    for (; copy.bytes > kPieceBytes; copy.bytes -= kPieceBytes, copy.to += kPieceBytes, copy.from += kPieceBytes) {
      work->copies.push_back({copy.to, copy.from, kPieceBytes});
    }
    work->copies.push_back(copy);
  }
  auto batch = std::make_unique<HostBatch>(shared_, work);
  {
    const std::lock_guard lock(shared_->mutex);
    shared_->counts.copies += copies.size();
    work->began = work->ended = Clock::now();
    if (!shared_->lost.empty()) {
      work->state = Batch::State::failed;
      work->error = shared_->lost;
    } else if (work->copies.empty()) {
      work->state = Batch::State::done;
      ++shared_->ended;
    } else {
      shared_->lanes[static_cast<size_t>(direction)].push_back(std::move(work));
    }
  }
  shared_->has_work.notify_all();
  return batch;
}

void HostDevice::pause(double seconds) {
  std::unique_lock lock(shared_->mutex);
  shared_->has_ended.wait_for(lock, std::chrono::duration<double>(seconds), [&] { return shared_->ended != seen_ended_; });
  seen_ended_ = shared_->ended;
}

bool HostDevice::is_lost() const {
  const std::lock_guard lock(shared_->mutex);
  return !shared_->lost.empty();
}

// What has begun still ends by itself; nothing new begins.
void HostDevice::lose(const std::string& why) {
  const std::lock_guard lock(shared_->mutex);
  if (shared_->lost.empty()) shared_->lost = why;
  for (auto& lane : shared_->lanes) {
    for (const std::shared_ptr<Work>& work : lane) {
      work->next = work->copies.size();
      work->state = Batch::State::failed;
      work->error = shared_->lost;
      work->ended = Clock::now();
    }
    lane.clear();
  }
  ++shared_->ended;
  shared_->has_ended.notify_all();
}

std::string HostDevice::describe() const {
  return "host, " + std::to_string(threads_.size()) + (threads_.size() == 1 ? " thread" : " threads");
}

DeviceCounts HostDevice::counts() const {
  const std::lock_guard lock(shared_->mutex);
  return shared_->counts;
}

// REQUIRES: the mutex is held. Copies [begin, end) of the first batch of a lane that has some left.
bool HostDevice::take(Shared& shared, std::shared_ptr<Work>& work, size_t& begin, size_t& end) {
  for (const Direction direction : {Direction::load, Direction::store}) {
    const auto& lane = shared.lanes[static_cast<size_t>(direction)];
    if (lane.empty() || lane.front()->next == lane.front()->copies.size()) continue;
    work = lane.front();
    begin = end = work->next;
    for (size_t bytes = 0; end < work->copies.size() && bytes < kPieceBytes; ++end) bytes += work->copies[end].bytes;
    if (begin == 0) work->began = Clock::now();
    work->next = end;
    ++work->running;
    return true;
  }
  return false;
}

void HostDevice::run(Shared& shared) {
  std::shared_ptr<Work> work;
  size_t begin = 0, end = 0;
  std::unique_lock lock(shared.mutex);
  for (;;) {
    shared.has_work.wait(lock, [&] { return take(shared, work, begin, end) || shared.closing; });
    if (work == nullptr) return;
    lock.unlock();
    uint64_t streamed = 0;
    for (size_t i = begin; i < end; ++i) {
      const Copy& copy = work->copies[i];
      streamed += copy_bytes(copy.to, copy.from, copy.bytes) ? 1 : 0;
    }
    lock.lock();
    shared.counts.streamed_copies += streamed;
    if (--work->running == 0 && work->next == work->copies.size() && work->state == Batch::State::running) {
      work->state = Batch::State::done;
      work->ended = Clock::now();
      for (auto& lane : shared.lanes) {
        if (!lane.empty() && lane.front() == work) lane.pop_front();
      }
      ++shared.ended;
      shared.has_ended.notify_all();
      shared.has_work.notify_all();
    }
    work.reset();
  }
}

}  // namespace kvatlas
