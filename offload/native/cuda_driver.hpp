// The part of the CUDA driver API that copies need, loaded when it is first asked for. Nothing of CUDA is needed to
// build, and a machine without it gets an error in words.
//
// The declarations are our own. Source: the CUDA driver API reference, 12.8 and 13.0; names with _v2 are the ABI's.
//
// Thread safety: immutable once loaded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace kvatlas::cuda {

using Result = int;  // 0: success
using DeviceNumber = int;
using DeviceAddress = unsigned long long;
using Context = struct OpaqueContext*;
using Stream = struct OpaqueStream*;
using Event = struct OpaqueEvent*;
using Module = struct OpaqueModule*;
using Function = struct OpaqueFunction*;

constexpr Result kSuccess = 0;
constexpr Result kNotReady = 600;
constexpr Result kAlreadyRegistered = 712;

constexpr unsigned kStreamNonBlocking = 1;
constexpr unsigned kEventDefault = 0;        // with times
constexpr unsigned kEventWithoutTimes = 2;
constexpr unsigned kRegisterPortable = 1;    // pinned for all contexts
constexpr unsigned kRegisterMapped = 2;      // kernels may read it

constexpr int kBatchesSince = 12080;         // cuMemcpyBatchAsync, with an index of the copy that failed
constexpr int kBatchesWithoutIndex = 13000;  // the same, without

struct Location {
  int type;
  int id;
};
constexpr int kOrderStream = 1;  // the source is read when the stream gets there
constexpr int kOrderAny = 3;     // the source may be read at once, and after the call
constexpr unsigned kOverlapWithCompute = 1;
struct CopyAttributes {
  int source_order;
  Location source_hint;
  Location destination_hint;
  unsigned flags;
};

class Driver {
 public:
  // Loads `path`, or libcuda.so.1 where it is empty, and calls cuInit. One for each path and process; never unloaded,
  // for other libraries of the process use it. Throws Error{store}: no library, no symbol, no device.
  static std::shared_ptr<const Driver> load(const std::string& path);

  // "cuStreamCreate: CUDA_ERROR_INVALID_VALUE (1)".
  std::string explain(const char* call, Result result) const;

  int version = 0;  // 13000 is 13.0

  Result (*device_get)(DeviceNumber*, int) = nullptr;
  Result (*device_get_name)(char*, int, DeviceNumber) = nullptr;
  Result (*device_get_pci_bus_id)(char*, int, DeviceNumber) = nullptr;
  Result (*primary_context_retain)(Context*, DeviceNumber) = nullptr;
  Result (*primary_context_release)(DeviceNumber) = nullptr;
  Result (*context_push)(Context) = nullptr;
  Result (*context_pop)(Context*) = nullptr;
  Result (*context_priority_range)(int*, int*) = nullptr;
  Result (*stream_create)(Stream*, unsigned, int) = nullptr;
  Result (*stream_destroy)(Stream) = nullptr;
  Result (*stream_wait_event)(Stream, Event, unsigned) = nullptr;
  Result (*stream_synchronize)(Stream) = nullptr;
  Result (*event_create)(Event*, unsigned) = nullptr;
  Result (*event_destroy)(Event) = nullptr;
  Result (*event_record)(Event, Stream) = nullptr;
  Result (*event_query)(Event) = nullptr;
  Result (*event_elapsed_ms)(float*, Event, Event) = nullptr;
  Result (*host_register)(void*, size_t, unsigned) = nullptr;
  Result (*host_unregister)(void*) = nullptr;
  Result (*host_device_address)(DeviceAddress*, void*, unsigned) = nullptr;
  Result (*host_allocate)(void**, size_t, unsigned) = nullptr;
  Result (*host_free)(void*) = nullptr;
  Result (*memory_allocate)(DeviceAddress*, size_t) = nullptr;
  Result (*memory_free)(DeviceAddress) = nullptr;
  Result (*copy_to_device)(DeviceAddress, const void*, size_t, Stream) = nullptr;
  Result (*copy_to_host)(void*, DeviceAddress, size_t, Stream) = nullptr;
  Result (*copy_within_device)(DeviceAddress, DeviceAddress, size_t, Stream) = nullptr;
  Result (*module_load)(Module*, const void*) = nullptr;
  Result (*module_unload)(Module) = nullptr;
  Result (*module_function)(Function*, Module, const char*) = nullptr;
  Result (*launch)(Function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, Stream, void**,
                   void**) = nullptr;

  // Null, both: the driver has no batches.
  Result (*copy_batch)(DeviceAddress*, DeviceAddress*, size_t*, size_t, CopyAttributes*, size_t*, size_t, Stream) = nullptr;
  Result (*copy_batch_indexed)(DeviceAddress*, DeviceAddress*, size_t*, size_t, CopyAttributes*, size_t*, size_t,
                               size_t*, Stream) = nullptr;

 private:
  void bind(void* library, const std::string& path);

  Result (*error_name_)(Result, const char**) = nullptr;
};

// Makes a context the calling thread's current one, and puts back what was there. On a thread of another library's,
// nothing of its state is left changed.
class CurrentContext {
 public:
  CurrentContext(const Driver& driver, Context context) : driver_(driver), result(driver.context_push(context)) {}
  CurrentContext(const CurrentContext&) = delete;
  ~CurrentContext() {
    Context popped = nullptr;
    if (result == kSuccess) driver_.context_pop(&popped);
  }

 private:
  const Driver& driver_;

 public:
  const Result result;
};

}  // namespace kvatlas::cuda
