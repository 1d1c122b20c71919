// A stand-in for libcufile.so over plain reads and writes: the fake GPU's memory is host memory. Tests set it up
// through fake_cufile_set.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <thread>

#define API extern "C" __attribute__((visibility("default")))

struct Status { int error, cuda_error; };
struct Description {
  int type;
  union {
    int descriptor;
    void* handle;
  };
  const void* operations;
};

// "most_bytes": of one call, 0 for no bound; "errno": of the next read or write; "is_hung"; "refuse_files".
static std::atomic<long> most_bytes, error_next, is_hung, refuse_files, files_alive, buffers_alive, waiting;

API void fake_cufile_set(const char* name, long value) {
  static const std::map<std::string, std::atomic<long>*> settings = {{"most_bytes", &most_bytes}, {"errno", &error_next}, {"is_hung", &is_hung}, {"refuse_files", &refuse_files}};
  *settings.at(name) = value;
}
// "files", "buffers": not given back; "waiting": calls that hang.
API long fake_cufile_alive(const char* name) {
  static const std::map<std::string, std::atomic<long>*> counts = {{"files", &files_alive}, {"buffers", &buffers_alive}, {"waiting", &waiting}};
  return *counts.at(name);
}

// Whether a call hangs within so many seconds.
API int fake_cufile_wait(int seconds) {
  for (int i = 0; i < seconds * 1000 && waiting == 0; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return waiting != 0;
}

API Status cuFileDriverOpen() { return {0, 0}; }
API Status cuFileHandleRegister(void** handle, Description* description) {
  if (description->type != 1 || refuse_files != 0) return {5027, 0};
  const int flags = fcntl(description->descriptor, F_GETFL) & O_ACCMODE;
  const int own = open(("/proc/self/fd/" + std::to_string(description->descriptor)).c_str(), flags);  // any alignment
  if (own < 0) return {5022, 0};
  *handle = new int(own);
  ++files_alive;
  return {0, 0};
}
API void cuFileHandleDeregister(void* handle) {
  close(*static_cast<int*>(handle));
  delete static_cast<int*>(handle);
  --files_alive;
}
API Status cuFileBufRegister(const void*, size_t, int) {
  ++buffers_alive;
  return {0, 0};
}
API Status cuFileBufDeregister(const void*) {
  --buffers_alive;
  return {0, 0};
}

static size_t before_a_call(size_t bytes) {
  ++waiting;
  while (is_hung != 0) std::this_thread::sleep_for(std::chrono::microseconds(200));
  --waiting;
  return most_bytes == 0 || bytes < static_cast<size_t>(most_bytes) ? bytes : static_cast<size_t>(most_bytes);
}
static bool fails() {
  errno = static_cast<int>(error_next.exchange(0));
  return errno != 0;
}
API ssize_t cuFileRead(void* handle, void* base, size_t bytes, off_t at, off_t inside) {
  const size_t n = before_a_call(bytes);
  return fails() ? -1 : pread(*static_cast<int*>(handle), static_cast<char*>(base) + inside, n, at);
}
API ssize_t cuFileWrite(void* handle, const void* base, size_t bytes, off_t at, off_t inside) {
  const size_t n = before_a_call(bytes);
  return fails() ? -1 : pwrite(*static_cast<int*>(handle), static_cast<const char*>(base) + inside, n, at);
}
