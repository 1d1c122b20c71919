#include "offload/native/event_descriptor.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>

#include "index/native/error.hpp"

namespace kvatlas {

EventDescriptor::EventDescriptor() : fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  if (fd_ < 0) throw Error(ErrorKind::store, std::string("expected an event descriptor, got ") + std::strerror(errno));
}

EventDescriptor::~EventDescriptor() { close(fd_); }

void EventDescriptor::signal() const {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = write(fd_, &one, sizeof one);  // refused only when it is signalled already
}

void EventDescriptor::clear() const {
  uint64_t count = 0;
  [[maybe_unused]] const ssize_t n = read(fd_, &count, sizeof count);
}

}  // namespace kvatlas
