#include "index/native/remote_loads.hpp"

namespace kvatlas {

bool RemoteLoads::set(uint64_t router, std::span<const SlotSums> told, bool whole) {
  if (by_router_.size() >= kRoutersMax && !by_router_.contains(router)) return false;
  if (whole) drop(router);
  std::unordered_map<uint32_t, Sums>& of_router = by_router_[router];
  for (const SlotSums& one : told) put(of_router, one);
  return true;
}

void RemoteLoads::put(std::unordered_map<uint32_t, Sums>& of_router, const SlotSums& told) {
  if (told.slot >= totals_.size()) totals_.resize(told.slot + 1);
  Sums& total = totals_[told.slot];
  if (const auto before = of_router.find(told.slot); before != of_router.end()) {
    total.add(before->second, -1);
    of_router.erase(before);
  }
  if (told.sums.is_zero()) return;
  of_router.emplace(told.slot, told.sums);
  total.add(told.sums, 1);
}

void RemoteLoads::drop(uint64_t router) {
  const auto gone = by_router_.find(router);
  if (gone == by_router_.end()) return;
  for (const auto& [slot, sums] : gone->second) totals_[slot].add(sums, -1);
  by_router_.erase(gone);
}

void RemoteLoads::forget(uint32_t slot) {
  if (slot >= totals_.size()) return;
  for (auto& [router, of_router] : by_router_) of_router.erase(slot);
  totals_[slot] = {};
}

}  // namespace kvatlas
