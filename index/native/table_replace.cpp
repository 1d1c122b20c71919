// How the content of lanes is replaced: loaded where nobody looks, then shown by a few stores.
#include <algorithm>
#include <cstring>
#include <string>

#include "index/native/delta.hpp"
#include "index/native/table.hpp"

namespace kvatlas {
namespace {

constexpr uint32_t kTurnKeys = 8192;  // loaded before others have their turn: some hundred microseconds

}  // namespace

Table::Shadow* Table::shadow_of(std::vector<Shadow>& shadows, uint32_t lane) {
  const auto at = std::lower_bound(shadows.begin(), shadows.end(), lane, [](const Shadow& s, uint32_t l) { return s.lane < l; });
  return at != shadows.end() && at->lane == lane ? &*at : nullptr;
}

std::vector<Table::Shadow> Table::shadows_of(std::vector<uint32_t> lanes) {
  std::sort(lanes.begin(), lanes.end());
  lanes.erase(std::unique(lanes.begin(), lanes.end()), lanes.end());
  if (!lanes.empty() && lanes.back() >= kLanesMax)
    throw Error(ErrorKind::input, "lanes: expected numbers below 65535, got " + std::to_string(lanes.back()));
  std::vector<Shadow> shadows;
  for (uint32_t lane : lanes) shadows.push_back({.lane = lane});
  return shadows;
}

uint64_t Table::replace(const std::vector<uint32_t>& lanes, const uint8_t* delta, size_t bytes) {
  check_delta(delta, bytes);
  std::vector<Shadow> shadows = shadows_of(lanes);
  uint64_t n_records = 0;
  for_each_record(delta, bytes, [&](const DeltaRecord& record, const uint8_t* from) {
    ++n_records;
    if (shadow_of(shadows, record.lane) == nullptr)
      throw Error(ErrorKind::input, "delta at byte " + std::to_string(from - delta) + ": expected one of the " + std::to_string(shadows.size()) +
                                        " lanes to be replaced, got " + std::to_string(record.lane));
  });
  std::lock_guard alone(replacing_);
  std::unique_lock turn(writer_);
  require_open();
  loading_ = &shadows;
  try {
    load(shadows, delta, bytes, turn);
  } catch (...) {
    abandon(shadows);
    throw;
  }
  flip_lanes(shadows);
  records_ += n_records;
  ++replaces_;
  return n_records;
}

void Table::load(std::vector<Shadow>& shadows, const uint8_t* delta, size_t bytes, std::unique_lock<Turns>& turn) {
  uint32_t n_keys = 0;  // in this turn
  auto add = [&](Keys keys, Shadow& shadow) {
    for (uint32_t left = keys.count; left > 0 && !shadow.cancelled; left -= keys.count, keys.at += 8ull * keys.count) {
      keys.count = std::min(left, kTurnKeys);
      apply_keys(keys, shadow.lane, &shadow);
      heat_.pass(keys.count);
      if ((n_keys += keys.count) < kTurnKeys) continue;
      n_keys = 0;
      turn.unlock();
      turn.lock();
      require_open();
    }
  };
  for_each_record(delta, bytes, [&](const DeltaRecord& record, const uint8_t* from) {
    Shadow& shadow = *shadow_of(shadows, record.lane);
    switch (record.op) {
      case DeltaOp::add:
      case DeltaOp::remove:
        return add({from + sizeof record, record.count, record.tiers, record.op == DeltaOp::add, record.segment_key}, shadow);
      case DeltaOp::clear_lane:
        if (shadow.phys != kNoLane) retire_phys(shadow.phys);
        shadow = {.lane = shadow.lane, .cancelled = shadow.cancelled};
        return;
      case DeltaOp::close: shadow.closed = true; return;
      case DeltaOp::open: shadow.closed = false; return;
    }
  });
}

uint16_t Table::claim_shadow(Shadow& shadow) {
  if (shadow.phys != kNoLane) return shadow.phys;
  shadow.phys = fresh_phys();
  if (shadow.phys == kNoLane) shadow.lossy = true;
  else live_->generation->store_lane_word(shadow.phys, shadow.lane | kLaneLoading | (shadow.lossy ? kLaneLossy : 0));
  return shadow.phys;
}

void Table::abandon(std::vector<Shadow>& shadows) {
  loading_ = nullptr;
  for (const Shadow& shadow : shadows)
    if (shadow.phys != kNoLane) retire_phys(shadow.phys);
}

void Table::flip_lanes(std::vector<Shadow>& shadows) {
  loading_ = nullptr;
  Generation& g = *live_->generation;
  g.begin_flip();
  show_lanes(shadows);
  g.end_flip();
  bury_lanes(shadows);
}

void Table::show_lanes(std::vector<Shadow>& shadows) {
  Generation& g = *live_->generation;
  for (Shadow& shadow : shadows) {
    if (shadow.cancelled) continue;
    const uint32_t lossy = shadow.phys == kNoLane ? 0 : g.lane_word(shadow.phys) & kLaneLossy;
    const uint32_t closed = shadow.closed && lossy == 0 ? kLaneClosed : 0;
    const uint16_t before = g.phys_of(shadow.lane);
    // Down before up: who looks in between all the same counts neither, and never both.
    if (before != kNoLane) g.store_lane_word(before, 0);
    if (shadow.phys != kNoLane) g.store_lane_word(shadow.phys, shadow.lane | kLaneLive | lossy | closed);
    g.store_phys_of(shadow.lane, shadow.phys);
    lane_closed_[shadow.lane] = shadow.closed;
    shadow.phys = before;
  }
}

void Table::bury_lanes(const std::vector<Shadow>& shadows) {
  for (const Shadow& shadow : shadows)
    if (shadow.phys != kNoLane) retire_phys(shadow.phys);
  if (!rebuild_ && rebuild_due()) begin_rebuild();
}

}  // namespace kvatlas
