// Streams, events and memory of a GPU that is made of threads and host memory, for fake_cuda.cpp.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace fake {

using Clock = std::chrono::steady_clock;

// What would be undefined in CUDA ends the process, so that a test cannot pass over it.
[[noreturn]] inline void die(const char* what) {
  std::fprintf(stderr, "fake driver: %s\n", what);
  std::abort();
}

// One cuEventRecord: waits are for the record that was there when they were asked for.
struct Record {
  std::atomic<bool> is_done{false};
  Clock::time_point at{};
};

struct Event {
  bool has_times = false, is_destroyed = false;
  std::shared_ptr<Record> last;
};

struct Gpu;

struct Stream {
  explicit Stream(Gpu& gpu);
  void put(std::function<void()> work);
  void run();

  Gpu& gpu;
  bool is_destroyed = false, is_closing = false;
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::function<void()>> queue;
  bool is_busy = false;
  std::thread thread;
};

struct Gpu {
  // Settings, by name: see fake_set in fake_cuda.cpp.
  std::map<std::string, long> settings;
  std::map<std::string, std::atomic<long>> counts;
  std::map<std::string, std::deque<int>> failures;  // of a call: results of its next calls, 0 lets one pass
  std::map<uintptr_t, size_t> registered, device_memory;
  std::map<uintptr_t, size_t> owned;                // by cuMemAlloc, cuMemHostAlloc
  std::set<Stream*> streams;
  std::set<Event*> events;
  std::mutex mutex;
  std::atomic<int> lost{0};
  std::atomic<bool> is_hung{false};
  std::atomic<long> copies_left{-1};  // until the device is lost
  Stream* default_stream = nullptr;
  std::mt19937 random{12345};

  long setting(const char* name, long otherwise) {
    const std::lock_guard lock(mutex);
    const auto found = settings.find(name);
    return found == settings.end() ? otherwise : found->second;
  }
  void count(const char* name, long by = 1) {
    const std::lock_guard lock(mutex);
    counts[name] += by;
  }
  static bool holds(const std::map<uintptr_t, size_t>& ranges, uintptr_t at, size_t bytes) {
    auto found = ranges.upper_bound(at);
    if (found == ranges.begin()) return false;
    --found;
    return at + bytes <= found->first + found->second;
  }
  bool is_pinned(uintptr_t at, size_t bytes) {
    const std::lock_guard lock(mutex);
    return holds(registered, at, bytes) || holds(owned, at, bytes);
  }
  bool is_device(uintptr_t at, size_t bytes) {
    const std::lock_guard lock(mutex);
    return holds(device_memory, at, bytes) || holds(owned, at, bytes);
  }
  // A copy as the hardware does it: late, and not at all once the device is lost.
  void copy(uintptr_t to, uintptr_t from, size_t bytes) {
    if (lost != 0) return;
    if (copies_left >= 0 && copies_left-- == 0) {
      lost = 700;
      return;
    }
    std::memcpy(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes);
  }
  void delay() {
    const long most_us = setting("delay_us_max", 0);
    long us = 0;
    {
      const std::lock_guard lock(mutex);
      us = most_us == 0 ? 0 : static_cast<long>(random() % static_cast<unsigned long>(most_us));
    }
    if (us != 0) std::this_thread::sleep_for(std::chrono::microseconds(us));
  }
  bool flip() {
    const std::lock_guard lock(mutex);
    return random() % 2 == 0;
  }
};

inline Stream::Stream(Gpu& owner) : gpu(owner), thread([this] { run(); }) {}

inline void Stream::put(std::function<void()> work) {
  const std::lock_guard lock(mutex);
  if (is_destroyed) die("a stream was used after it was destroyed");
  queue.push_back(std::move(work));
  changed.notify_all();
}

inline void Stream::run() {
  std::unique_lock lock(mutex);
  for (;;) {
    changed.wait(lock, [&] { return !queue.empty() || is_closing; });
    if (queue.empty()) return;
    auto work = std::move(queue.front());
    queue.pop_front();
    is_busy = true;
    lock.unlock();
    while (gpu.is_hung && gpu.lost == 0) std::this_thread::sleep_for(std::chrono::microseconds(100));
    gpu.delay();
    work();
    lock.lock();
    is_busy = false;
    changed.notify_all();
  }
}

}  // namespace fake
