// A stand-in for libcuda.so: the calls that kvatlas makes, over host memory, with a thread for each stream. Copies come
// late and in any order where CUDA promises none. Tests set it up through fake_set and its like, below.
#include "work.hpp"

#define API extern "C" __attribute__((visibility("default")))

// --- for tests ---
// "delay_us_max": of each piece of work; "is_hung", "is_lost" (0 or 1); "lost_after_copies".
API void fake_set(const char* name, long value) {
  const std::string key = name;
  if (key == "is_hung") gpu().is_hung = value != 0;
  else if (key == "is_lost") gpu().lost = value != 0 ? 700 : 0;
  else if (key == "lost_after_copies") gpu().copies_left = value;
  const std::lock_guard lock(gpu().mutex);
  gpu().settings[key] = value;
}
// Forgets settings, failures that were asked for, counts, and what is the device's memory.
API void fake_reset() {
  gpu().is_hung = false;
  gpu().lost = 0;
  gpu().copies_left = -1;
  const std::lock_guard lock(gpu().mutex);
  gpu().settings.clear();
  gpu().failures.clear();
  gpu().counts.clear();
  gpu().device_memory.clear();
}
API void fake_fail(const char* call, int after, int result) {
  const std::lock_guard lock(gpu().mutex);
  auto& results = gpu().failures[call];
  results.assign(static_cast<size_t>(after), 0);
  results.push_back(result);
}
// Calls by name, and: "wrong_context", "copies_of_unpinned", "batched", "bytes".
API long fake_count(const char* name) {
  const std::lock_guard lock(gpu().mutex);
  return gpu().counts[name];
}
// What is not given back: "streams", "events", "registered", "owned", "contexts".
API long fake_alive(const char* name) {
  const std::string key = name;
  Gpu& g = gpu();
  const std::lock_guard lock(g.mutex);
  if (key == "streams") return static_cast<long>(g.streams.size());
  if (key == "events") return static_cast<long>(g.events.size());
  if (key == "registered") return static_cast<long>(g.registered.size());
  if (key == "owned") return static_cast<long>(g.owned.size());
  if (key == "contexts") return the_context.retained;
  die("no such count");
}
API void fake_device_memory(void* at, size_t bytes) {
  const std::lock_guard lock(gpu().mutex);
  gpu().device_memory[reinterpret_cast<uintptr_t>(at)] = bytes;
}
API void* fake_stream() {
  auto* stream = new Stream(gpu());
  return stream;
}
// Work of the engine: fills memory with a byte, when `stream` (null: the default one) gets there.
API void fake_write(void* stream, void* at, int value, size_t bytes, long after_us) {
  stream_of(stream)->put([=] {
    std::this_thread::sleep_for(std::chrono::microseconds(after_us));
    std::memset(at, value, bytes);
  });
}

