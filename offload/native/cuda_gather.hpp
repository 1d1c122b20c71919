// Small copies by a kernel: one launch instead of one transfer each, which is what transfers of a few KiB cost.
//
// The kernel (gather.cu) reads its descriptors from device memory. They get there through one of kBuffers pairs of
// buffers, pinned ones on the host and others on the device; where all are in use the caller copies another way.
//
// Thread safety: none, as for Device. REQUIRES, for every method: the context is current.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "offload/native/cuda_driver.hpp"
#include "offload/native/device.hpp"

namespace kvatlas::cuda {

extern const char kGatherPtx[];

class Gather {
 public:
  static constexpr size_t kBuffers = 8;
  static constexpr size_t kDescriptors = 16384;  // of one launch
  static constexpr unsigned kGroups = 24;        // thread groups: a small part of a GPU fills its bus
  static constexpr unsigned kThreads = 256;

  // Descriptors that a launch uses, until the batch it belongs to has ended.
  class Buffer {
   public:
    Buffer(const Buffer&) = delete;
    ~Buffer() { gather_->in_use_[at_] = false; }

   private:
    friend class Gather;
    Buffer(Gather* gather, size_t at) : gather_(gather), at_(at) {}
    Gather* gather_;
    size_t at_;
  };

  // Null where the driver does not take the kernel or has no memory; `why` says it.
  static std::unique_ptr<Gather> make(std::shared_ptr<const Driver> driver, std::string& why);
  ~Gather();

  // Puts up to kDescriptors copies into `stream`. `row_shift` is added to the addresses of rows, which are the
  // destinations of stores and the sources of loads. Null: no buffer is free, nothing was put. `result` is what the
  // driver said; where it is not kSuccess a part may have been put.
  std::unique_ptr<Buffer> put(std::span<const Copy> copies, Direction direction, int64_t row_shift, Stream stream,
                              Result& result);

 private:
  explicit Gather(std::shared_ptr<const Driver> driver) : driver_(std::move(driver)) {}

  struct Pair {
    uint64_t* host = nullptr;
    DeviceAddress device = 0;
  };

  std::shared_ptr<const Driver> driver_;
  Module module_ = nullptr;
  Function function_ = nullptr;
  Pair pairs_[kBuffers];
  bool in_use_[kBuffers] = {};
};

}  // namespace kvatlas::cuda
