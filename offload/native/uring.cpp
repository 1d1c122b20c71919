#include "offload/native/uring.hpp"

#include <poll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <string>

#include "index/native/error.hpp"

namespace kvatlas {
namespace {

constexpr uint32_t kFeatures = IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE;  // Linux 5.5

Error refused(const std::string& what, int error) {
  return Error(ErrorKind::store, "io_uring: expected " + what + ", got " + std::strerror(error));
}

// Words that the kernel writes, or reads.
uint32_t load_acquire(uint32_t* word) { return std::atomic_ref(*word).load(std::memory_order_acquire); }
void store_release(uint32_t* word, uint32_t value) { std::atomic_ref(*word).store(value, std::memory_order_release); }

uint32_t* word_at(void* memory, uint32_t offset) { return reinterpret_cast<uint32_t*>(static_cast<uint8_t*>(memory) + offset); }

}  // namespace

void UringTransfers::Mapping::map(int fd, size_t n_bytes, uint64_t offset) {
  void* mapped = mmap(nullptr, n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, static_cast<off_t>(offset));
  if (mapped == MAP_FAILED) throw refused("its memory", errno);
  memory = mapped;
  bytes = n_bytes;
}

UringTransfers::Mapping::~Mapping() {
  if (memory != nullptr) munmap(memory, bytes);
}

UringTransfers::Ring::~Ring() {
  if (fd >= 0) close(fd);
}

UringTransfers::UringTransfers(uint32_t depth) : depth_(depth) {
  io_uring_params params{};
  ring_.fd = static_cast<int>(syscall(SYS_io_uring_setup, depth + 1, &params));  // one for the doorbell
  if (ring_.fd < 0) throw refused("a ring", errno);
  if ((params.features & kFeatures) != kFeatures) throw refused("Linux 5.5 or newer", ENOSYS);
  submissions_.map(ring_.fd, params.sq_off.array + params.sq_entries * sizeof(uint32_t), IORING_OFF_SQ_RING);
  completions_.map(ring_.fd, params.cq_off.cqes + params.cq_entries * sizeof(io_uring_cqe), IORING_OFF_CQ_RING);
  entries_.map(ring_.fd, params.sq_entries * sizeof(io_uring_sqe), IORING_OFF_SQES);
  submission_tail_ = word_at(submissions_.memory, params.sq_off.tail);
  submission_mask_ = word_at(submissions_.memory, params.sq_off.ring_mask);
  submission_slots_ = word_at(submissions_.memory, params.sq_off.array);
  completion_head_ = word_at(completions_.memory, params.cq_off.head);
  completion_tail_ = word_at(completions_.memory, params.cq_off.tail);
  completion_mask_ = word_at(completions_.memory, params.cq_off.ring_mask);
  completed_ = reinterpret_cast<io_uring_cqe*>(word_at(completions_.memory, params.cq_off.cqes));
  next_entry().opcode = IORING_OP_NOP;
  if (!submit()) throw refused("to hand over work", errno);
  complete();
}

UringTransfers::~UringTransfers() = default;

io_uring_sqe& UringTransfers::next_entry() {
  // Each is handed over before the next is made, and completions are never more than depth + 1: there is always room.
  const uint32_t slot = *submission_tail_ & *submission_mask_;
  io_uring_sqe& entry = static_cast<io_uring_sqe*>(entries_.memory)[slot];
  std::memset(&entry, 0, sizeof entry);
  submission_slots_[slot] = slot;
  return entry;
}

bool UringTransfers::submit() {
  store_release(submission_tail_, *submission_tail_ + 1);
  for (;;) {
    const long n = syscall(SYS_io_uring_enter, ring_.fd, 1, 0, 0, nullptr, 0);
    if (n == 1) return true;
    if (n < 0 && errno == EINTR) continue;
    store_release(submission_tail_, *submission_tail_ - 1);  // not taken: it was never there
    return false;
  }
}

void UringTransfers::start(Transfer& transfer) {
  io_uring_sqe& entry = next_entry();
  entry.opcode = transfer.is_write ? IORING_OP_WRITEV : IORING_OP_READV;
  entry.fd = transfer.fd;
  entry.addr = reinterpret_cast<uint64_t>(transfer.parts);
  entry.len = 2;
  entry.off = transfer.done;
  entry.user_data = reinterpret_cast<uint64_t>(&transfer);
  if (submit()) return;
  step(transfer);  // no memory for one more, say
  ended_.push_back(&transfer);
}

void UringTransfers::listen() {
  io_uring_sqe& entry = next_entry();
  entry.opcode = IORING_OP_POLL_ADD;
  entry.fd = doorbell_.event.fd();
  entry.poll32_events = POLLIN;
  entry.user_data = 0;
  doorbell_is_armed_ = submit();
}

io_uring_cqe UringTransfers::complete() {
  const uint32_t head = *completion_head_;
  while (head == load_acquire(completion_tail_)) {
    syscall(SYS_io_uring_enter, ring_.fd, 0, 1, IORING_ENTER_GETEVENTS, nullptr, 0);  // interrupted: again
  }
  const io_uring_cqe completion = completed_[head & *completion_mask_];
  store_release(completion_head_, head + 1);
  return completion;
}

Transfer* UringTransfers::wait() {
  if (!ended_.empty()) {
    Transfer* transfer = ended_.back();
    ended_.pop_back();
    return transfer;
  }
  while (!doorbell_is_armed_) listen();
  const io_uring_cqe completion = complete();
  if (completion.user_data == 0) {
    doorbell_.event.clear();
    doorbell_is_armed_ = false;
    return nullptr;
  }
  auto* transfer = reinterpret_cast<Transfer*>(completion.user_data);
  transfer->result = completion.res;
  return transfer;
}

}  // namespace kvatlas
