#include "index/native/loads.hpp"

#include <algorithm>

#include "index/native/error.hpp"

namespace kvatlas {
namespace {

Sums sums_of(const Reservation& r) { return {r.is_prefilling ? r.prefill_tokens : 0, r.decode_tokens, 1}; }

// Where it is not known what is loaded, all is taken for computed.
PrefillWork work_of(const Reservation& r) {
  PrefillWork work{.tokens = static_cast<double>(r.prefill_tokens), .computed = static_cast<double>(r.prefill_tokens), .loaded = {}, .is_sure = r.is_sure};
  if (!r.is_sure) return work;
  work.computed = static_cast<double>(r.computed_tokens);
  for (uint32_t tier = 0; tier < kLoadTiers; ++tier) work.loaded[tier] = static_cast<double>(r.loaded_tokens[tier]);
  return work;
}

}  // namespace

uint32_t LoadBook::slot(std::string_view pod, uint32_t rank) {
  std::lock_guard guard(mutex_);
  const std::pair name(std::string(pod), rank);
  if (const auto known = slot_by_name_.find(name); known != slot_by_name_.end()) return known->second;
  uint32_t number;
  if (resting_.size() > kSlotsResting || (slots_.size() >= kSlotsMax && !resting_.empty())) {
    number = resting_.front();
    resting_.pop_front();
  } else {
    if (slots_.size() >= kSlotsMax) throw Error(ErrorKind::input, "pod: expected at most 65536 workers at a time");
    number = static_cast<uint32_t>(slots_.size());
    slots_.emplace_back();
  }
  Slot fresh;
  fresh.pod = name.first;
  fresh.rank = rank;
  fresh.is_live = true;
  fresh.has_changed = slots_[number].has_changed;  // it stands in changed_ then
  slots_[number] = std::move(fresh);
  slot_by_name_.emplace(name, number);
  return number;
}

std::optional<std::pair<std::string, uint32_t>> LoadBook::name(uint32_t slot) const {
  std::lock_guard guard(mutex_);
  const Slot* found = live(slot);
  if (found == nullptr) return std::nullopt;
  return std::pair(found->pod, found->rank);
}

std::vector<std::string> LoadBook::forget(std::string_view pod) {
  std::lock_guard guard(mutex_);
  std::vector<std::string> ended;
  auto at = slot_by_name_.lower_bound(std::pair(std::string(pod), uint32_t{0}));
  while (at != slot_by_name_.end() && at->first.first == pod) {
    Slot& slot = slots_[at->second];
    for (Line* line : {&slot.prefilling, &slot.decoding})
      while (line->first != kNone) ended.push_back(reservations_.take(line->first, *line).request_id);
    slot.is_live = false;
    remote_.forget(at->second);
    resting_.push_back(at->second);
    at = slot_by_name_.erase(at);
  }
  counted_.forgotten += ended.size();
  return ended;
}

LoadBook::Slot* LoadBook::live(uint32_t slot) {
  return slot < slots_.size() && slots_[slot].is_live ? &slots_[slot] : nullptr;
}

const LoadBook::Slot* LoadBook::live(uint32_t slot) const {
  return slot < slots_.size() && slots_[slot].is_live ? &slots_[slot] : nullptr;
}

bool LoadBook::reserve(Reservation reservation, double now_s) {
  std::lock_guard guard(mutex_);
  return live(reservation.slot) != nullptr && enter(std::move(reservation), now_s);
}

// REQUIRES: the lock, a live slot.
bool LoadBook::enter(Reservation reservation, double now_s) {
  if (reservations_.find(reservation.request_id) != kNone) {
    ++counted_.unreserved_duplicates;
    return false;
  }
  if (reservations_.is_full()) {
    ++counted_.unreserved_full;
    return false;
  }
  const uint32_t number = reservation.slot;
  Slot& slot = slots_[number];
  reservation.chosen_s = reservation.mentioned_s = now_s;
  reservation.is_prefilling = reservation.prefill_tokens > 0;
  if (reservation.is_prefilling) {
    if (slot.prefilling.first == kNone) {
      slot.front_since_s = now_s;
      slot.rates.begin(now_s);
    }
    if (remote_.of(number).prefill > 0) slot.rates.spoil();
  }
  const Sums sums = sums_of(reservation);
  reservations_.add(std::move(reservation), sums.prefill > 0 ? slot.prefilling : slot.decoding);
  count(slot, number, sums, 1);
  ++counted_.reserved;
  return true;
}

void LoadBook::count(Slot& slot, uint32_t number, const Sums& sums, int64_t sign) {
  slot.own.add(sums, sign);
  if (slot.has_changed) return;
  slot.has_changed = true;
  changed_.push_back(number);
}

// REQUIRES: it is being prefilled. Its load stays to be counted by the caller.
void LoadBook::leave_prefill(uint32_t node, double now_s) {
  Reservation& r = reservations_[node];
  Slot& slot = slots_[r.slot];
  const bool was_front = slot.prefilling.first == node;
  reservations_.move(node, slot.prefilling, slot.decoding);
  r.is_prefilling = false;
  if (was_front) slot.front_since_s = now_s;
}

bool LoadBook::prefill_done(std::string_view request_id, double now_s) {
  std::lock_guard guard(mutex_);
  const uint32_t node = reservations_.find(request_id);
  if (node == kNone) {
    ++counted_.unknown;
    return false;
  }
  reservations_.mention(node, now_s);
  tell_prefilled(node, now_s);
  return true;
}

void LoadBook::tell_prefilled(uint32_t node, double now_s) {
  Reservation& r = reservations_[node];
  if (r.prefilled_s) return;
  r.prefilled_s = now_s;
  ++counted_.prefilled;
  if (!r.is_prefilling) return;
  Slot& slot = slots_[r.slot];
  if (remote_.of(r.slot).prefill > 0) slot.rates.spoil();
  count(slot, r.slot, {r.prefill_tokens, 0, 0}, -1);
  leave_prefill(node, now_s);
  const WorkerRates::Taught taught = slot.rates.done(work_of(r), now_s);
  counted_.learned_prefills += taught == WorkerRates::Taught::prefill;
  counted_.learned_loads += taught == WorkerRates::Taught::loading;
}

bool LoadBook::produced(std::string_view request_id, int64_t tokens, double now_s) {
  std::lock_guard guard(mutex_);
  const uint32_t node = reservations_.find(request_id);
  if (node == kNone) {
    ++counted_.unknown;
    return false;
  }
  reservations_.mention(node, now_s);
  if (tokens > 0) tell_prefilled(node, now_s);
  Reservation& r = reservations_[node];
  if (tokens <= r.output_tokens) return true;
  if (r.counts_decode) {
    count(slots_[r.slot], r.slot, {0, tokens - r.output_tokens, 0}, 1);
    r.decode_tokens += tokens - r.output_tokens;
  }
  r.output_tokens = tokens;
  return true;
}

Ended LoadBook::end(uint32_t node, double now_s) {
  const uint32_t number = reservations_[node].slot;
  Slot& slot = slots_[number];
  count(slot, number, sums_of(reservations_[node]), -1);
  if (reservations_[node].is_prefilling) {
    slot.rates.spoil();
    leave_prefill(node, now_s);
  }
  Reservation r = reservations_.take(node, slot.decoding);
  Ended ended{.request_id = std::move(r.request_id), .slot = number, .prompt_tokens = r.prompt_tokens, .prefill_tokens = r.prefill_tokens,
              .cached_tokens = r.cached_tokens, .seconds = std::max(now_s - r.chosen_s, 0.0), .prefill_seconds = std::nullopt, .is_by_index = r.is_by_index};
  if (r.prefilled_s) ended.prefill_seconds = std::max(*r.prefilled_s - r.chosen_s, 0.0);
  return ended;
}

std::optional<Ended> LoadBook::completed(std::string_view request_id, double now_s, std::optional<int64_t> cached_tokens) {
  std::lock_guard guard(mutex_);
  const uint32_t node = reservations_.find(request_id);
  if (node == kNone) {
    ++counted_.unknown;
    return std::nullopt;
  }
  Ended ended = end(node, now_s);
  Slot& slot = slots_[ended.slot];
  slot.stay.learn(ended.seconds);
  if (cached_tokens && ended.is_by_index && ended.cached_tokens > 0)
    slot.accuracy.learn(static_cast<double>(ended.cached_tokens), static_cast<double>(*cached_tokens));
  ++counted_.completed;
  return ended;
}

std::optional<Ended> LoadBook::failed(std::string_view request_id, double now_s) {
  std::lock_guard guard(mutex_);
  const uint32_t node = reservations_.find(request_id);
  if (node == kNone) {
    ++counted_.unknown;
    return std::nullopt;
  }
  ++counted_.failed;
  return end(node, now_s);
}

std::vector<std::string> LoadBook::expire(double now_s, double silence_s) {
  std::lock_guard guard(mutex_);
  std::vector<std::string> ended;
  while (reservations_.oldest() != kNone && reservations_[reservations_.oldest()].mentioned_s + silence_s <= now_s)
    ended.push_back(end(reservations_.oldest(), now_s).request_id);
  counted_.expired += ended.size();
  return ended;
}

std::vector<SlotSums> LoadBook::changed() {
  std::lock_guard guard(mutex_);
  std::vector<SlotSums> out;
  for (uint32_t number : changed_) {
    slots_[number].has_changed = false;
    if (slots_[number].is_live) out.push_back({number, slots_[number].own});
  }
  changed_.clear();
  return out;
}

std::vector<SlotSums> LoadBook::own() const {
  std::lock_guard guard(mutex_);
  std::vector<SlotSums> out;
  for (const auto& [name, number] : slot_by_name_)
    if (!slots_[number].own.is_zero()) out.push_back({number, slots_[number].own});
  return out;
}

void LoadBook::set_remote(uint64_t router, std::span<const SlotSums> told, bool whole) {
  std::lock_guard guard(mutex_);
  std::vector<SlotSums> known;
  for (const SlotSums& one : told)
    if (live(one.slot) != nullptr) known.push_back(one);
  if (!remote_.set(router, known, whole)) ++counted_.refused_routers;
}

void LoadBook::drop_remote(uint64_t router) {
  std::lock_guard guard(mutex_);
  remote_.drop(router);
}

BookStatistics LoadBook::statistics() const {
  std::lock_guard guard(mutex_);
  BookStatistics now = counted_;
  now.reservations = reservations_.size();
  now.slots = slot_by_name_.size();
  now.routers = remote_.routers();
  return now;
}

}  // namespace kvatlas
