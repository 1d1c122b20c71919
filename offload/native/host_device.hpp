// Copies between memories of the host: the device of engines that run on the CPU.
//
// A few threads share the work of one batch in pieces of at most kPieceBytes; batches of one direction run one after
// the other, and loads go first, for requests wait for them. Runs of bytes from kStreamedBytes on go past the caches
// (non-temporal stores): nobody reads them soon, and a plain copy would read each line of its destination first.
#pragma once

#include <array>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "offload/native/device.hpp"

namespace kvatlas {

class HostBatch;

class HostDevice final : public Device {
 public:
  static constexpr size_t kPieceBytes = 1 << 20;
  static constexpr size_t kStreamedBytes = 8 << 10;

  // Throws Error{input} unless 1 <= n_threads <= 64.
  explicit HostDevice(uint32_t n_threads);
  // REQUIRES: no batch is alive. Ends the threads.
  ~HostDevice() override;

  bool pin(uint8_t*, size_t, size_t) override { return true; }
  void unpin() override {}
  std::unique_ptr<Batch> start(std::vector<Copy> copies, Direction direction, uint64_t after_stream) override;
  void pause(double seconds) override;
  bool is_lost() const override;
  void lose(const std::string& why) override;
  std::string pci_address() const override { return ""; }
  std::string describe() const override;
  DeviceCounts counts() const override;

 private:
  friend class HostBatch;
  struct Work;

  // All that the threads use, shared with them and with the batches' work: a batch may go while its copies still run.
  struct Shared {
    mutable std::mutex mutex;
    std::condition_variable has_work, has_ended;
    std::array<std::deque<std::shared_ptr<Work>>, 2> lanes;  // by direction; the front one runs
    uint64_t ended = 0;                                      // batches, for pause()
    bool closing = false;
    std::string lost;  // why; empty: it is not
    DeviceCounts counts;
  };
  static void run(Shared& shared);
  static bool take(Shared& shared, std::shared_ptr<Work>& work, size_t& begin, size_t& end);

  std::shared_ptr<Shared> shared_ = std::make_shared<Shared>();
  uint64_t seen_ended_ = 0;
  std::vector<std::thread> threads_;
};

// memcpy, past the caches where `bytes` is large and the processor can. True: past the caches.
bool copy_bytes(uint8_t* to, const uint8_t* from, size_t bytes);

}  // namespace kvatlas
