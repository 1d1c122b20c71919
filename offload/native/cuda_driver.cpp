#include "offload/native/cuda_driver.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <map>
#include <mutex>

#include "index/native/error.hpp"

namespace kvatlas::cuda {
namespace {

constexpr const char* kUsualLibrary = "libcuda.so.1";

template <class F>
void need(void* library, const std::string& path, const char* name, F*& function) {
  function = reinterpret_cast<F*>(dlsym(library, name));
  if (function == nullptr) throw Error(ErrorKind::store, path + ": expected the CUDA driver with " + name + ", got one without");
}

}  // namespace

std::shared_ptr<const Driver> Driver::load(const std::string& given) {
  static std::mutex mutex;
  static std::map<std::string, std::shared_ptr<const Driver>> loaded;
  const std::string path = given.empty() ? kUsualLibrary : given;
  const std::lock_guard lock(mutex);
  if (const auto found = loaded.find(path); found != loaded.end()) return found->second;
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* why = dlerror();
    throw Error(ErrorKind::store, "CUDA: expected the driver library " + path + ", got: " + (why == nullptr ? "nothing" : why));
  }
  auto driver = std::make_shared<Driver>();
  driver->bind(library, path);
  return loaded[path] = driver;
}

void Driver::bind(void* library, const std::string& path) {
  Result (*init)(unsigned) = nullptr;
  Result (*driver_version)(int*) = nullptr;
  need(library, path, "cuInit", init);
  need(library, path, "cuGetErrorName", error_name_);
  need(library, path, "cuDriverGetVersion", driver_version);
  need(library, path, "cuDeviceGet", device_get);
  need(library, path, "cuDeviceGetName", device_get_name);
  need(library, path, "cuDeviceGetPCIBusId", device_get_pci_bus_id);
  need(library, path, "cuDevicePrimaryCtxRetain", primary_context_retain);
  need(library, path, "cuDevicePrimaryCtxRelease_v2", primary_context_release);
  need(library, path, "cuCtxPushCurrent_v2", context_push);
  need(library, path, "cuCtxPopCurrent_v2", context_pop);
  need(library, path, "cuCtxGetStreamPriorityRange", context_priority_range);
  need(library, path, "cuStreamCreateWithPriority", stream_create);
  need(library, path, "cuStreamDestroy_v2", stream_destroy);
  need(library, path, "cuStreamWaitEvent", stream_wait_event);
  need(library, path, "cuStreamSynchronize", stream_synchronize);
  need(library, path, "cuEventCreate", event_create);
  need(library, path, "cuEventDestroy_v2", event_destroy);
  need(library, path, "cuEventRecord", event_record);
  need(library, path, "cuEventQuery", event_query);
  need(library, path, "cuEventElapsedTime", event_elapsed_ms);
  need(library, path, "cuMemHostRegister_v2", host_register);
  need(library, path, "cuMemHostUnregister", host_unregister);
  need(library, path, "cuMemHostGetDevicePointer_v2", host_device_address);
  need(library, path, "cuMemHostAlloc", host_allocate);
  need(library, path, "cuMemFreeHost", host_free);
  need(library, path, "cuMemAlloc_v2", memory_allocate);
  need(library, path, "cuMemFree_v2", memory_free);
  need(library, path, "cuMemcpyHtoDAsync_v2", copy_to_device);
  need(library, path, "cuMemcpyDtoHAsync_v2", copy_to_host);
  need(library, path, "cuMemcpyDtoDAsync_v2", copy_within_device);
  need(library, path, "cuModuleLoadData", module_load);
  need(library, path, "cuModuleUnload", module_unload);
  need(library, path, "cuModuleGetFunction", module_function);
  need(library, path, "cuLaunchKernel", launch);
  if (const Result result = init(0); result != kSuccess) throw Error(ErrorKind::store, path + ": " + explain("cuInit", result));
  if (const Result result = driver_version(&version); result != kSuccess) throw Error(ErrorKind::store, path + ": " + explain("cuDriverGetVersion", result));

  // Batches by version: from 13.0 on the same name takes one argument less.
  Result (*find)(const char*, void**, int, uint64_t, int*) = nullptr;
  find = reinterpret_cast<decltype(find)>(dlsym(library, "cuGetProcAddress_v2"));
  if (find == nullptr || version < kBatchesSince) return;
  const int wanted = version >= kBatchesWithoutIndex ? kBatchesWithoutIndex : kBatchesSince;
  void* found = nullptr;
  int status = 0;
  if (find("cuMemcpyBatchAsync", &found, wanted, 0, &status) != kSuccess || status != 0 || found == nullptr) return;
  if (wanted == kBatchesWithoutIndex) copy_batch = reinterpret_cast<decltype(copy_batch)>(found);
  else copy_batch_indexed = reinterpret_cast<decltype(copy_batch_indexed)>(found);
}

std::string Driver::explain(const char* call, Result result) const {
  const char* name = nullptr;
  if (error_name_(result, &name) != kSuccess || name == nullptr) name = "an unknown error";
  return std::string(call) + ": " + name + " (" + std::to_string(result) + ")";
}

}  // namespace kvatlas::cuda
