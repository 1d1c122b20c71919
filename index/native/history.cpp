#include "index/native/history.hpp"

#include <algorithm>
#include <cmath>
#include <string>

#include "index/native/error.hpp"

namespace kvatlas {
namespace {

void check_slot(uint32_t slot) {
  if (slot >= History::kSlotsMax) throw Error(ErrorKind::input, "slot: expected a number below 65536, got " + std::to_string(slot));
}

void check_now(double now_s) {
  if (!std::isfinite(now_s)) throw Error(ErrorKind::input, "now_s: expected a finite number of seconds, got " + std::to_string(now_s));
}

// How many of the n keys two chains share, given that they share the first one.
size_t shared(const uint64_t* a, const uint64_t* b, size_t n) {
  if (a[n - 1] == b[n - 1]) return n;
  size_t same = 0, other = n - 1;
  while (other - same > 1) {
    const size_t middle = same + (other - same) / 2;
    (a[middle] == b[middle] ? same : other) = middle;
  }
  return same + 1;
}

}  // namespace

uint64_t History::note(uint32_t slot, const uint64_t* keys, size_t n, double now_s, double until_s) {
  check_slot(slot);
  check_now(now_s);
  if (std::isnan(until_s)) throw Error(ErrorKind::input, "until_s: expected seconds, got nan");
  std::lock_guard guard(mutex_);
  Slot& own = slot_of(slot);
  expire(own, now_s);
  swept_ = (swept_ + 1) % slots_.size();
  expire(slots_[swept_], now_s);
  n = std::min({n, static_cast<size_t>(blocks_max_), static_cast<size_t>(own.limit)});
  if (n == 0 || until_s <= now_s) return 0;
  const uint64_t number = ++counts_.notes;
  latest_s_ = std::max(latest_s_, until_s);
  if (!make_path(keys, n)) ++counts_.refused_notes;
  // Parents first, for they count their children; then each one newer than its children.
  for (const Step& step : path_) claim(step.node, slot, until_s, number);
  for (size_t i = path_.size(); i-- > 0;) {
    const uint32_t own_claim = held(path_[i].node, slot)->claim;
    unlink(own_claim);
    link_newest(own_claim);
    claims_[own_claim].last = number;
  }
  if (own.blocks > own.limit) evict(own, own.blocks - own.limit);
  if (counts_.blocks > blocks_max_) evict_oldest();
  return number;
}

bool History::hints(const uint64_t* keys, size_t n, const uint32_t* slots, size_t n_slots, double now_s, float scale, std::vector<float>& out) {
  check_now(now_s);
  std::lock_guard guard(mutex_);
  if (counts_.claims == 0 || latest_s_ <= now_s) return false;
  walk(keys, n, path_);
  if (path_.empty()) return false;
  depths_.resize(slots_.size());
  size_t depth = 0;
  for (const Step& step : path_) {
    depth += step.blocks;
    for (const Held& each : nodes_[step.node].held)
      if (each.until_s > now_s) depths_[each.slot] = static_cast<float>(depth) * scale;
  }
  out.resize(n_slots);
  bool any = false;
  for (size_t i = 0; i < n_slots; ++i) {
    out[i] = slots[i] < depths_.size() ? depths_[slots[i]] : 0;
    any |= out[i] > 0;
  }
  for (const Held& each : nodes_[path_[0].node].held) depths_[each.slot] = 0;  // invariant 1: no others
  return any;
}

void History::drop(uint32_t slot, const uint64_t* keys, size_t n, uint64_t note) {
  check_slot(slot);
  std::lock_guard guard(mutex_);
  walk(keys, n, path_);
  for (size_t i = path_.size(); i-- > 0;) {
    const Step step = path_[i];
    const Held* own = held(step.node, slot);
    if (own == nullptr || step.blocks < nodes_[step.node].keys.size()) continue;
    if (claims_[own->claim].first != note || claims_[own->claim].last != note || own->n_children > 0) break;
    counts_.dropped_blocks += nodes_[step.node].keys.size();
    end_claim(own->claim);
  }
}

void History::set_limit(uint32_t slot, uint64_t blocks) {
  check_slot(slot);
  std::lock_guard guard(mutex_);
  Slot& own = slot_of(slot);
  own.limit = blocks;
  if (own.blocks > blocks) evict(own, own.blocks - blocks);
}

void History::forget(uint32_t slot) {
  check_slot(slot);
  std::lock_guard guard(mutex_);
  if (slot >= slots_.size()) return;
  counts_.dropped_blocks += slots_[slot].blocks;
  while (slots_[slot].oldest != kNone) end_claim(slots_[slot].oldest);
  slots_[slot].limit = ~uint64_t{0};
}

HistoryStatistics History::statistics() const {
  std::lock_guard guard(mutex_);
  HistoryStatistics out = counts_;
  out.blocks_max = blocks_max_;
  out.nodes = nodes_.size() - free_nodes_.size();
  return out;
}

// The nodes that the chain runs through; of the last one perhaps only the front.
void History::walk(const uint64_t* keys, size_t n, std::vector<Step>& path) const {
  path.clear();
  uint32_t parent = kNone;
  for (size_t at = 0; at < n;) {
    const auto found = node_of_first_.find(keys[at]);
    if (found == node_of_first_.end() || nodes_[found->second].parent != parent) return;
    const Node& node = nodes_[found->second];
    const size_t blocks = shared(keys + at, node.keys.data(), std::min(n - at, node.keys.size()));
    path.push_back({found->second, blocks});
    if (blocks < node.keys.size()) return;
    at += blocks;
    parent = found->second;
  }
}

// `path_` becomes nodes that are the chain's from end to end, as far as there can be such: false where its keys
// are no chain.
bool History::make_path(const uint64_t* keys, size_t n) {
  walk(keys, n, path_);
  size_t known = 0;
  for (const Step& step : path_) known += step.blocks;
  if (!path_.empty() && path_.back().blocks < nodes_[path_.back().node].keys.size()) {
    path_.back().node = split(path_.back().node, path_.back().blocks);
    if (path_.back().node == kNone) {
      path_.pop_back();
      return false;
    }
  }
  if (known == n) return true;
  if (node_of_first_.count(keys[known]) != 0) return false;
  path_.push_back({new_node(keys + known, n - known, path_.empty() ? kNone : path_.back().node), n - known});
  return true;
}

History::Held* History::held(uint32_t node, uint32_t slot) {
  for (Held& each : nodes_[node].held)
    if (each.slot == slot) return &each;
  return nullptr;
}

History::Slot& History::slot_of(uint32_t slot) {
  if (slot >= slots_.size()) slots_.resize(slot + 1);
  return slots_[slot];
}

uint32_t History::new_node(const uint64_t* keys, size_t n, uint32_t parent) {
  uint32_t number = static_cast<uint32_t>(nodes_.size());
  if (free_nodes_.empty()) {
    nodes_.emplace_back();
  } else {
    number = free_nodes_.back();
    free_nodes_.pop_back();
  }
  nodes_[number].keys.assign(keys, keys + n);
  nodes_[number].parent = parent;
  node_of_first_.emplace(keys[0], number);
  return number;
}

uint32_t History::new_claim(uint32_t node, uint32_t slot) {
  uint32_t number = static_cast<uint32_t>(claims_.size());
  if (free_claims_.empty()) {
    claims_.emplace_back();
  } else {
    number = free_claims_.back();
    free_claims_.pop_back();
  }
  claims_[number] = {.node = node, .slot = slot};
  ++counts_.claims;
  return number;
}

}  // namespace kvatlas
