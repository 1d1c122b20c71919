// The control file of a shared-memory table: one page that says which generation is live.
//
// A path has one writer at a time (a file lock held for its life). A writer that starts on the
// path of a dead one takes the page over under a new incarnation and removes what was left.
//
// Thread safety: Control by the table's writer (publish and heartbeat may race with readers);
// ControlReader by any one thread.
#pragma once

#include <cstdint>
#include <string>

namespace kvatlas {

struct ControlPage {
  char magic[8];  // "kvatlas\0"
  uint32_t version;
  uint32_t zero;
  uint64_t incarnation;   // atomic; random, new with every writer
  uint64_t generation;    // atomic; 0: none yet
  uint64_t heartbeat_ns;  // atomic; CLOCK_BOOTTIME
  uint64_t closed;        // atomic; 1: the writer closed it
};

uint64_t boottime_ns();

class Control {
 public:
  // Throws Error{table_file}: no room, a foreign file, or another live writer.
  explicit Control(const std::string& path);
  Control(const Control&) = delete;
  ~Control();

  const std::string& path() const { return path_; }
  uint64_t incarnation() const { return incarnation_; }
  uint64_t first_generation() const { return first_generation_; }
  std::string generation_path(uint64_t generation) const { return path_ + "." + std::to_string(generation); }

  void publish(uint64_t generation);  // readers attach to it from now on
  void heartbeat();
  void close();

 private:
  void remove_leftovers() const;

  std::string path_;
  int fd_ = -1;
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
    bool closed;
  };
  State state() const;

 private:
  const ControlPage* page_ = nullptr;
};

}  // namespace kvatlas
