// Which lanes and stores make up a worker's cache, for matching.
//
// A worker holds a block when all its full-attention lanes hold it, or a store it is attached
// to does. Most workers have one lane and no store: those are matched lane by lane.
//
// Thread safety: any thread; readers get an immutable snapshot.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace kvatlas {

inline constexpr uint32_t kNoWorker = ~0u;

struct RosterView {
  struct Combined {  // a worker of several lanes, or with stores
    uint32_t worker;
    std::vector<uint32_t> lanes;
    std::vector<uint32_t> stores;
  };
  std::vector<uint32_t> worker_of_lane;  // of workers with one lane and no store; else kNoWorker
  std::vector<Combined> combined;
};

class Roster {
 public:
  Roster() : view_(std::make_shared<const RosterView>()) {}

  // Replaces what worker `worker` consists of; no lanes and no stores: removes it.
  void set(uint32_t worker, std::vector<uint32_t> lanes, std::vector<uint32_t> stores) {
    std::lock_guard guard(mutex_);
    auto next = std::make_shared<RosterView>(*view_);
    for (uint32_t& owner : next->worker_of_lane)
      if (owner == worker) owner = kNoWorker;
    std::erase_if(next->combined, [worker](const RosterView::Combined& c) { return c.worker == worker; });
    if (lanes.size() == 1 && stores.empty()) {
      if (lanes[0] >= next->worker_of_lane.size()) next->worker_of_lane.resize(lanes[0] + 1, kNoWorker);
      next->worker_of_lane[lanes[0]] = worker;
    } else if (!lanes.empty() || !stores.empty()) {
      next->combined.push_back({worker, std::move(lanes), std::move(stores)});
    }
    view_ = std::move(next);
  }

  std::shared_ptr<const RosterView> view() const {
    std::lock_guard guard(mutex_);
    return view_;
  }

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<const RosterView> view_;
};

}  // namespace kvatlas
