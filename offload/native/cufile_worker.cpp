#include "offload/native/cufile_worker.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "index/native/error.hpp"
#include "offload/native/crc32c.hpp"

namespace kvatlas {
namespace {

Outcome outcome_of(int error) {
  switch (error) {
    case ENOENT: return Outcome::absent;
    case ENOSPC: case EDQUOT: return Outcome::no_space;
    case EROFS: return Outcome::read_only;
    default: return Outcome::failed;
  }
}

constexpr auto kLook = std::chrono::microseconds(50);

}  // namespace

// Ends a chunk; never leaves this file.
struct DirectFiles::Worker::Failure {
  Outcome outcome;
  std::string error;
};

DirectFiles::Worker::Worker(Shared& shared) : shared_(shared), padded_bytes_(file_bytes(shared.row_bytes) - kHeadBytes) {
  try {
    open();
  } catch (const Failure& failure) {
    release();
    throw Error(ErrorKind::store, "direct files: expected a stream and buffers of " + std::to_string(padded_bytes_) + " bytes, got " + failure.error);
  }
}

void DirectFiles::Worker::open() {
  const cuda::CurrentContext current(*shared_.driver, shared_.context);
  const cuda::Driver& cu = *shared_.driver;
  must("cuCtxPushCurrent", current.result);
  must("cuStreamCreateWithPriority", cu.stream_create(&stream_, cuda::kStreamNonBlocking, 0));
  void* scratch = nullptr;
  must("cuMemHostAlloc", cu.host_allocate(&scratch, kHeadBytes + padded_bytes_, 0));
  scratch_ = static_cast<uint8_t*>(scratch);
  if (shared_.options.mode != DirectMode::bounce) return;
  must("cuMemAlloc", cu.memory_allocate(&bounce_, padded_bytes_));
  // Where it cannot be registered cuFile goes through buffers of its own.
  is_registered_ = shared_.library->register_buffer(reinterpret_cast<void*>(bounce_), padded_bytes_, 0).error == 0;
}

void DirectFiles::Worker::release() {
  const cuda::CurrentContext current(*shared_.driver, shared_.context);
  if (is_registered_) shared_.library->deregister_buffer(reinterpret_cast<void*>(bounce_));
  if (bounce_ != 0) shared_.driver->memory_free(bounce_);
  if (scratch_ != nullptr) shared_.driver->host_free(scratch_);
  if (stream_ != nullptr) shared_.driver->stream_destroy(stream_);
}

void DirectFiles::Worker::must(const char* call, cuda::Result result) const {
  if (result != cuda::kSuccess) throw Failure{Outcome::failed, shared_.driver->explain(call, result)};
}

void DirectFiles::Worker::run() {
  std::shared_ptr<Job> job;
  size_t at = 0;
  while (shared_.next(job, at)) {
    Chunk& chunk = job->chunks[at];
    Outcome outcome = Outcome::failed;
    std::string error;
    try {
      const cuda::CurrentContext current(*shared_.driver, shared_.context);
      must("cuCtxPushCurrent", current.result);
      outcome = job->direction == Direction::load ? load(*job, chunk) : store(*job, chunk);
    } catch (const Failure& failure) {
      outcome = failure.outcome;
      error = failure.error;
    }
    shared_.end(job, chunk, outcome, error);
    job.reset();
  }
}

// Until the caller's stream has got to where it was when the job came.
void DirectFiles::Worker::wait_for(const Job& job) {
  for (;;) {
    const cuda::Result result = shared_.driver->event_query(job.after->event);
    if (result == cuda::kSuccess) return;
    if (result != cuda::kNotReady) must("cuEventQuery", result);
    std::this_thread::sleep_for(kLook);
  }
}

// A file that is open, with cuFile's name for it. Whatever happens both are given back, and a half-written file goes.
struct DirectFiles::Worker::Opened {
  explicit Opened(Worker& of) : worker(of) {}
  ~Opened() {
    if (handle != nullptr) worker.shared_.library->deregister_file(handle);
    worker.shared_.files.discard(file);
  }
  void enlist() {
    cufile::Description description{};
    description.type = cufile::kLinuxDescriptor;
    description.descriptor = file.fd;
    const cufile::Status status = worker.shared_.library->register_file(&handle, &description);
    if (status.error != 0) throw Failure{Outcome::failed, "cuFileHandleRegister " + file.path + ": error " + std::to_string(status.error)};
  }
  // All of `bytes`, between the GPU's memory at `address` and the payload at `at`.
  void move(bool is_write, uint64_t address, size_t bytes, uint64_t at) {
    auto* base = reinterpret_cast<void*>(address);
    for (size_t done = 0; done < bytes;) {
      const auto offset = static_cast<off_t>(kHeadBytes + at + done), inside = static_cast<off_t>(done);
      const ssize_t moved = is_write ? worker.shared_.library->write(handle, base, bytes - done, offset, inside)
                                     : worker.shared_.library->read(handle, base, bytes - done, offset, inside);
      const int error = errno;
      if (moved > 0) {
        done += static_cast<size_t>(moved);
      } else if (moved != -1 || error != EINTR) {
        const std::string what = moved == -1 ? std::strerror(error) : moved == 0 ? "the file ended" : "cuFile's error " + std::to_string(-moved);
        throw Failure{moved == -1 ? outcome_of(error) : Outcome::failed, std::string(is_write ? "cuFileWrite " : "cuFileRead ") + file.path + ": " + what};
      }
    }
  }

