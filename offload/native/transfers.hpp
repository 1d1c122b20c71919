// Reads and writes of open files under way, for one thread: one at a time by system calls that wait, or several in a ring.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "offload/native/engine_jobs.hpp"

namespace kvatlas {

// Bytes between a file and two pieces of memory, from the file's beginning. It may take several steps: each moves some.
struct Transfer {
  int fd = -1;
  bool is_write = false;
  uint64_t done = 0;      // bytes
  uint64_t n_bytes = 0;   // in all
  iovec parts[2] = {};    // what is left of each
  int64_t result = 0;     // of the last step: bytes, or -errno

  void begin(int file, bool write, void* first, size_t first_bytes, void* second, size_t second_bytes);
  // After a step that moved something: true when there is more to do.
  bool advance();
};

// One step by a system call that waits.
void step(Transfer& transfer);

// Thread safety: one thread, but for the doorbell's event.
class Transfers {
 public:
  virtual ~Transfers() = default;
  virtual size_t depth() const = 0;
  // Begins a step. REQUIRES: less than `depth` are under way; the transfer stays where it is until it comes back.
  virtual void start(Transfer& transfer) = 0;
  // Waits for a step to end; nullptr: the doorbell rang. REQUIRES: one is under way, or there is a doorbell.
  virtual Transfer* wait() = 0;
  virtual Doorbell* doorbell() { return nullptr; }
};

class BlockingTransfers final : public Transfers {
 public:
  size_t depth() const override { return 1; }
  void start(Transfer& transfer) override {
    step(transfer);
    ended_ = &transfer;
  }
  Transfer* wait() override { return std::exchange(ended_, nullptr); }

 private:
  Transfer* ended_ = nullptr;
};

}  // namespace kvatlas
