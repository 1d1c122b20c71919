// The load book of one router: what has been sent to each worker and is not done, what other routers
// say that they have sent, and choices that are made and entered in one step.
//
// A reservation is one request's share of a worker's load:
//
//   prefill   prompt - credit when it was chosen, until its prefill is done
//   decode    prompt + the output expected of it (or produced, where that is more), from the choice until it ends
//   requests  1
//
// It ends by `completed`, `failed`, `forget` of its pod, or `expire` when nobody has mentioned it for long.
// Where nobody says that prefills are done, a request counts as prefill until it ends: loads are then too high
// for all workers alike.
//
// Of the reservation that is being prefilled, the oldest of its worker, a part is done already: as much as the
// worker's rate makes of the time since it came to the front. Choices see the rest. Sums told to other routers
// are whole.
//
// Slots. A worker, (pod, rank), has a small number. `forget` frees the numbers of a pod; a number is given
// to another worker only after kSlotsResting others have been freed, so candidates made before name nobody
// in the meantime: choices pass such rows over.
//
// Thread safety: any thread, any method; one mutex, held for microseconds, within which no Python is
// touched: callers may hold the GIL. Times are the caller's, in seconds of one monotonic clock.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "index/native/decision.hpp"
#include "index/native/rates.hpp"
#include "index/native/remote_loads.hpp"
#include "index/native/reservations.hpp"
#include "index/native/stretches.hpp"

namespace kvatlas {

// A reservation that has ended.
struct Ended {
  std::string request_id;
  uint32_t slot;
  int64_t prompt_tokens, prefill_tokens, cached_tokens;  // as reserved: cached is what was predicted
  double seconds;                        // from choice to end
  std::optional<double> prefill_seconds; // to the end of its prefill, where that was told
  bool is_by_index;                      // the prediction was the index's alone
};

struct BookStatistics {
  uint64_t reservations = 0, slots = 0, routers = 0;  // now
  uint64_t choices = 0, reserved = 0, saturated = 0;
  uint64_t unreserved_full = 0, unreserved_duplicates = 0;  // not reserved, because of the bound or the id
  uint64_t prefilled = 0, completed = 0, failed = 0, expired = 0, forgotten = 0;
  uint64_t learned_prefills = 0, learned_loads = 0;  // stretches that taught a rate
  uint64_t unknown = 0;         // mentions of requests that are not there
  uint64_t refused_routers = 0; // beyond RemoteLoads::kRoutersMax
};

class LoadBook {
 public:
  static constexpr uint32_t kSlotsMax = 1u << 16;
  static constexpr size_t kSlotsResting = 4096;

  explicit LoadBook(uint32_t reservations_max) : reservations_(reservations_max) {}
  LoadBook(const LoadBook&) = delete;

  // Throws Error{input} where kSlotsMax are in use.
  uint32_t slot(std::string_view pod, uint32_t rank);
  std::optional<std::pair<std::string, uint32_t>> name(uint32_t slot) const;
  // Ends the reservations of a pod and returns their ids.
  std::vector<std::string> forget(std::string_view pod);

  // `costs`: a policy's own [n_candidates], or empty: by terms. `request_id` empty: nothing is reserved.
  Decision choose(const Candidates& candidates, const Terms& terms, const Request& request, std::span<const double> costs,
                  std::string_view request_id);
  // As `choose` sees them. `matches` and `hints` of the request are left out.
  std::vector<PricedRow> look(const Candidates& candidates, double now_s) const;
  std::vector<double> accuracies(const Candidates& candidates) const;
  // [n_candidates, kLoadTiers] tokens/s, measured; 0: not known, infinity: loading takes no time of its own.
  std::vector<double> load_back_rates(const Candidates& candidates) const;

  // False: no room, the id is there already, or no such slot.
  bool reserve(Reservation reservation, double now_s);
  bool prefill_done(std::string_view request_id, double now_s);
  bool produced(std::string_view request_id, int64_t tokens, double now_s);
  // `cached_tokens`: what the engine says it has reused.
  std::optional<Ended> completed(std::string_view request_id, double now_s, std::optional<int64_t> cached_tokens);
  std::optional<Ended> failed(std::string_view request_id, double now_s);
  std::vector<std::string> expire(double now_s, double silence_s);

  // Own sums: those that changed since the last call, and all that are not zero.
  std::vector<SlotSums> changed();
  std::vector<SlotSums> own() const;
  void set_remote(uint64_t router, std::span<const SlotSums> told, bool whole);
  void drop_remote(uint64_t router);

  BookStatistics statistics() const;

 private:
  struct Slot {
    std::string pod;
    uint32_t rank = 0;
    bool is_live = false, has_changed = false;
    Sums own;
    Line prefilling, decoding;
    double front_since_s = 0;  // since when the first of `prefilling` is being prefilled
    WorkerRates rates;
    Accuracy accuracy;
    Stay stay;
    uint64_t turn = 0;  // when round robin came here last
  };

  Slot* live(uint32_t slot);
  const Slot* live(uint32_t slot) const;
  void read(const Candidates& candidates, double now_s, std::span<PricedRow> rows) const;
  double drained(const Slot& slot, const PricedRow& row, double told_seconds_per_token, double now_s) const;
  void give_credits(const Candidates& candidates, const Terms& terms, const Request& request, std::span<PricedRow> rows) const;
  static TierCosts tier_costs(const Terms& terms, const WorkerRates& rates, const PricedRow& row, double now_s);
  void set_costs(const Candidates& candidates, const Terms& terms, const Request& request, std::span<const double> costs,
                 bool in_seconds, std::span<PricedRow> rows) const;
  void saturate(const Candidates& candidates, const Terms& terms, std::span<PricedRow> rows) const;
  void price_turns(const Candidates& candidates, std::span<PricedRow> rows) const;
  double retry_after_s(const Candidates& candidates, const Terms& terms, std::span<const PricedRow> rows) const;
  void take(const Candidates& candidates, const Terms& terms, const Request& request, const PricedRow& row,
            std::string_view request_id, Decision& decision);
  bool enter(Reservation reservation, double now_s);
  void count(Slot& slot, uint32_t number, const Sums& sums, int64_t sign);
  void tell_prefilled(uint32_t node, double now_s);
  void leave_prefill(uint32_t node, double now_s);
  Ended end(uint32_t node, double now_s);

  mutable std::mutex mutex_;
  std::vector<Slot> slots_;
  std::map<std::pair<std::string, uint32_t>, uint32_t, std::less<>> slot_by_name_;
  std::deque<uint32_t> resting_;     // freed slots, first freed first
  std::vector<uint32_t> changed_;    // slots whose own sums changed
  Reservations reservations_;
  RemoteLoads remote_;
  uint64_t turns_ = 0;
  BookStatistics counted_;
};

}  // namespace kvatlas
