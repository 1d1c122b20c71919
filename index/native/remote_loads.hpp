// What other routers have sent to each worker: sums that they tell, replaced as they tell new ones.
//
// Invariant: `of(slot)` is the sum of what the routers last told of it. Whole numbers, so no sum drifts.
//
// Thread safety: none; the book's lock.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

namespace kvatlas {

// Work of one worker, in tokens and requests.
struct Sums {
  int64_t prefill = 0, decode = 0, requests = 0;

  void add(const Sums& other, int64_t sign) {
    prefill += sign * other.prefill;
    decode += sign * other.decode;
    requests += sign * other.requests;
  }
  bool is_zero() const { return prefill == 0 && decode == 0 && requests == 0; }
  bool operator==(const Sums&) const = default;
};

struct SlotSums {
  uint32_t slot;
  Sums sums;
};

class RemoteLoads {
 public:
  static constexpr size_t kRoutersMax = 1024;

  // Replaces what a router has told of these slots; `whole`: of all slots, the others become nothing.
  // False, and nothing done: it is one router too many.
  bool set(uint64_t router, std::span<const SlotSums> told, bool whole);
  void drop(uint64_t router);
  void forget(uint32_t slot);

  const Sums& of(uint32_t slot) const { return slot < totals_.size() ? totals_[slot] : kNothing; }
  size_t routers() const { return by_router_.size(); }

 private:
  static constexpr Sums kNothing{};
  void put(std::unordered_map<uint32_t, Sums>& of_router, const SlotSums& told);

  std::unordered_map<uint64_t, std::unordered_map<uint32_t, Sums>> by_router_;
  std::vector<Sums> totals_;  // by slot
};

}  // namespace kvatlas
