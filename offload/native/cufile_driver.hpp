// The part of cuFile (GPUDirect Storage) that direct files need, loaded when it is first asked for.
//
// The declarations are our own. Source: the cuFile API reference, 1.7 and later.
//
// Thread safety: immutable once loaded; cuFile's calls may be made from any thread.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <memory>
#include <string>

namespace kvatlas::cufile {

struct Status {
  int error;  // 0: success; cuFile's own numbers begin at 5000
  int cuda_error;
};
using Handle = void*;
struct Description {
  int type;  // 1: a Linux file descriptor
  union {
    int descriptor;
    void* handle;
  };
  const void* operations;
};
constexpr int kLinuxDescriptor = 1;

class Library {
 public:
  // Loads `path`, or libcufile.so.0 where it is empty, and opens its driver. One for each path and process, never
  // unloaded. Throws Error{store}.
  static std::shared_ptr<const Library> load(const std::string& path);

  Status (*register_file)(Handle*, Description*) = nullptr;
  void (*deregister_file)(Handle) = nullptr;
  Status (*register_buffer)(const void*, size_t, int) = nullptr;
  Status (*deregister_buffer)(const void*) = nullptr;
  // Bytes, or -1 with errno, or less than -1: cuFile's number, negative.
  ssize_t (*read)(Handle, void*, size_t, off_t, off_t) = nullptr;
  ssize_t (*write)(Handle, const void*, size_t, off_t, off_t) = nullptr;
};

}  // namespace kvatlas::cufile
