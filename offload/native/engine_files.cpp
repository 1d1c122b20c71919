#include "offload/native/engine_files.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <utility>

namespace kvatlas {
namespace {

constexpr mode_t kFileMode = 0666, kFolderMode = 0777;  // less what the process's umask takes away
constexpr int kCreateTries = 8;

bool is_direct_refusal(int error) { return error == EINVAL || error == EOPNOTSUPP; }

}  // namespace

// Temporary names begin anywhere, lest they be those of an engine that was killed.
ChunkFiles::ChunkFiles(const std::string& folder, const FileOptions& options)
    : names_(folder),
      options_(options),
      direct_(options.direct),
      next_temporary_(static_cast<uint64_t>(std::chrono::system_clock::now().time_since_epoch().count())) {}

int ChunkFiles::open_at(const std::string& path, int flags, int& fd) {
  bool direct = is_direct();
  for (;;) {
    fd = ::open(path.c_str(), flags | O_CLOEXEC | O_NOFOLLOW | (direct ? O_DIRECT : 0), kFileMode);
    if (fd >= 0) break;
    const int error = errno;
    if (error == EINTR) continue;
    if (direct && is_direct_refusal(error)) {
      direct = false;
      // A file system may have made the file before it saw that it cannot open it so.
      if ((flags & O_CREAT) != 0) ::unlink(path.c_str());
      continue;
    }
    if (error == EMFILE || error == ENFILE) open_file_limits_.fetch_add(1, std::memory_order_relaxed);
    return error;
  }
  // What is no file, a folder say, refuses it on any file system.
  struct stat status;
  if (!direct && is_direct() && fstat(fd, &status) == 0 && S_ISREG(status.st_mode)) refuse_direct();
  return 0;
}

void ChunkFiles::refuse_direct() {
  direct_refusals_.fetch_add(1, std::memory_order_relaxed);
  direct_.store(false, std::memory_order_relaxed);
}

int ChunkFiles::open(const uint8_t* key, OpenFile& file, bool& is_whole) {
  names_.path(key, options_.key_bytes, file.path);
  if (const int error = open_at(file.path, O_RDONLY, file.fd)) return error;
  struct stat status;
  if (fstat(file.fd, &status) != 0) {
    const int error = errno;
    discard(file);
    return error;
  }
  file.device = status.st_dev;
  file.inode = status.st_ino;
  is_whole = S_ISREG(status.st_mode) && static_cast<uint64_t>(status.st_size) == options_.file_bytes;
  return 0;
}

int ChunkFiles::look(const uint8_t* key, OpenFile& file, bool& is_there) const {
  names_.path(key, options_.key_bytes, file.path);
  struct stat status;
  is_there = false;
  if (lstat(file.path.c_str(), &status) != 0) return errno == ENOENT ? 0 : errno;
  is_there = S_ISREG(status.st_mode) && static_cast<uint64_t>(status.st_size) == options_.file_bytes;
  return 0;
}

int ChunkFiles::make_folder(const uint8_t* key) const {
  std::string folder;
  names_.folder_of(key, options_.key_bytes, folder);
  return mkdir(folder.c_str(), kFolderMode) == 0 || errno == EEXIST ? 0 : errno;
}

int ChunkFiles::create(const uint8_t* key, OpenFile& file) {
  names_.path(key, options_.key_bytes, file.path);
  int error = 0;
  for (int tries = 0; tries < kCreateTries; ++tries) {
    const uint64_t number = next_temporary_.fetch_add(1, std::memory_order_relaxed);
    names_.temporary(key, options_.key_bytes, options_.writer, number, file.temporary);
    error = open_at(file.temporary, O_WRONLY | O_CREAT | O_EXCL, file.fd);
    if (error == 0) return 0;
    if (error == ENOENT) {
      // A cleaner of empty folders may come between making one and using it.
      if (const int refused = make_folder(key)) error = refused;
      if (error != ENOENT) break;
    } else if (error != EEXIST) {  // another engine under the same writer's number, now or before
      break;
    }
  }
  file.temporary.clear();
  return error;
}

int ChunkFiles::publish(OpenFile& file) {
  int error = options_.sync && fdatasync(file.fd) != 0 ? errno : 0;
  // A network file system may tell only here that a write has failed.
  if (::close(std::exchange(file.fd, -1)) != 0 && errno != EINTR && error == 0) error = errno;
  if (error == 0 && rename(file.temporary.c_str(), file.path.c_str()) != 0) error = errno;
  if (error == 0) file.temporary.clear();
  discard(file);
  return error;
}

void ChunkFiles::discard(OpenFile& file) {
  if (file.fd >= 0) ::close(std::exchange(file.fd, -1));
  if (file.temporary.empty()) return;
  if (unlink(file.temporary.c_str()) != 0 && errno != ENOENT) temporary_left_.fetch_add(1, std::memory_order_relaxed);
  file.temporary.clear();
}

int ChunkFiles::remove(const uint8_t* key, OpenFile& file) const {
  names_.path(key, options_.key_bytes, file.path);
  return unlink(file.path.c_str()) == 0 ? 0 : errno;
}

void ChunkFiles::remove_corrupt(const OpenFile& file) {
  // Between the look and the removal another may take the place: a good file is lost then, and written again some day.
  struct stat status;
  if (lstat(file.path.c_str(), &status) != 0 || status.st_dev != file.device || status.st_ino != file.inode) return;
  if (unlink(file.path.c_str()) == 0) removed_corrupt_.fetch_add(1, std::memory_order_relaxed);
}

bool ChunkFiles::leave_direct(const OpenFile& file) {
  const int flags = fcntl(file.fd, F_GETFL);
  if (flags < 0 || (flags & O_DIRECT) == 0 || fcntl(file.fd, F_SETFL, flags & ~O_DIRECT) != 0) return false;
  refuse_direct();
  return true;
}

void ChunkFiles::fill(EngineStatistics& out) const {
  out.is_direct = is_direct();
  out.direct_refusals = direct_refusals_.load(std::memory_order_relaxed);
  out.open_file_limits = open_file_limits_.load(std::memory_order_relaxed);
  out.removed_corrupt = removed_corrupt_.load(std::memory_order_relaxed);
  out.temporary_left = temporary_left_.load(std::memory_order_relaxed);
}

}  // namespace kvatlas
