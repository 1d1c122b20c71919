// An eventfd: readable from `signal` until `clear`.
//
// Thread safety: any thread, any method.
#pragma once

namespace kvatlas {

class EventDescriptor {
 public:
  EventDescriptor();  // throws Error{store}: no descriptor
  ~EventDescriptor();
  EventDescriptor(const EventDescriptor&) = delete;

  void signal() const;
  void clear() const;
  int fd() const { return fd_; }

 private:
  int fd_;
};

}  // namespace kvatlas
