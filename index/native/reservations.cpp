#include "index/native/reservations.hpp"

#include <utility>

namespace kvatlas {

uint32_t Reservations::find(std::string_view request_id) const {
  const auto found = by_id_.find(request_id);
  return found == by_id_.end() ? kNone : found->second;
}

uint32_t Reservations::add(Reservation reservation, Line& line) {
  uint32_t node;
  if (free_.empty()) {
    node = static_cast<uint32_t>(nodes_.size());
    nodes_.emplace_back();
    free_.reserve(nodes_.capacity());  // so that take() never allocates
  } else {
    node = free_.back();
    free_.pop_back();
  }
  by_id_.emplace(reservation.request_id, node);
  nodes_[node] = std::move(reservation);
  append(node, line);
  append_mention(node);
  return node;
}

void Reservations::mention(uint32_t node, double now_s) {
  nodes_[node].mentioned_s = now_s;
  if (node == newest_) return;
  unlink_mention(node);
  append_mention(node);
}

void Reservations::move(uint32_t node, Line& from, Line& to) {
  unlink(node, from);
  append(node, to);
}

Reservation Reservations::take(uint32_t node, Line& line) {
  unlink(node, line);
  unlink_mention(node);
  Reservation taken = std::exchange(nodes_[node], {});
  by_id_.erase(by_id_.find(taken.request_id));
  free_.push_back(node);
  return taken;
}

void Reservations::append(uint32_t node, Line& line) {
  nodes_[node].before = line.last;
  nodes_[node].after = kNone;
  (line.last == kNone ? line.first : nodes_[line.last].after) = node;
  line.last = node;
}

void Reservations::unlink(uint32_t node, Line& line) {
  const auto [before, after] = std::pair(nodes_[node].before, nodes_[node].after);
  (before == kNone ? line.first : nodes_[before].after) = after;
  (after == kNone ? line.last : nodes_[after].before) = before;
}

void Reservations::append_mention(uint32_t node) {
  nodes_[node].older = newest_;
  nodes_[node].newer = kNone;
  (newest_ == kNone ? oldest_ : nodes_[newest_].newer) = node;
  newest_ = node;
}

void Reservations::unlink_mention(uint32_t node) {
  const auto [older, newer] = std::pair(nodes_[node].older, nodes_[node].newer);
  (older == kNone ? oldest_ : nodes_[older].newer) = newer;
  (newer == kNone ? newest_ : nodes_[newer].older) = older;
}

}  // namespace kvatlas
