// A device whose memory holds KV blocks, as copies.hpp uses it: memory that is pinned, and batches of copies that run
// beside the caller. Two kinds: the host itself (host_device.hpp), and CUDA (cuda_device.hpp).
//
// Thread safety: none of a Device's or a Batch's methods may run at once with another one of the same device; what the
// device does meanwhile runs on its own threads or hardware.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace kvatlas {

// One run of bytes, from one address to another. One of them lies in the device's memory, the other one in a row.
struct Copy {
  uint8_t* to;
  const uint8_t* from;
  size_t bytes;
};

enum class Direction : uint8_t { store, load };  // device -> rows, rows -> device

// Copies that were started together. Invariant: once state() is not `running` it does not change, and none of the
// copies touches its memory any more, unless the device is lost (Device::is_lost).
class Batch {
 public:
  enum class State : uint8_t { running, done, failed };

  Batch() = default;
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;
  virtual ~Batch() = default;

  virtual State state() = 0;
  // Of the copies alone, without what they waited for. 0 while it runs, and where it cannot be known.
  virtual double seconds() = 0;
  // Why it failed, empty otherwise.
  virtual std::string error() = 0;
};

// What a device has done, in all. Monotonic.
struct DeviceCounts {
  uint64_t copies = 0;            // runs of bytes, after neighbours were joined
  uint64_t streamed_copies = 0;   // host: past the caches
  uint64_t batched_copies = 0;    // CUDA: by cuMemcpyBatchAsync
  uint64_t single_copies = 0;     // CUDA: one call each
  uint64_t gathered_copies = 0;   // CUDA: by the gather kernel
  uint64_t gathers_refused = 0;   // CUDA: small copies that went another way, for all descriptor buffers were in use
  uint64_t device_errors = 0;     // calls that the device's driver refused, or that ended with an error
};

class Device {
 public:
  Device() = default;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  virtual ~Device() = default;

  // Makes `memory`, rows of `row_bytes`, reachable for the device without a detour. No copy may go from one row into
  // the next one. False: it could not be; copies work, slower.
  virtual bool pin(uint8_t* memory, size_t bytes, size_t row_bytes) = 0;
  // REQUIRES: every batch has ended, or is_lost().
  virtual void unpin() = 0;

  // Starts `copies`, none of which may overlap another one: after what `after_stream` (a handle; 0 is the default
  // stream) was given to do before this call, and after the batches of the same direction that were started before.
  // Does not wait for the device. Never throws for what the device does: the batch has failed then.
  // REQUIRES: the device outlives the batch.
  virtual std::unique_ptr<Batch> start(std::vector<Copy> copies, Direction direction, uint64_t after_stream) = 0;

  // Sleeps until a batch may have ended, `seconds` at most. May return early.
  virtual void pause(double seconds) = 0;

  // A lost device fails every batch, at once. It does not come back.
  virtual bool is_lost() const = 0;
  // Gives the device up: as if its driver had said so. Used where a batch does not end in its time.
  virtual void lose(const std::string& why) = 0;

  // Where it sits on the PCI bus, such as "0000:3b:00.0"; empty: nowhere.
  virtual std::string pci_address() const = 0;
  // What it copies with, for people: "host, 2 threads", "cuda:0 NVIDIA H100, batches, gathers".
  virtual std::string describe() const = 0;
  virtual DeviceCounts counts() const = 0;
};

}  // namespace kvatlas
