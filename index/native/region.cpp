#include "index/native/region.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "index/native/error.hpp"

namespace kvatlas {
namespace {

Error file_error(const std::string& path, const std::string& what, int code) {
  return Error(ErrorKind::table_file, path + ": " + what + (code ? std::string(": ") + std::strerror(code) : ""));
}

uint8_t* map(size_t bytes, int protection, int flags, int fd, const std::string& name) {
  void* at = mmap(nullptr, bytes, protection, flags, fd, 0);
  if (at == MAP_FAILED)
    throw file_error(name, "cannot map " + std::to_string(bytes) + " bytes", errno);
  return static_cast<uint8_t*>(at);
}

}  // namespace

Region Region::anonymous(size_t reserve_bytes) {
  Region region;
  region.data_ = map(reserve_bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, "private memory");
  region.reserved_ = reserve_bytes;
  return region;
}

Region Region::create(const std::string& path, size_t reserve_bytes) {
  Region region;
  region.fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (region.fd_ < 0) throw file_error(path, "cannot create the shared-memory file", errno);
  region.data_ = map(reserve_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, region.fd_, path);
  region.reserved_ = reserve_bytes;
  return region;
}

Region Region::open(const std::string& path, size_t bytes_min) {
  Region region;
  region.fd_ = ::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
  if (region.fd_ < 0) throw file_error(path, "cannot open the shared-memory file", errno);
  struct stat info {};
  if (fstat(region.fd_, &info) != 0) throw file_error(path, "cannot stat", errno);
  if (!S_ISREG(info.st_mode)) throw file_error(path, "expected a regular file", 0);
  if (info.st_uid != geteuid())
    throw file_error(path, "expected a file of user " + std::to_string(geteuid()) + ", it belongs to user " + std::to_string(info.st_uid), 0);
  const size_t size = static_cast<size_t>(info.st_size);
  if (size < bytes_min)
    throw file_error(path, "expected at least " + std::to_string(bytes_min) + " bytes, got " + std::to_string(size), 0);
  region.data_ = map(size, PROT_READ, MAP_SHARED | MAP_NORESERVE, region.fd_, path);
  region.reserved_ = size;
  return region;
}

Region::~Region() {
  if (data_ != nullptr) munmap(data_, reserved_);
  if (fd_ >= 0) ::close(fd_);
}

void Region::back(size_t begin, size_t end) {
  if (end > reserved_)
    throw Error(ErrorKind::table_file, "needs " + std::to_string(end) + " bytes, reserved are " + std::to_string(reserved_));
  if (begin < std::min(end, written_)) std::memset(data_ + begin, 0, std::min(end, written_) - begin);
  if (fd_ < 0 || begin >= end) return;
  // Allocates for real, so that writing can never fault on a full file system.
  const int code = posix_fallocate(fd_, static_cast<off_t>(begin), static_cast<off_t>(end - begin));
  if (code != 0)
    throw file_error("shared memory", "no room for " + std::to_string(end - begin) + " more bytes", code);
}

void Region::prefer_huge_pages(size_t begin, size_t end) {
#ifdef MADV_HUGEPAGE
  constexpr size_t kHuge = 2 << 20;
  begin = (begin + kHuge - 1) / kHuge * kHuge;
  end = end / kHuge * kHuge;
  if (begin < end) madvise(data_ + begin, end - begin, MADV_HUGEPAGE);
#else
  static_cast<void>(begin), static_cast<void>(end);
#endif
}

void Region::keep_written(size_t bytes) {
  constexpr size_t kPage = 4096;
  const size_t kept = (bytes + kPage - 1) / kPage * kPage;
  if (kept < written_ && madvise(data_ + kept, written_ - kept, MADV_DONTNEED) == 0) written_ = kept;
}

void Region::widen(size_t reserve_bytes) {
  if (reserve_bytes <= reserved_) return;
  uint8_t* wider = map(reserve_bytes, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd_, "shared memory");
  munmap(data_, reserved_);
  data_ = wider;
  reserved_ = reserve_bytes;
}

size_t Region::file_bytes() const {
  struct stat info {};
  return fstat(fd_, &info) == 0 ? static_cast<size_t>(info.st_size) : 0;
}

void Region::swap(Region& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(reserved_, other.reserved_);
  std::swap(written_, other.written_);
  std::swap(fd_, other.fd_);
}

}  // namespace kvatlas
