#include "offload/native/cuda_gather.hpp"

#include <algorithm>

namespace kvatlas::cuda {
namespace {

constexpr size_t kDescriptorBytes = 3 * sizeof(uint64_t);

}  // namespace

std::unique_ptr<Gather> Gather::make(std::shared_ptr<const Driver> driver, std::string& why) {
  std::unique_ptr<Gather> made(new Gather(std::move(driver)));
  const Driver& cu = *made->driver_;
  const auto fails = [&](const char* call, Result result) {
    if (result != kSuccess) why = cu.explain(call, result);
    return result != kSuccess;
  };
  if (fails("cuModuleLoadData", cu.module_load(&made->module_, kGatherPtx))) return nullptr;
  if (fails("cuModuleGetFunction", cu.module_function(&made->function_, made->module_, "kvatlas_gather"))) return nullptr;
  for (Pair& pair : made->pairs_) {
    void* host = nullptr;
    if (fails("cuMemHostAlloc", cu.host_allocate(&host, kDescriptors * kDescriptorBytes, 0))) return nullptr;
    pair.host = static_cast<uint64_t*>(host);
    if (fails("cuMemAlloc", cu.memory_allocate(&pair.device, kDescriptors * kDescriptorBytes))) return nullptr;
  }
  return made;
}

Gather::~Gather() {
  for (const Pair& pair : pairs_) {
    if (pair.host != nullptr) driver_->host_free(pair.host);
    if (pair.device != 0) driver_->memory_free(pair.device);
  }
  if (module_ != nullptr) driver_->module_unload(module_);
}

std::unique_ptr<Gather::Buffer> Gather::put(std::span<const Copy> copies, Direction direction, int64_t row_shift,
                                            Stream stream, Result& result) {
  result = kSuccess;
  const size_t at = static_cast<size_t>(std::find(std::begin(in_use_), std::end(in_use_), false) - std::begin(in_use_));
  if (at == kBuffers) return nullptr;
  const Pair& pair = pairs_[at];
  const uint64_t to_shift = direction == Direction::store ? static_cast<uint64_t>(row_shift) : 0;
  const uint64_t from_shift = direction == Direction::load ? static_cast<uint64_t>(row_shift) : 0;
  for (size_t i = 0; i < copies.size(); ++i) {
    pair.host[3 * i] = reinterpret_cast<uint64_t>(copies[i].to) + to_shift;
    pair.host[3 * i + 1] = reinterpret_cast<uint64_t>(copies[i].from) + from_shift;
    pair.host[3 * i + 2] = copies[i].bytes;
  }
  // Marked before the driver sees it: what it was given it may still read after an error.
  in_use_[at] = true;
  std::unique_ptr<Buffer> buffer(new Buffer(this, at));
  result = driver_->copy_to_device(pair.device, pair.host, copies.size() * kDescriptorBytes, stream);
  if (result != kSuccess) return buffer;
  DeviceAddress descriptors = pair.device;
  unsigned long long n = copies.size();
  void* arguments[] = {&descriptors, &n};
  const unsigned groups = static_cast<unsigned>(std::min<size_t>(kGroups, copies.size()));
  result = driver_->launch(function_, groups, 1, 1, kThreads, 1, 1, 0, stream, arguments, nullptr);
  return buffer;
}

}  // namespace kvatlas::cuda