// --- the driver API ---
API int cuInit(unsigned) { return enter("cuInit", false); }
API int cuGetErrorName(int result, const char** name) {
  static const std::map<int, const char*> names = {{1, "CUDA_ERROR_INVALID_VALUE"}, {2, "CUDA_ERROR_OUT_OF_MEMORY"}, {101, "CUDA_ERROR_INVALID_DEVICE"}, {700, "CUDA_ERROR_ILLEGAL_ADDRESS"}};
  const auto found = names.find(result);
  if (found == names.end()) return 1;
  *name = found->second;
  return 0;
}
API int cuDriverGetVersion(int* version) {
  const char* given = std::getenv("FAKE_CUDA_VERSION");
  *version = given == nullptr ? 13000 : std::atoi(given);
  return 0;
}
API int cuDeviceGet(int* device, int ordinal) {
  ENTER(false);
  *device = ordinal;
  return ordinal == 0 ? 0 : 101;
}
API int cuDeviceGetName(char* name, int bytes, int) { return std::snprintf(name, static_cast<size_t>(bytes), "Fake GPU") < 0; }
API int cuDeviceGetPCIBusId(char* name, int bytes, int) { return std::snprintf(name, static_cast<size_t>(bytes), "0000:3B:00.0") < 0; }
API int cuDevicePrimaryCtxRetain(void** context, int) {
  ENTER(false);
  ++the_context.retained;
  *context = &the_context;
  return 0;
}
API int cuDevicePrimaryCtxRelease_v2(int) {
  must_not_wait("cuDevicePrimaryCtxRelease");
  --the_context.retained;
  return 0;
}
API int cuCtxPushCurrent_v2(void* context) {
  ENTER(false);
  current.push_back(static_cast<Context*>(context));
  return 0;
}
API int cuCtxPopCurrent_v2(void** context) {
  if (current.empty()) die("a context was popped that nobody pushed");
  *context = current.back();
  current.pop_back();
  return 0;
}
API int cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  ENTER();
  *least = 0;
  *greatest = -5;
  return 0;
}
API int cuStreamCreateWithPriority(void** stream, unsigned flags, int priority) {
  ENTER();
  if (flags != 1 || priority < -5 || priority > 0) return 1;
  auto* made = new Stream(gpu());
  *stream = made;
  const std::lock_guard lock(gpu().mutex);
  gpu().streams.insert(made);
  return 0;
}
API int cuStreamDestroy_v2(void* handle) {
  must_not_wait("cuStreamDestroy");
  Stream& stream = *stream_of(handle);
  drain(stream);
  {
    const std::lock_guard lock(stream.mutex);
    if (stream.is_destroyed) die("a stream was destroyed twice");
    stream.is_destroyed = stream.is_closing = true;
    stream.changed.notify_all();
  }
  stream.thread.join();
  const std::lock_guard lock(gpu().mutex);
  gpu().streams.erase(&stream);
  return 0;
}
API int cuStreamWaitEvent(void* handle, void* event, unsigned) {
  ENTER();
  if (const auto record = event_of(event).last; record != nullptr) {
    stream_of(handle)->put([record] {
      while (!record->is_done && gpu().lost == 0) std::this_thread::sleep_for(std::chrono::microseconds(20));
    });
  }
  return 0;
}
API int cuStreamSynchronize(void* handle) {
  ENTER();
  drain(*stream_of(handle));
  return gpu().lost;
}
API int cuEventCreate(void** event, unsigned flags) {
  ENTER();
  auto* made = new Event;
  made->has_times = flags != 2;
  *event = made;
  const std::lock_guard lock(gpu().mutex);
  gpu().events.insert(made);
  return 0;
}
API int cuEventDestroy_v2(void* handle) {
  event_of(handle).is_destroyed = true;
  const std::lock_guard lock(gpu().mutex);
  gpu().events.erase(static_cast<Event*>(handle));
  return 0;
}
API int cuEventRecord(void* handle, void* stream) {
  ENTER();
  auto record = std::make_shared<Record>();
  event_of(handle).last = record;
  stream_of(stream)->put([record] {
    record->at = Clock::now();
    record->is_done = gpu().lost == 0;
  });
  return 0;
}
API int cuEventQuery(void* handle) {
  ENTER();
  const auto& record = event_of(handle).last;
  return record == nullptr || record->is_done ? 0 : 600;
}
API int cuEventElapsedTime(float* ms, void* begin, void* end) {
  ENTER();
  Event &first = event_of(begin), &last = event_of(end);
  if (!first.has_times || !last.has_times || first.last == nullptr || last.last == nullptr) return 400;
  if (!first.last->is_done || !last.last->is_done) return 600;
  *ms = std::chrono::duration<float, std::milli>(last.last->at - first.last->at).count();
  return 0;
}
API int cuMemHostRegister_v2(void* memory, size_t bytes, unsigned flags) {
  ENTER();
  if (flags != 3 || reinterpret_cast<uintptr_t>(memory) % 4096 != 0) return 1;
  const std::lock_guard lock(gpu().mutex);
  if (!gpu().registered.emplace(reinterpret_cast<uintptr_t>(memory), bytes).second) return 712;
  return 0;
}
API int cuMemHostUnregister(void* memory) {
  must_not_wait("cuMemHostUnregister");
  ENTER();
  const std::lock_guard lock(gpu().mutex);
  return gpu().registered.erase(reinterpret_cast<uintptr_t>(memory)) == 1 ? 0 : 713;
}
API int cuMemHostGetDevicePointer_v2(unsigned long long* seen, void* memory, unsigned) {
  ENTER();
  *seen = reinterpret_cast<uintptr_t>(memory);
  return gpu().is_pinned(*seen, 1) ? 0 : 1;
}
API int cuMemHostAlloc(void** memory, size_t bytes, unsigned) {
  ENTER();
  return allocate(reinterpret_cast<uintptr_t*>(memory), bytes);
}
API int cuMemFreeHost(void* memory) {
  must_not_wait("cuMemFreeHost");
  return free_owned(reinterpret_cast<uintptr_t>(memory));
}
API int cuMemAlloc_v2(unsigned long long* memory, size_t bytes) {
  ENTER();
  uintptr_t at = 0;
  const int result = allocate(&at, bytes);
  *memory = at;
  return result;
}
API int cuMemFree_v2(unsigned long long memory) {
  must_not_wait("cuMemFree");
  return free_owned(memory);
}
API int cuMemcpyHtoDAsync_v2(unsigned long long to, const void* from, size_t bytes, void* stream) {
  ENTER();
  return put_copy(to, reinterpret_cast<uintptr_t>(from), bytes, true, *stream_of(stream));
}
API int cuMemcpyDtoHAsync_v2(void* to, unsigned long long from, size_t bytes, void* stream) {
  ENTER();
  return put_copy(reinterpret_cast<uintptr_t>(to), from, bytes, false, *stream_of(stream));
}
API int cuMemcpyDtoDAsync_v2(unsigned long long to, unsigned long long from, size_t bytes, void* stream) {
  ENTER();
  Gpu& g = gpu();
  if (!g.is_device(to, bytes) || !g.is_device(from, bytes)) return 1;
  stream_of(stream)->put([&g, to, from, bytes] { g.copy(to, from, bytes); });
  return 0;
}
static int batch_13(unsigned long long* to, unsigned long long* from, size_t* sizes, size_t n, Attributes* attributes, size_t* firsts, size_t n_attributes, void* stream) {
  if (const int result = enter("cuMemcpyBatchAsync"); result != 0) return result;
  return put_batch(to, from, sizes, n, attributes, firsts, n_attributes, stream);
}
static int batch_12(unsigned long long* to, unsigned long long* from, size_t* sizes, size_t n, Attributes* attributes, size_t* firsts, size_t n_attributes, size_t* failed, void* stream) {
  if (const int result = enter("cuMemcpyBatchAsync"); result != 0) return result;
  *failed = SIZE_MAX;
  return put_batch(to, from, sizes, n, attributes, firsts, n_attributes, stream);
}
API int cuGetProcAddress_v2(const char* name, void** found, int version, uint64_t, int* status) {
  int own = 0;
  cuDriverGetVersion(&own);
  *found = nullptr;
  *status = 1;
  if (version > own || std::string(name) != "cuMemcpyBatchAsync" || version < 12080) return 0;
  *found = version >= 13000 ? reinterpret_cast<void*>(&batch_13) : reinterpret_cast<void*>(&batch_12);
  *status = 0;
  return 0;
}
API int cuModuleLoadData(void** module, const void* image) {
  ENTER();
  *module = const_cast<void*>(image);
  return std::strstr(static_cast<const char*>(image), ".version 6.4") != nullptr ? 0 : 218;
}
API int cuModuleUnload(void*) {
  must_not_wait("cuModuleUnload");
  return 0;
}
API int cuModuleGetFunction(void** function, void* module, const char* name) {
  ENTER();
  if (std::strstr(static_cast<const char*>(module), (std::string(".entry ") + name + "(").c_str()) == nullptr) return 500;
  *function = reinterpret_cast<void*>(&run_gather);
  return 0;
}
API int cuLaunchKernel(void* function, unsigned groups, unsigned, unsigned, unsigned threads, unsigned, unsigned, unsigned, void* stream, void** arguments, void**) {
  ENTER();
  if (function != reinterpret_cast<void*>(&run_gather) || groups == 0 || threads == 0 || threads > 1024) return 1;
  const auto descriptors = *static_cast<unsigned long long**>(arguments[0]);
  const auto n = *static_cast<unsigned long long*>(arguments[1]);
  stream_of(stream)->put([=] { run_gather(descriptors, n, groups, threads); });
  return 0;
}
