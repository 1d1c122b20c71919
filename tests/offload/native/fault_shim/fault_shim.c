// Preloaded into a process: makes system calls on chunk files fail, move less, or wait.
//
//   FAULT_<CALL>=<errno>[*<times>]   open, pwritev, preadv, rename, unlink, close of this number of times (always, without)
//   FAULT_MOST=<bytes>               pwritev and preadv move at most so many
//   FAULT_GATE=<path>                the calls named in FAULT_GATED (commas) wait while this file is there;
//                                    <path>.<call> is made when one waits
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum { kOpen, kWrite, kRead, kRename, kUnlink, kClose, kCalls };
static const char* const kNames[kCalls] = {"OPEN", "PWRITEV", "PREADV", "RENAME", "UNLINK", "CLOSE"};
static atomic_int seen[kCalls];
static __thread int chunk_fd = -1;  // the chunk file that this thread opened last

static void* real(const char* name) { return dlsym(RTLD_NEXT, name); }

static void wait_at_gate(int call) {
  const char* gate = getenv("FAULT_GATE");
  const char* gated = getenv("FAULT_GATED");
  if (gate == NULL || gated == NULL || strstr(gated, kNames[call]) == NULL || access(gate, F_OK) != 0) return;
  char here[4096];
  snprintf(here, sizeof here, "%s.%s", gate, kNames[call]);
  int (*open_)(const char*, int, ...) = (int (*)(const char*, int, ...))real("open");
  int (*close_)(int) = (int (*)(int))real("close");
  close_(open_(here, O_CREAT | O_WRONLY, 0600));
  while (access(gate, F_OK) == 0) usleep(1000);
}

// 0, or the errno that this call is to fail with.
static int fault(int call) {
  char name[32];
  wait_at_gate(call);
  snprintf(name, sizeof name, "FAULT_%s", kNames[call]);
  const char* set = getenv(name);
  if (set == NULL) return 0;
  const char* times = strchr(set, '*');
  if (times != NULL && atomic_fetch_add(&seen[call], 1) >= atoi(times + 1)) return 0;
  return atoi(set);
}

static int is_chunk(const char* path) { return strstr(path, ".kv") != NULL; }

int open(const char* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  const int mode = va_arg(rest, int);
  va_end(rest);
  int (*call)(const char*, int, ...) = (int (*)(const char*, int, ...))real("open");
  if (!is_chunk(path)) return call(path, flags, mode);
  const int error = fault(kOpen);
  if (error != 0) return errno = error, -1;
  return chunk_fd = call(path, flags, mode);
}

static int cut(const struct iovec* from, int n, struct iovec* to) {
  const char* most = getenv("FAULT_MOST");
  size_t left = most == NULL ? (size_t)-1 : (size_t)atol(most);
  for (int i = 0; i < n; ++i) {
    to[i] = from[i];
    if (to[i].iov_len > left) to[i].iov_len = left;
    left -= to[i].iov_len;
  }
  return n;
}

ssize_t pwritev(int fd, const struct iovec* parts, int n, off_t at) {
  const int error = fault(kWrite);
  if (error != 0) return errno = error, -1;
  struct iovec some[8];
  return ((ssize_t(*)(int, const struct iovec*, int, off_t))real("pwritev"))(fd, some, cut(parts, n, some), at);
}

ssize_t preadv(int fd, const struct iovec* parts, int n, off_t at) {
  const int error = fault(kRead);
  if (error != 0) return errno = error, -1;
  struct iovec some[8];
  return ((ssize_t(*)(int, const struct iovec*, int, off_t))real("preadv"))(fd, some, cut(parts, n, some), at);
}

int rename(const char* from, const char* to) {
  const int error = is_chunk(to) ? fault(kRename) : 0;
  if (error != 0) return errno = error, -1;
  return ((int (*)(const char*, const char*))real("rename"))(from, to);
}

int unlink(const char* path) {
  const int error = is_chunk(path) ? fault(kUnlink) : 0;
  if (error != 0) return errno = error, -1;
  return ((int (*)(const char*))real("unlink"))(path);
}

int close(int fd) {
  int (*call)(int) = (int (*)(int))real("close");
  if (fd < 0 || fd != chunk_fd) return call(fd);
  chunk_fd = -1;
  const int error = fault(kClose);
  call(fd);
  if (error != 0) return errno = error, -1;
  return 0;
}
