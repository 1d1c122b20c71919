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
#include <cstring>
#include <filesystem>

#include "index/native/error.hpp"
#include "index/native/generation.hpp"

namespace kvatlas {
namespace {

constexpr size_t kPageBytes = 4096;
constexpr char kMagic[8] = "kvatlas";

Error refuse(const std::string& path, const std::string& what) {
  return Error(ErrorKind::table_file, path + ": " + what);
}

void store(uint64_t& word, uint64_t value) { Generation::store(&word, value); }

void check_page(const ControlPage& page, const std::string& path) {
  if (std::memcmp(page.magic, kMagic, sizeof kMagic) != 0) throw refuse(path, "not the control file of a kvatlas table");
  if (page.version != kFormatVersion)
    throw refuse(path, "expected format version " + std::to_string(kFormatVersion) + ", got " + std::to_string(page.version));
}

void check_owner(int fd, const std::string& path) {
  struct stat info {};
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) throw refuse(path, "expected a regular file");
  if (info.st_uid != geteuid())
    throw refuse(path, "expected a file of user " + std::to_string(geteuid()) + ", it belongs to user " + std::to_string(info.st_uid));
}

}  // namespace

uint64_t boottime_ns() {
  timespec now{};
  clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000000000ull + static_cast<uint64_t>(now.tv_nsec);
}

Control::Control(const std::string& path) : path_(path) {
  fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (fd_ < 0) throw refuse(path, std::string("cannot open the control file: ") + std::strerror(errno));
  try {
    check_owner(fd_, path);
    if (flock(fd_, LOCK_EX | LOCK_NB) != 0) throw refuse(path, "another live process writes this table");
    struct stat info {};
    fstat(fd_, &info);
    const bool fresh = info.st_size == 0;
    if (!fresh && static_cast<size_t>(info.st_size) < kPageBytes) throw refuse(path, "expected a control file of 4096 bytes, got " + std::to_string(info.st_size));
    if (const int code = fresh ? posix_fallocate(fd_, 0, kPageBytes) : 0; code != 0) {
      ::unlink(path.c_str());
      throw refuse(path, std::string("no room for the control file: ") + std::strerror(code));
    }
    void* at = mmap(nullptr, kPageBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
    if (at == MAP_FAILED) throw refuse(path, std::string("cannot map the control file: ") + std::strerror(errno));
    page_ = static_cast<ControlPage*>(at);
    if (!fresh) {
      check_page(*page_, path);
      first_generation_ = page_->generation + 1;
      remove_leftovers();
    }
  } catch (...) {
    if (page_ != nullptr) munmap(page_, kPageBytes);
    ::close(fd_);
    throw;
  }
  if (getrandom(&incarnation_, sizeof incarnation_, 0) != sizeof incarnation_) incarnation_ = boottime_ns();
  page_->version = kFormatVersion;
  store(page_->incarnation, incarnation_);
  heartbeat();
  store(page_->closed, 0);
  std::memcpy(page_->magic, kMagic, sizeof kMagic);
}

Control::~Control() {
  close();
  if (page_ != nullptr) munmap(page_, kPageBytes);
  if (fd_ >= 0) ::close(fd_);
}

void Control::remove_leftovers() const {
  namespace fs = std::filesystem;
  const fs::path control(path_);
  const std::string prefix = control.filename().string() + ".";
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(control.has_parent_path() ? control.parent_path() : ".", ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.size() > prefix.size() && name.starts_with(prefix) &&
        name.find_first_not_of("0123456789", prefix.size()) == std::string::npos)
      ::unlink(entry.path().c_str());
  }
}

void Control::publish(uint64_t generation) { store(page_->generation, generation); }
void Control::heartbeat() { store(page_->heartbeat_ns, boottime_ns()); }

void Control::close() {
  if (Generation::load(&page_->closed) != 0) return;
  store(page_->closed, 1);
  remove_leftovers();
  ::unlink(path_.c_str());
}

ControlReader::ControlReader(const std::string& path) {
  const Region opened = Region::open(path, kPageBytes);  // checks owner and size
  const int fd = ::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) throw refuse(path, std::string("cannot open the control file: ") + std::strerror(errno));
  void* at = mmap(nullptr, kPageBytes, PROT_READ, MAP_SHARED, fd, 0);
  ::close(fd);
  if (at == MAP_FAILED) throw refuse(path, std::string("cannot map the control file: ") + std::strerror(errno));
  page_ = static_cast<const ControlPage*>(at);
  try {
    check_page(*page_, path);
  } catch (...) {
    munmap(const_cast<ControlPage*>(page_), kPageBytes);
    throw;
  }
}

ControlReader::~ControlReader() {
  if (page_ != nullptr) munmap(const_cast<ControlPage*>(page_), kPageBytes);
}

ControlReader::State ControlReader::state() const {
  const uint64_t beat = Generation::load(&page_->heartbeat_ns);
  const uint64_t now = boottime_ns();
  return {Generation::load(&page_->incarnation), Generation::load(&page_->generation), now > beat ? now - beat : 0,
          Generation::load(&page_->closed) != 0};
}

}  // namespace kvatlas
