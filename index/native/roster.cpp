#include "index/native/roster.hpp"

#include <algorithm>

namespace kvatlas {
namespace {

std::vector<uint32_t> lanes_of(const Worker& worker) {
  std::vector<uint32_t> lanes = worker.stores;
  for (const Group& group : worker.groups)
    if (group.kind != GroupKind::uncached) lanes.push_back(group.lane);
  std::sort(lanes.begin(), lanes.end());
  lanes.erase(std::unique(lanes.begin(), lanes.end()), lanes.end());
  return lanes;
}

void index_plain(RosterView& view) {
  view.plain_of_lane.assign(view.n_lanes, kNoWorker);
  view.place_of_lane.assign(view.n_lanes, kNoWorker);
  view.rule_of_lane.resize(view.n_lanes);
  bool any = false;
  for (uint32_t place = 0; place < view.workers.size(); ++place) {
    const Worker& worker = *view.workers[place];
    if (!worker.is_plain()) continue;
    const Group& group = worker.groups[0];
    const PlainRule rule{group.block_size_tokens, worker.recomputes_last_block, worker.drops_matched_block || group.is_draft};
    view.plain_of_lane[group.lane] = worker.number;
    view.place_of_lane[group.lane] = place;
    view.rule_of_lane[group.lane] = rule;
    if (!any) view.rule = rule;
    view.one_rule &= rule == view.rule;
    any = true;
  }
}

void mark_wide(RosterView& view) {
  view.is_scattered.assign(view.n_lanes, 0);
  for (uint32_t place = 0; place < view.workers.size(); ++place) {
    const Worker& worker = *view.workers[place];
    if (worker.is_wide()) view.wide.push_back(place);
    if (worker.groups.size() > 1)
      for (const Group& group : worker.groups)
        if (group.kind != GroupKind::uncached) view.is_scattered[group.lane] = 1;
  }
}

// Counts, then sums, then places: the others by lane.
void index_others(RosterView& view) {
  mark_wide(view);
  view.first_other.assign(view.n_lanes + 1, 0);
  for (const auto& worker : view.workers)
    if (!worker->is_plain())
      for (uint32_t lane : lanes_of(*worker)) ++view.first_other[lane + 1];
  for (uint32_t lane = 0; lane < view.n_lanes; ++lane) view.first_other[lane + 1] += view.first_other[lane];
  view.others.resize(view.first_other[view.n_lanes]);
  std::vector<uint32_t> next(view.first_other.begin(), view.first_other.end() - 1);
  for (uint32_t place = 0; place < view.workers.size(); ++place)
    if (!view.workers[place]->is_plain())
      for (uint32_t lane : lanes_of(*view.workers[place])) view.others[next[lane]++] = place;
}

}  // namespace

bool Worker::has_full() const {
  return std::any_of(groups.begin(), groups.end(), [](const Group& g) { return g.kind == GroupKind::full; });
}

bool Worker::is_plain() const {
  return groups.size() == 1 && groups[0].kind == GroupKind::full && stores.empty() && chunk_blocks == 1;
}

bool Worker::is_wide() const {
  const bool even = std::all_of(groups.begin(), groups.end(), [this](const Group& g) { return g.block_size_tokens == groups[0].block_size_tokens; });
  return !groups.empty() && (!has_full() || chunk_blocks > 1 || !even);
}

void Roster::set(Worker worker) {
  std::lock_guard guard(mutex_);
  const uint32_t number = worker.number;
  if (worker.groups.empty() && worker.stores.empty()) workers_.erase(number);
  else workers_[number] = std::make_shared<const Worker>(std::move(worker));
  view_ = nullptr;
}

std::shared_ptr<const RosterView> Roster::view() const {
  std::lock_guard guard(mutex_);
  if (view_) return view_;
  auto view = std::make_shared<RosterView>();
  for (const auto& [number, worker] : workers_) {
    view->workers.push_back(worker);
    for (uint32_t lane : lanes_of(*worker)) view->n_lanes = std::max(view->n_lanes, lane + 1);
  }
  index_plain(*view);
  index_others(*view);
  view_ = std::move(view);
  return view_;
}

}  // namespace kvatlas
