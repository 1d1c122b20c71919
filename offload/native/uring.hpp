// Transfers in an io_uring of the kernel, by plain system calls.
//
// Source: io_uring_setup(2), io_uring_enter(2), linux/io_uring.h. Containers often refuse it (seccomp): then the constructor
// throws and threads do the work.
//
// Thread safety: as Transfers.
#pragma once

#include <linux/io_uring.h>

#include <cstdint>
#include <vector>

#include "offload/native/transfers.hpp"

namespace kvatlas {

class UringTransfers final : public Transfers {
 public:
  // Throws Error{store}: the kernel has none, too old a one, or refuses.
  explicit UringTransfers(uint32_t depth);
  ~UringTransfers() override;
  UringTransfers(const UringTransfers&) = delete;

  size_t depth() const override { return depth_; }
  void start(Transfer& transfer) override;
  Transfer* wait() override;
  Doorbell* doorbell() override { return &doorbell_; }

 private:
  // Ranges that the kernel shares.
  struct Mapping {
    void* memory = nullptr;
    size_t bytes = 0;
    void map(int fd, size_t n_bytes, uint64_t offset);
    ~Mapping();
  };

  io_uring_sqe& next_entry();
  bool submit();  // the entry made last; false: refused
  io_uring_cqe complete();
  void listen();

  struct Ring {
    int fd = -1;
    ~Ring();
  };

  const uint32_t depth_;
  Ring ring_;
  Mapping submissions_, completions_, entries_;
  uint32_t *submission_tail_ = nullptr, *submission_mask_ = nullptr, *submission_slots_ = nullptr;
  uint32_t *completion_head_ = nullptr, *completion_tail_ = nullptr, *completion_mask_ = nullptr;
  io_uring_cqe* completed_ = nullptr;
  Doorbell doorbell_;
  bool doorbell_is_armed_ = false;
  std::vector<Transfer*> ended_;  // those done without the ring, which refused them
};

}  // namespace kvatlas
