// A CUDA GPU by its driver API: two streams of its own, one a direction, in the primary context, which the process's
// other users of the GPU share.
//
// How a run of bytes goes:
//   small ones, where there are enough of them, the rows are pinned and the driver took the kernel: cuda_gather.hpp;
//   all others: cuMemcpyBatchAsync where the driver has it (12.8), one cuMemcpy*Async each where it has not.
//
// A job that the driver refused in the middle has failed, but it ends only when what was put before has ended. Any
// error that the device itself reports is its end: CUDA has no other way, every later call in the context fails. What
// a lost device holds is never freed nor unpinned: those calls could wait for ever, and its copies may still run.
#pragma once

#include <vector>

#include "offload/native/cuda_driver.hpp"
#include "offload/native/cuda_gather.hpp"
#include "offload/native/device.hpp"

namespace kvatlas {

struct CudaOptions {
  int ordinal = 0;  // among the devices that the process sees
  // Runs below these go by the kernel. vLLM's figure for an H100 is 28 KiB for loads, and none for stores, which the
  // copy engines take at full speed: not measured here.
  size_t gather_loads_below_bytes = 28 << 10;
  size_t gather_stores_below_bytes = 0;
  size_t gather_least = 16;  // fewer small runs than this are not worth a launch
};

class CudaBatch;

class CudaDevice final : public Device {
 public:
  // Throws Error{store}: no such device, or one that cannot be used.
  CudaDevice(std::shared_ptr<const cuda::Driver> driver, const CudaOptions& options);
  ~CudaDevice() override;

  bool pin(uint8_t* memory, size_t bytes, size_t row_bytes) override;
  void unpin() override;
  std::unique_ptr<Batch> start(std::vector<Copy> copies, Direction direction, uint64_t after_stream) override;
  void pause(double seconds) override;
  bool is_lost() const override { return !lost_.empty(); }
  void lose(const std::string& why) override;
  std::string pci_address() const override { return pci_address_; }
  std::string describe() const override;
  DeviceCounts counts() const override { return counts_; }

 private:
  friend class CudaBatch;

  void open();
  void release();
  cuda::Event take_event();
  bool order(cuda::Stream stream, uint64_t after_stream, cuda::Event begin);
  bool succeeds(const char* call, cuda::Result result);

  void put(CudaBatch& batch, Direction direction, cuda::Stream stream);
  size_t put_gathered(CudaBatch& batch, size_t n_small, Direction direction, cuda::Stream stream);
  bool put_batched(CudaBatch& batch, size_t from, Direction direction, cuda::Stream stream);
  bool put_singly(const CudaBatch& batch, size_t from, Direction direction, cuda::Stream stream);

  std::shared_ptr<const cuda::Driver> driver_;
  const CudaOptions options_;
  cuda::DeviceNumber device_ = 0;
  cuda::Context context_ = nullptr;
  cuda::Stream streams_[2] = {};
  cuda::Event order_ = nullptr;
  std::vector<cuda::Event> events_;  // free ones
  std::unique_ptr<cuda::Gather> gather_;
  std::string why_no_gather_;
  std::string name_, pci_address_, lost_;
  std::string last_error_;           // of the call that failed last
  std::vector<void*> registered_;
  bool is_mapped_ = false;           // the rows may be used by kernels
  int64_t row_shift_ = 0;            // a row's address for the device, less its address here
  bool has_batches_ = false;
  DeviceCounts counts_;
};

}  // namespace kvatlas
