// A lock that is had in the order of asking, roughly: who gives it back and asks again at once goes
// behind those who wait. So a long piece of work can let others in between its steps.
//
// Thread safety: as a mutex.
#pragma once

#include <mutex>

namespace kvatlas {

class Turns {
 public:
  void lock() {
    next_.lock();  // held while waiting: the next one who asks waits here
    now_.lock();
    next_.unlock();
  }
  bool try_lock() {
    if (!next_.try_lock()) return false;
    const bool had = now_.try_lock();
    next_.unlock();
    return had;
  }
  void unlock() { now_.unlock(); }

 private:
  std::mutex next_, now_;
};

}  // namespace kvatlas
