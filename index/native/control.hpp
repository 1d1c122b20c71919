// The control file of a shared-memory table: one page that says which generation is live.
//
// A path has one writer at a time (a file lock held for its life). A writer that starts on the
// path of a dead one takes the page over under a new incarnation and removes what was left; so does
// remove_dead_tables for those that nobody will start again.
//
// Thread safety: Control by the table's writer (publish and heartbeat may race with readers);
// ControlReader and remove_dead_tables by any.
#pragma once

#include <cstdint>
#include <string>

namespace kvatlas {

inline constexpr uint64_t kControlBytes = 4096;

struct ControlPage {
  char magic[8];  // "kvatlas\0"
  uint32_t version;
  uint32_t zero;
  uint64_t incarnation;   // atomic; random, new with every writer
  uint64_t generation;    // atomic; 0: none yet
  uint64_t heartbeat_ns;  // atomic; CLOCK_BOOTTIME
  uint64_t closed;        // atomic; 1: the writer closed it
  uint64_t whole;         // atomic; 1: the writer says that nothing is missing in it
};

uint64_t boottime_ns();

// The lock of a control file, made where it is missing. While it is held, the path names this file
// and nobody else writes or removes the table.
class ControlLock {
 public:
  // Waits 0.3 s at most for whoever looks for dead tables. Throws Error{table_file}: cannot be opened,
  // another user's, or another live process has it.
  explicit ControlLock(const std::string& path);
  ControlLock(const ControlLock&) = delete;
  ~ControlLock();

  int fd() const { return fd_; }
  uint64_t bytes() const;  // of the file; 0: it is new

 private:
  enum class Attempt { locked, held, removed };  // removed: between being opened and being locked
  Attempt try_lock(const std::string& path);

  int fd_ = -1;
};

// Removes what writers left that are gone without having closed their tables: files in `folder`
// whose names start with `prefix`, of this user, whose lock can be taken. Readers that are still
// attached find the table closed. Returns the number of tables.
// Throws Error{input} for an empty prefix or one with a slash, Error{table_file} when the folder
// cannot be read.
uint64_t remove_dead_tables(const std::string& folder, const std::string& prefix);

class Control {
 public:
  // Throws Error{table_file}: no room, a foreign file, or another live writer; Error{input} for a
  // name that could be a generation's.
  explicit Control(const std::string& path);
  Control(const Control&) = delete;
  ~Control();

  const std::string& path() const { return path_; }
  uint64_t incarnation() const { return incarnation_; }
  uint64_t first_generation() const { return first_generation_; }
  std::string generation_path(uint64_t generation) const { return path_ + "." + std::to_string(generation); }

  void publish(uint64_t generation);  // readers attach to it from now on
  void heartbeat();
  void set_whole(bool whole);
  void close();

 private:
  std::string path_;
  ControlLock lock_;
  ControlPage* page_ = nullptr;
  uint64_t incarnation_ = 0;
  uint64_t first_generation_ = 1;
};

class ControlReader {
 public:
  explicit ControlReader(const std::string& path);
  ControlReader(const ControlReader&) = delete;
  ~ControlReader();

  struct State {
    uint64_t incarnation, generation;
    uint64_t age_ns;  // since the last heartbeat
    bool closed, whole;
  };
  State state() const;

 private:
  const ControlPage* page_ = nullptr;
};

}  // namespace kvatlas
