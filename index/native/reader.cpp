#include "index/native/reader.hpp"

#include "index/native/error.hpp"

namespace kvatlas {

TableReader::TableReader(const std::string& path, uint64_t age_ms_max)
    : path_(path), age_ms_max_(age_ms_max), control_(std::make_unique<ControlReader>(path)) {
  attach(checked_state());
}

ControlReader::State TableReader::checked_state() const {
  const ControlReader::State state = control_->state();
  if (state.closed) throw Error(ErrorKind::stale, path_ + ": its writer closed it");
  if (state.age_ns / 1000000 > age_ms_max_)
    throw Error(ErrorKind::stale, path_ + ": the writer's last heartbeat is " + std::to_string(state.age_ns / 1000000) +
                                      " ms old, at most " + std::to_string(age_ms_max_) + " are allowed");
  return state;
}

void TableReader::attach(ControlReader::State state) {
  constexpr int kTries = 8;  // the generation may be superseded between the two looks
  for (int i = 1;; ++i) {
    if (state.generation == 0) throw Error(ErrorKind::stale, path_ + ": its writer has not published anything yet");
    try {
      generation_ = std::make_shared<const Generation>(
          Generation::open(path_ + "." + std::to_string(state.generation), state.incarnation, state.generation));
      return;
    } catch (const Error&) {
      const ControlReader::State again = checked_state();
      if (i == kTries || (again.generation == state.generation && again.incarnation == state.incarnation)) throw;
      state = again;
    }
  }
}

std::shared_ptr<const Generation> TableReader::pin() {
  std::lock_guard guard(mutex_);
  const ControlReader::State state = checked_state();
  const GenerationHeader& held = generation_->header();
  if (state.generation != held.generation || state.incarnation != held.incarnation) attach(state);
  return generation_;
}

bool TableReader::whole() const {
  const ControlReader::State state = control_->state();
  return state.whole && !state.closed && state.age_ns / 1000000 <= age_ms_max_;
}

uint64_t TableReader::incarnation() const { return control_->state().incarnation; }

uint64_t TableReader::age_ms() const { return control_->state().age_ns / 1000000; }

}  // namespace kvatlas
