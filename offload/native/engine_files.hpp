// The files of one folder, as an engine opens, makes and removes them. Every method that returns an int returns 0 or an errno.
//
// A file is written beside its name and renamed: whoever opens the name finds all of it or nothing. Why rename, and not
// link: it is one operation, every file system has it, and it takes the place of a file of the wrong size. When two write one name at
// once the last stays; both wrote the same bytes, and who has opened the first keeps it.
//
// O_DIRECT is used until the file system refuses it once, for all files from then on: no page cache is filled with what is
// cached above already.
//
// Thread safety: any thread, any method.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <string>

#include "offload/native/chunk_names.hpp"
#include "offload/native/engine_counts.hpp"

namespace kvatlas {

struct FileOptions {
  uint8_t writer[kWriterBytes] = {};
  size_t key_bytes = 0;
  uint64_t file_bytes = 0;  // of every chunk file here
  bool direct = true;
  bool sync = false;        // data reach the disk before the name does
};

struct OpenFile {
  int fd = -1;
  dev_t device = 0;
  ino_t inode = 0;
  std::string path;        // the chunk's name
  std::string temporary;   // of a file that is being written
};

class ChunkFiles {
 public:
  // Throws Error{input}: as ChunkNames.
  ChunkFiles(const std::string& folder, const FileOptions& options);
  ChunkFiles(const ChunkFiles&) = delete;

  // `is_whole`: a regular file of the right size. On an error nothing is open.
  int open(const uint8_t* key, OpenFile& file, bool& is_whole);
  // Whether it is there with the right size. Notes its path.
  int look(const uint8_t* key, OpenFile& file, bool& is_there) const;
  int create(const uint8_t* key, OpenFile& file);
  // Closes a file that has been written and gives it its name. On an error it is as after `discard`.
  int publish(OpenFile& file);
  // Closes, and removes what was being written.
  void discard(OpenFile& file);
  int remove(const uint8_t* key, OpenFile& file) const;
  // Removes the name of an open file, if it still is that file's.
  void remove_corrupt(const OpenFile& file);
  // After EINVAL: goes on without O_DIRECT. False: it was not used.
  bool leave_direct(const OpenFile& file);

  bool is_direct() const { return direct_.load(std::memory_order_relaxed); }
  void fill(EngineStatistics& out) const;

 private:
  int open_at(const std::string& path, int flags, int& fd);
  void refuse_direct();
  int make_folder(const uint8_t* key) const;

  const ChunkNames names_;
  const FileOptions options_;
  std::atomic<bool> direct_;
  std::atomic<uint64_t> next_temporary_;
  std::atomic<uint64_t> direct_refusals_{0}, open_file_limits_{0}, removed_corrupt_{0}, temporary_left_{0};
};

}  // namespace kvatlas
