#include "offload/native/engine_worker.hpp"

#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include "offload/native/crc32c.hpp"

namespace kvatlas {
namespace {

// To a store or a removal a refusal means that nothing can be written here, and a missing folder is a failure; to a read a
// missing file is an answer.
Outcome outcome_of(JobKind kind, int error) {
  switch (error) {
    case ENOENT: return kind == JobKind::store ? Outcome::failed : Outcome::absent;
    case ENOSPC:
    case EDQUOT:
    case EFBIG: return Outcome::no_space;  // EFBIG: a limit on the size of files
    case EACCES:
    case EPERM: return kind == JobKind::store || kind == JobKind::remove ? Outcome::read_only : Outcome::failed;
    case EROFS: return Outcome::read_only;
    default: return Outcome::failed;
  }
}

int64_t now_ms() {
  const auto since_1970 = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::milliseconds>(since_1970).count();
}

}  // namespace

EngineWorker::EngineWorker(JobBoard& board, ChunkFiles& files, const Rows& rows, const BoardLimits& limits, std::unique_ptr<Transfers> transfers)
    : board_(board),
      files_(files),
      rows_(rows),
      limits_(limits),
      payload_bytes_(file_bytes(rows.row_bytes) - kHeadBytes),
      transfers_(std::move(transfers)) {
  for (size_t i = 0; i < transfers_->depth(); ++i) {
    passages_.push_back(std::make_unique<Passage>());
    free_.push_back(passages_.back().get());
  }
}

void EngineWorker::run() {
  Doorbell* doorbell = transfers_->doorbell();
  for (;;) {
    while (!free_.empty()) {
      Passage& passage = *free_.back();
      // Without a doorbell this waits for work; the one transfer at a time is never under way here.
      if (!board_.take(passage.task, doorbell)) break;
      free_.pop_back();
      passage.was_stale = false;
      begin(passage);
    }
    const bool is_idle = free_.size() == passages_.size();
    if (is_idle && board_.is_stopped()) return;
    if (is_idle && doorbell == nullptr) continue;
    if (Transfer* transfer = transfers_->wait()) step_ended(static_cast<Passage&>(*transfer));
  }
}

void EngineWorker::begin(Passage& passage) {
  switch (passage.task.job->kind) {
    case JobKind::store: begin_store(passage); return;
    case JobKind::remove: {
      const int error = files_.remove(key(passage), passage.file);
      error == 0 ? end(passage, Outcome::ok) : fail(passage, "unlink", error);
      return;
    }
    case JobKind::load:
    case JobKind::probe: begin_read(passage); return;
  }
}

void EngineWorker::begin_read(Passage& passage) {
  bool is_whole = false;
  if (const int error = files_.open(key(passage), passage.file, is_whole)) {
    fail(passage, "open", error);
    return;
  }
  if (!is_whole) {
    fail_corrupt(passage, HeadFault::size);
    return;
  }
  const size_t payload = passage.task.staging != nullptr ? payload_bytes_ : 0;
  passage.begin(passage.file.fd, false, passage.head, kHeadBytes, passage.task.staging, payload);
  transfers_->start(passage);
}

void EngineWorker::begin_store(Passage& passage) {
  bool is_there = false;
  if (const int error = files_.look(key(passage), passage.file, is_there)) {
    fail(passage, "stat", error);
    return;
  }
  if (is_there) {
    end(passage, Outcome::present);
    return;
  }
  if (!board_.begin_touching(passage.task)) {
    end(passage, Outcome::timed_out);  // nobody hears it
    return;
  }
  const uint8_t* payload = seal_payload(passage);
  board_.end_touching(passage.task);
  if (const int error = files_.create(key(passage), passage.file)) {
    fail(passage, "create", error);
    return;
  }
  passage.begin(passage.file.fd, true, passage.head, kHeadBytes, const_cast<uint8_t*>(payload), payload_bytes_);
  transfers_->start(passage);
}

const uint8_t* EngineWorker::seal_payload(Passage& passage) const {
  uint8_t* staging = passage.task.staging;
  if (staging == nullptr) {
    fill_head(passage, crc32c(0, row(passage), rows_.row_bytes));
    return row(passage);
  }
  fill_head(passage, copy_crc32c(staging, row(passage), rows_.row_bytes));
  std::memset(staging + rows_.row_bytes, 0, payload_bytes_ - rows_.row_bytes);
  return staging;
}

void EngineWorker::fill_head(Passage& passage, uint32_t payload_crc32c) const {
  ChunkHead head;
  head.payload_bytes = rows_.row_bytes;
  head.blocks = head.valid_blocks = rows_.blocks;
  std::memcpy(head.fingerprint, rows_.fingerprint, kFingerprintBytes);
  std::memcpy(head.writer, rows_.writer, kWriterBytes);
  head.written_ms = now_ms();
  head.payload_crc32c = payload_crc32c;
  head.key_bytes = static_cast<uint32_t>(limits_.key_bytes);
  std::memcpy(head.key, key(passage), limits_.key_bytes);
  encode_head(head, passage.head);
}

void EngineWorker::step_ended(Passage& passage) {
  const int64_t result = passage.result;
  const int error = result < 0 ? static_cast<int>(-result) : 0;
  if (error == EINTR || error == EAGAIN || (error == EINVAL && files_.leave_direct(passage.file))) {
    transfers_->start(passage);
  } else if (error != 0) {
    fail(passage, passage.is_write ? "write" : "read", error);
  } else if (result == 0) {
    // Somebody has cut the file off while it was read; a write that writes nothing is no error of the file's.
    passage.is_write ? fail(passage, "write", EIO) : fail_corrupt(passage, HeadFault::size);
  } else if (passage.advance()) {
    transfers_->start(passage);
  } else {
    passage.is_write ? complete_store(passage) : complete_read(passage);
  }
}

void EngineWorker::complete_read(Passage& passage) {
  ChunkHead head;
  HeadFault fault = decode_head(passage.head, head);
  if (fault == HeadFault::none) fault = check_head(head, key(passage), limits_.key_bytes, rows_.fingerprint, rows_.row_bytes);
  if (fault != HeadFault::none) {
    fail_corrupt(passage, fault);
  } else if (passage.task.job->kind == JobKind::probe) {
    end(passage, Outcome::ok);
  } else {
    complete_load(passage, head.payload_crc32c);
  }
}

void EngineWorker::complete_load(Passage& passage, uint32_t payload_crc32c) {
  if (!board_.begin_touching(passage.task)) {
    end(passage, Outcome::timed_out);
    return;
  }
  const bool is_right = copy_crc32c(row(passage), passage.task.staging, rows_.row_bytes) == payload_crc32c;
  board_.end_touching(passage.task);
  is_right ? end(passage, Outcome::ok) : fail_corrupt(passage, HeadFault::payload);
}

void EngineWorker::complete_store(Passage& passage) {
  // Whoever gave it up may have changed the row while it was being written.
  if (!board_.wants(passage.task)) {
    end(passage, Outcome::timed_out);
  } else if (const int error = files_.publish(passage.file)) {
    fail(passage, "publish", error);
  } else {
    end(passage, Outcome::ok);
  }
}

void EngineWorker::fail(Passage& passage, const char* doing, int error) {
  if (error == ESTALE && !std::exchange(passage.was_stale, true)) {
    stale_retries_.fetch_add(1, std::memory_order_relaxed);
    files_.discard(passage.file);
    begin(passage);
    return;
  }
  const Outcome outcome = outcome_of(passage.task.job->kind, error);
  if (outcome == Outcome::absent) {
    end(passage, outcome);
    return;
  }
  const std::string& path = passage.file.temporary.empty() ? passage.file.path : passage.file.temporary;
  end(passage, outcome, error, std::string(doing) + " " + path + ": " + std::strerror(error));
}

void EngineWorker::fail_corrupt(Passage& passage, HeadFault fault) {
  board_.count_fault(fault);
  files_.remove_corrupt(passage.file);
  end(passage, Outcome::corrupt, EBADMSG, passage.file.path + ": " + text_of(fault));
}

void EngineWorker::end(Passage& passage, Outcome outcome, int error, const std::string& text) {
  files_.discard(passage.file);
  free_.push_back(&passage);
  board_.end(passage.task, outcome, error, text);
}

}  // namespace kvatlas