  Worker& worker;
  OpenFile file;
  cufile::Handle handle = nullptr;
};

// False: it is no file of this chunk. REQUIRES: scratch_ is aligned to pages.
bool DirectFiles::Worker::read_head(const OpenFile& file, const Chunk& chunk, ChunkHead& head) {
  ssize_t n = 0;
  do n = pread(file.fd, scratch_, kHeadBytes, 0);
  while (n < 0 && errno == EINTR);
  if (n < 0) throw Failure{outcome_of(errno), "read " + file.path + ": " + std::strerror(errno)};
  const auto* key = reinterpret_cast<const uint8_t*>(chunk.key.data());
  return static_cast<size_t>(n) == kHeadBytes && decode_head(scratch_, head) == HeadFault::none &&
         check_head(head, key, chunk.key.size(), shared_.options.fingerprint, shared_.row_bytes) == HeadFault::none;
}

Outcome DirectFiles::Worker::load(Job& job, Chunk& chunk) {
  Opened opened(*this);
  bool is_whole = false;
  ChunkHead head;
  const int error = shared_.files.open(reinterpret_cast<const uint8_t*>(chunk.key.data()), opened.file, is_whole);
  if (error != 0) {
    if (error == ENOENT) return Outcome::absent;
    throw Failure{outcome_of(error), "open " + opened.file.path + ": " + std::strerror(error)};
  }
  const auto corrupt = [&] {
    shared_.files.remove_corrupt(opened.file);
    return Failure{Outcome::corrupt, opened.file.path + ": not what its name says"};
  };
  if (!is_whole || !read_head(opened.file, chunk, head)) throw corrupt();
  opened.enlist();
  if (bounce_ == 0) {
    wait_for(job);
    for (const Piece& piece : chunk.pieces) opened.move(false, piece.block, piece.bytes, piece.at);
    return Outcome::ok;
  }
  opened.move(false, bounce_, padded_bytes_, 0);
  uint8_t* payload = scratch_ + kHeadBytes;
  must("cuMemcpyDtoHAsync", shared_.driver->copy_to_host(payload, bounce_, padded_bytes_, stream_));
  must("cuStreamSynchronize", shared_.driver->stream_synchronize(stream_));
  if (crc32c(0, payload, shared_.row_bytes) != head.payload_crc32c) throw corrupt();
  wait_for(job);
  if (!shared_.may_land(job, chunk)) return Outcome::timed_out;
  for (const Piece& piece : chunk.pieces) {
    must("cuMemcpyDtoDAsync", shared_.driver->copy_within_device(piece.block, bounce_ + piece.at, piece.bytes, stream_));
  }
  must("cuStreamSynchronize", shared_.driver->stream_synchronize(stream_));
  return Outcome::ok;
}

Outcome DirectFiles::Worker::store(Job& job, Chunk& chunk) {
  Opened opened(*this);
  const auto* key = reinterpret_cast<const uint8_t*>(chunk.key.data());
  bool is_there = false;
  if (shared_.files.look(key, opened.file, is_there) == 0 && is_there) return Outcome::present;
  wait_for(job);
  uint8_t* payload = scratch_ + kHeadBytes;
  std::memset(payload, 0, padded_bytes_);  // what no piece covers
  for (const Piece& piece : chunk.pieces) {
    must("cuMemcpyDtoHAsync", shared_.driver->copy_to_host(payload + piece.at, piece.block, piece.bytes, stream_));
  }
  must("cuStreamSynchronize", shared_.driver->stream_synchronize(stream_));
  ChunkHead head;
  head.payload_bytes = shared_.row_bytes;
  head.blocks = head.valid_blocks = shared_.blocks;
  std::copy_n(shared_.options.fingerprint, kFingerprintBytes, head.fingerprint);
  std::copy_n(shared_.options.writer, kWriterBytes, head.writer);
  head.written_ms = std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  head.payload_crc32c = crc32c(0, payload, shared_.row_bytes);
  head.key_bytes = static_cast<uint32_t>(chunk.key.size());
  std::copy(chunk.key.begin(), chunk.key.end(), head.key);
  encode_head(head, scratch_);

  const auto failed = [&](const char* what, int error) { return Failure{outcome_of(error), std::string(what) + " " + opened.file.path + ": " + std::strerror(error)}; };
  if (const int error = shared_.files.create(key, opened.file)) throw failed("create", error);
  if (ftruncate(opened.file.fd, static_cast<off_t>(kHeadBytes + padded_bytes_)) != 0) throw failed("extend", errno);
  opened.enlist();
  if (bounce_ == 0) {
    for (const Piece& piece : chunk.pieces) opened.move(true, piece.block, piece.bytes, piece.at);
  } else {
    must("cuMemcpyHtoDAsync", shared_.driver->copy_to_device(bounce_, payload, padded_bytes_, stream_));
    must("cuStreamSynchronize", shared_.driver->stream_synchronize(stream_));
    opened.move(true, bounce_, padded_bytes_, 0);
  }
  ssize_t n = 0;
  do n = pwrite(opened.file.fd, scratch_, kHeadBytes, 0);
  while (n < 0 && errno == EINTR);
  if (static_cast<size_t>(n) != kHeadBytes) throw failed("write the head of", n < 0 ? errno : ENOSPC);
  if (!shared_.is_wanted(job)) return Outcome::timed_out;
  shared_.library->deregister_file(opened.handle);
  opened.handle = nullptr;
  if (const int error = shared_.files.publish(opened.file)) throw failed("publish", error);
  return Outcome::ok;
}

}  // namespace kvatlas
