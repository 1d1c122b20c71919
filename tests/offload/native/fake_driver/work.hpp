// What the fake GPU's calls are made of: how each begins, and the copies and kernels that they put into streams.
// Included by fake_cuda.cpp alone.
#pragma once

#include <algorithm>

#include "streams.hpp"

// The kernel itself, as it runs on the host: one thread after the other.
struct Index3 { unsigned x; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
static thread_local Index3 blockIdx, threadIdx, gridDim, blockDim;
#define __global__
#include "gather.cu"

using namespace fake;

namespace {

Gpu& gpu() {
  static Gpu* one = new Gpu;  // its threads may outlive main
  return *one;
}

struct Context { int retained = 0; };
Context the_context;
thread_local std::vector<Context*> current;

// What every call does first: a failure that a test asked for, a lost device, no context.
int enter(const char* name, bool needs_context = true) {
  Gpu& g = gpu();
  g.count(name);
  {
    const std::lock_guard lock(g.mutex);
    auto& results = g.failures[name];
    if (!results.empty()) {
      const int result = results.front();
      results.pop_front();
      if (result != 0) return result;
    }
  }
  if (g.lost != 0) return g.lost;
  if (needs_context && (current.empty() || current.back() != &the_context)) {
    g.count("wrong_context");
    return 201;
  }
  return 0;
}
#define ENTER(...) if (const int result = enter(__func__ __VA_OPT__(,) __VA_ARGS__); result != 0) return result

// Calls that wait for the device: on one that hangs they never come back.
void must_not_wait(const char* call) {
  if (gpu().is_hung) die((std::string(call) + " waits for a device that hangs").c_str());
}

Stream* stream_of(void* handle) {
  if (handle != nullptr) return static_cast<Stream*>(handle);
  const std::lock_guard lock(gpu().mutex);
  if (gpu().default_stream == nullptr) gpu().default_stream = new Stream(gpu());
  return gpu().default_stream;
}

void drain(Stream& stream) {
  std::unique_lock lock(stream.mutex);
  stream.changed.wait(lock, [&] { return stream.queue.empty() && !stream.is_busy; });
}

Event& event_of(void* handle) {
  Event& event = *static_cast<Event*>(handle);
  if (event.is_destroyed) die("an event was used after it was destroyed");
  return event;
}

// One end must be the device's memory; the other one may be unpinned, which CUDA takes, slowly.
int put_copy(uintptr_t to, uintptr_t from, size_t bytes, bool to_device, Stream& stream) {
  Gpu& g = gpu();
  if (!g.is_device(to_device ? to : from, bytes)) return 1;
  if (!g.is_pinned(to_device ? from : to, bytes)) g.count("copies_of_unpinned");
  g.count("bytes", static_cast<long>(bytes));
  stream.put([&g, to, from, bytes] { g.copy(to, from, bytes); });
  return 0;
}

struct Attributes { int order; int hints[4]; unsigned flags; };

int put_batch(const unsigned long long* to, const unsigned long long* from, const size_t* sizes, size_t n,
              const Attributes* attributes, const size_t* firsts, size_t n_attributes, void* stream) {
  Gpu& g = gpu();
  if (stream == nullptr || n == 0 || n_attributes != 1 || firsts[0] != 0 || attributes->order < 1 || attributes->order > 3) return 1;
  struct One { uintptr_t to, from; size_t bytes; std::vector<uint8_t> early; };
  auto copies = std::make_shared<std::vector<One>>();
  for (size_t i = 0; i < n; ++i) {
    const bool to_device = g.is_device(to[i], sizes[i]);
    if (sizes[i] == 0 || (!to_device && !g.is_device(from[i], sizes[i]))) return 1;
    if (!g.is_pinned(to_device ? from[i] : to[i], sizes[i])) g.count("copies_of_unpinned");
    One one{to[i], from[i], sizes[i], {}};
    const auto* bytes = reinterpret_cast<const uint8_t*>(one.from);
    if (attributes->order == 3 && g.flip()) one.early.assign(bytes, bytes + one.bytes);  // any order: at once, too
    g.count("bytes", static_cast<long>(one.bytes));
    copies->push_back(std::move(one));
  }
  {
    const std::lock_guard lock(g.mutex);
    std::shuffle(copies->begin(), copies->end(), g.random);
  }
  g.count("batched", static_cast<long>(n));
  stream_of(stream)->put([&g, copies] {
    for (const One& one : *copies) g.copy(one.to, one.early.empty() ? one.from : reinterpret_cast<uintptr_t>(one.early.data()), one.bytes);
  });
  return 0;
}

void run_gather(const unsigned long long* descriptors, unsigned long long n, unsigned groups, unsigned threads) {
  Gpu& g = gpu();
  if (g.lost != 0) return;
  for (unsigned long long i = 0; i < n; ++i) {
    const auto [to, from, bytes] = std::tuple(descriptors[3 * i], descriptors[3 * i + 1], descriptors[3 * i + 2]);
    const bool is_right = (g.is_device(to, bytes) && g.is_pinned(from, bytes)) || (g.is_device(from, bytes) && g.is_pinned(to, bytes));
    if (!is_right || g.copies_left == 0) {
      g.lost = 700;  // a kernel that touches what it must not
      return;
    }
    if (g.copies_left > 0) --g.copies_left;
  }
  gridDim.x = groups;
  blockDim.x = threads;
  for (blockIdx.x = 0; blockIdx.x < groups; ++blockIdx.x) {
    for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x) kvatlas_gather(descriptors, n);
  }
}

int allocate(uintptr_t* at, size_t bytes) {
  *at = reinterpret_cast<uintptr_t>(std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096));
  const std::lock_guard lock(gpu().mutex);
  gpu().owned[*at] = bytes;
  return 0;
}

int free_owned(uintptr_t at) {
  const std::lock_guard lock(gpu().mutex);
  if (gpu().owned.erase(at) == 0) die("memory was freed that was not allocated");
  std::free(reinterpret_cast<void*>(at));
  return 0;
}

}  // namespace
