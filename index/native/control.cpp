#include "index/native/control.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "index/native/error.hpp"
#include "index/native/generation.hpp"
#include "index/native/table_files.hpp"

namespace kvatlas {
namespace {

constexpr char kMagic[8] = "kvatlas";

Error refuse(const std::string& path, const std::string& what) {
  return Error(ErrorKind::table_file, path + ": " + what);
}

void store(uint64_t& word, uint64_t value) { Generation::store(&word, value); }

void check_page(const ControlPage& page, const std::string& path) {
  if (std::memcmp(page.magic, kMagic, sizeof kMagic) != 0) throw refuse(path, "not the control file of a kvatlas table");
  if (page.version != kFormatVersion)
    throw refuse(path, "expected table format version " + std::to_string(kFormatVersion) + ", got " + std::to_string(page.version) + ": another release wrote it");
}

void check_owner(int fd, const std::string& path) {
  struct stat info {};
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) throw refuse(path, "expected a regular file");
  if (info.st_uid != geteuid())
    throw refuse(path, "expected a file of user " + std::to_string(geteuid()) + ", it belongs to user " + std::to_string(info.st_uid));
}

// Generations lie beside the control file as <path>.<number>.
const std::string& checked_name(const std::string& path) {
  if (!base_of_generation(path).empty())
    throw Error(ErrorKind::input, "path: expected a name that does not end in a dot and digits, got " + path);
  return path;
}

}  // namespace

uint64_t boottime_ns() {
  timespec now{};
  clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000000000ull + static_cast<uint64_t>(now.tv_nsec);
}

ControlLock::ControlLock(const std::string& path) {
  // A writer holds the lock for its life, whoever looks for dead tables only for a moment.
  constexpr std::chrono::milliseconds kWait(300), kPause(1);
  const auto deadline = std::chrono::steady_clock::now() + kWait;
  for (;;) {
    const Attempt attempt = try_lock(path);
    if (attempt == Attempt::locked) return;
    if (std::chrono::steady_clock::now() >= deadline)
      throw refuse(path, attempt == Attempt::held ? "another live process writes this table"
                                                  : "another process makes and removes this table all the time");
    if (attempt == Attempt::held) std::this_thread::sleep_for(kPause);
  }
}

ControlLock::~ControlLock() {
  if (fd_ >= 0) ::close(fd_);
}

ControlLock::Attempt ControlLock::try_lock(const std::string& path) {
  fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (fd_ < 0) throw refuse(path, std::string("cannot open the control file: ") + std::strerror(errno));
  Attempt attempt = Attempt::held;
  try {
    check_owner(fd_, path);
    if (flock(fd_, LOCK_EX | LOCK_NB) == 0) attempt = Attempt::removed;
  } catch (...) {
    ::close(fd_);
    throw;
  }
  struct stat locked {}, named {};
  if (attempt != Attempt::held && fstat(fd_, &locked) == 0 && lstat(path.c_str(), &named) == 0 && locked.st_ino == named.st_ino &&
      locked.st_dev == named.st_dev)
    return Attempt::locked;
  ::close(fd_);
  fd_ = -1;
  return attempt;
}

uint64_t ControlLock::bytes() const {
  struct stat info {};
  return fstat(fd_, &info) == 0 ? static_cast<uint64_t>(info.st_size) : 0;
}

Control::Control(const std::string& path) : path_(checked_name(path)), lock_(path) {
  const uint64_t bytes = lock_.bytes();
  const bool fresh = bytes == 0;
  if (!fresh && bytes < kControlBytes) throw refuse(path, "expected a control file of 4096 bytes, got " + std::to_string(bytes));
  if (const int code = fresh ? posix_fallocate(lock_.fd(), 0, kControlBytes) : 0; code != 0) {
    ::unlink(path.c_str());
    throw refuse(path, std::string("no room for the control file: ") + std::strerror(code));
  }
  void* at = mmap(nullptr, kControlBytes, PROT_READ | PROT_WRITE, MAP_SHARED, lock_.fd(), 0);
  if (at == MAP_FAILED) throw refuse(path, std::string("cannot map the control file: ") + std::strerror(errno));
  page_ = static_cast<ControlPage*>(at);
  if (!fresh && page_->magic[0] != 0) {  // all zeros: its writer died before it had filled it
    try {
      check_page(*page_, path);
    } catch (...) {
      munmap(page_, kControlBytes);
      throw;
    }
    first_generation_ = page_->generation + 1;
    remove_generations(path_);
  }
  if (getrandom(&incarnation_, sizeof incarnation_, 0) != sizeof incarnation_) incarnation_ = boottime_ns();
  page_->version = kFormatVersion;
  store(page_->incarnation, incarnation_);
  store(page_->whole, 0);
  heartbeat();
  store(page_->closed, 0);
  std::memcpy(page_->magic, kMagic, sizeof kMagic);
}

Control::~Control() {
  close();
  munmap(page_, kControlBytes);
}

void Control::publish(uint64_t generation) { store(page_->generation, generation); }
void Control::heartbeat() { store(page_->heartbeat_ns, boottime_ns()); }

void Control::set_whole(bool whole) { store(page_->whole, whole); }

void Control::close() {
  if (Generation::load(&page_->closed) != 0) return;
  store(page_->closed, 1);
  remove_generations(path_);
  ::unlink(path_.c_str());
}

ControlReader::ControlReader(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) throw refuse(path, std::string("cannot open the table's control file: ") + std::strerror(errno));
  void* at = MAP_FAILED;
  try {
    check_owner(fd, path);
    struct stat info {};
    fstat(fd, &info);
    if (static_cast<uint64_t>(info.st_size) < kControlBytes) throw refuse(path, "expected a table's control file of 4096 bytes, got " + std::to_string(info.st_size));
    at = mmap(nullptr, kControlBytes, PROT_READ, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) throw refuse(path, std::string("cannot map the table's control file: ") + std::strerror(errno));
    check_page(*static_cast<const ControlPage*>(at), path);
  } catch (...) {
    if (at != MAP_FAILED) munmap(at, kControlBytes);
    ::close(fd);
    throw;
  }
  ::close(fd);
  page_ = static_cast<const ControlPage*>(at);
}

ControlReader::~ControlReader() { munmap(const_cast<ControlPage*>(page_), kControlBytes); }

ControlReader::State ControlReader::state() const {
  const uint64_t beat = Generation::load(&page_->heartbeat_ns);
  const uint64_t now = boottime_ns();
  return {Generation::load(&page_->incarnation), Generation::load(&page_->generation), now > beat ? now - beat : 0,
          Generation::load(&page_->closed) != 0, Generation::load(&page_->whole) != 0};
}

}  // namespace kvatlas
