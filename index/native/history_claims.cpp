// How the claims of a History come, part and go; history.hpp has the invariants.
#include <algorithm>
#include <cassert>
#include <utility>

#include "index/native/history.hpp"

namespace kvatlas {

// What was the node stays its back, so that its children need not learn of it.
uint32_t History::split(uint32_t node, size_t at) {
  const std::vector<uint64_t> keys = std::move(nodes_[node].keys);
  const auto middle = keys.begin() + static_cast<ptrdiff_t>(at);
  if (!node_of_first_.emplace(*middle, node).second) {
    nodes_[node].keys = keys;
    return kNone;
  }
  node_of_first_.erase(keys[0]);
  const uint32_t front = new_node(keys.data(), at, nodes_[node].parent);
  nodes_[node].keys.assign(middle, keys.end());
  nodes_[node].parent = front;
  for (const Held& each : nodes_[node].held) {
    const uint32_t claim = new_claim(front, each.slot);
    claims_[claim].first = claims_[each.claim].first;
    claims_[claim].last = claims_[each.claim].last;
    nodes_[front].held.push_back({.slot = each.slot, .claim = claim, .n_children = 1, .until_s = each.until_s});
    link_after(claim, each.claim);
  }
  return front;
}

// REQUIRES: the slot has a claim on the node's parent.
void History::claim(uint32_t node, uint32_t slot, double until_s, uint64_t note) {
  if (Held* own = held(node, slot)) {
    own->until_s = std::max(own->until_s, until_s);
    return;
  }
  const uint32_t claim = new_claim(node, slot);
  claims_[claim].first = note;
  nodes_[node].held.push_back({.slot = slot, .claim = claim, .n_children = 0, .until_s = until_s});
  if (nodes_[node].parent != kNone) ++held(nodes_[node].parent, slot)->n_children;
  slots_[slot].blocks += nodes_[node].keys.size();
  counts_.blocks += nodes_[node].keys.size();
  link_newest(claim);
}

// REQUIRES: the slot has no claim on a child of the node.
void History::end_claim(uint32_t claim) {
  const auto [number, slot] = std::pair(claims_[claim].node, claims_[claim].slot);
  Node& node = nodes_[number];
  Held* own = held(number, slot);
  assert(own != nullptr && own->n_children == 0);
  *own = node.held.back();
  node.held.pop_back();
  if (node.parent != kNone) --held(node.parent, slot)->n_children;
  slots_[slot].blocks -= node.keys.size();
  counts_.blocks -= node.keys.size();
  --counts_.claims;
  unlink(claim);
  free_claims_.push_back(claim);
  if (!node.held.empty()) return;
  node_of_first_.erase(node.keys[0]);
  node = Node();
  free_nodes_.push_back(number);
}

void History::link_newest(uint32_t claim) {
  Slot& slot = slots_[claims_[claim].slot];
  claims_[claim].older = slot.newest;
  claims_[claim].newer = kNone;
  (slot.newest == kNone ? slot.oldest : claims_[slot.newest].newer) = claim;
  slot.newest = claim;
}

void History::link_after(uint32_t claim, uint32_t older) {
  const uint32_t newer = claims_[older].newer;
  claims_[claim].older = older;
  claims_[claim].newer = newer;
  claims_[older].newer = claim;
  (newer == kNone ? slots_[claims_[claim].slot].newest : claims_[newer].older) = claim;
}

void History::unlink(uint32_t claim) {
  const Claim& gone = claims_[claim];
  (gone.older == kNone ? slots_[gone.slot].oldest : claims_[gone.older].newer) = gone.newer;
  (gone.newer == kNone ? slots_[gone.slot].newest : claims_[gone.newer].older) = gone.older;
}

// The slot's oldest claims, and of the last of them only as much as must be.
void History::evict(Slot& slot, uint64_t blocks) {
  while (blocks > 0 && slot.oldest != kNone) {
    const uint32_t oldest = slot.oldest, node = claims_[oldest].node;
    if (nodes_[node].keys.size() > blocks) split(node, nodes_[node].keys.size() - blocks);
    const uint64_t gone = nodes_[node].keys.size();
    end_claim(oldest);
    counts_.evicted_blocks += gone;
    blocks -= std::min(blocks, gone);
  }
}

// Of all slots; somewhat more than must be, since finding the oldest looks at every slot.
void History::evict_oldest() {
  const uint64_t enough = blocks_max_ - blocks_max_ / 64;
  while (counts_.blocks > enough) {
    Slot* oldest = nullptr;
    for (Slot& slot : slots_)
      if (slot.oldest != kNone && (oldest == nullptr || claims_[slot.oldest].last < claims_[oldest->oldest].last)) oldest = &slot;
    const uint64_t length = nodes_[claims_[oldest->oldest].node].keys.size();
    evict(*oldest, std::min(length, counts_.blocks - enough));
  }
}

void History::expire(Slot& slot, double now_s) {
  for (int n = 0; n < kExpiredMost && slot.oldest != kNone; ++n) {
    const Claim& oldest = claims_[slot.oldest];
    if (held(oldest.node, oldest.slot)->until_s > now_s) return;
    counts_.expired_blocks += nodes_[oldest.node].keys.size();
    end_claim(slot.oldest);
  }
}

}  // namespace kvatlas
