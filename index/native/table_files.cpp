// Files of tables whose writers are gone.
#include "index/native/table_files.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>
#include <filesystem>
#include <set>
#include <string>
#include <system_error>

#include "index/native/control.hpp"
#include "index/native/error.hpp"
#include "index/native/generation.hpp"

namespace kvatlas {
namespace fs = std::filesystem;
namespace {

// Calls use(name) for each file; whether the folder could be read to its end.
template <class Use>
std::error_code for_each_name(const fs::path& folder, const Use& use) {
  std::error_code code;
  for (fs::directory_iterator at(folder, code), end; !code && at != end; at.increment(code)) use(at->path().filename().string());
  return code;
}

// Whether a file begins as ours do, or had not been begun: control pages and generations alike.
template <class Header>
bool begins(int fd, Header& header) {
  header = {};
  const ssize_t n = ::pread(fd, &header, sizeof header, 0);
  return n == 0 || (n == sizeof header && (header.magic[0] == 0 || std::memcmp(header.magic, "kvatlas", sizeof header.magic) == 0));
}

bool is_generation(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) return false;
  struct stat info {};
  GenerationHeader header;
  const bool is = fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_uid == geteuid() && begins(fd, header);
  ::close(fd);
  return is;
}

bool is_control(const ControlLock& lock) {
  ControlPage page;
  return begins(lock.fd(), page) && (lock.bytes() == 0 || lock.bytes() == kControlBytes) && page.zero == 0;
}

// Where the lock cannot be had: a table in use, another user's, or no table.
bool remove_dead(const std::string& path) {
  try {
    const ControlLock lock(path);
    if (!is_control(lock)) return false;
    if (lock.bytes() > 0) {  // who is still attached finds it closed
      const uint64_t closed = 1;
      static_cast<void>(!::pwrite(lock.fd(), &closed, sizeof closed, offsetof(ControlPage, closed)));
    }
    remove_generations(path);
    return ::unlink(path.c_str()) == 0;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace

void remove_generations(const std::string& control_path) {
  const fs::path control(control_path);
  const fs::path folder = control.has_parent_path() ? control.parent_path() : ".";
  const std::string base = control.filename().string();
  for_each_name(folder, [&](const std::string& name) {
    const std::string path = (folder / name).string();
    if (base_of_generation(name) == base && is_generation(path)) ::unlink(path.c_str());
  });
}

uint64_t remove_dead_tables(const std::string& folder, const std::string& prefix) {
  if (prefix.empty() || prefix.find('/') != std::string::npos)
    throw Error(ErrorKind::input, "prefix: expected the beginning of a file's name, got '" + prefix + "'");
  std::set<std::string> names;  // of control files, also of those that are gone
  const std::error_code code = for_each_name(folder, [&](const std::string& name) {
    if (!name.starts_with(prefix)) return;
    const std::string base = base_of_generation(name);
    names.insert(base.empty() ? name : base);
  });
  if (code) throw Error(ErrorKind::table_file, folder + ": cannot look for tables: " + code.message());
  uint64_t n_removed = 0;
  for (const std::string& name : names) n_removed += remove_dead((fs::path(folder) / name).string());
  return n_removed;
}

}  // namespace kvatlas
