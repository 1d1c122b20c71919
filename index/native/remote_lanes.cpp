#include "index/native/remote_lanes.hpp"

#include <cstring>

#include "index/native/delta.hpp"

namespace kvatlas {
namespace {

bool only_takes_away(DeltaOp op) { return op == DeltaOp::remove || op == DeltaOp::clear_lane || op == DeltaOp::open; }

}  // namespace

std::vector<uint8_t> rename_lanes(const uint8_t* delta, size_t bytes, std::span<const uint32_t> lanes, Kept kept) {
  check_delta(delta, bytes);
  std::vector<uint8_t> out(bytes);
  size_t end = 0;
  for_each_record(delta, bytes, [&](DeltaRecord record, const uint8_t* at) {
    const uint32_t lane = record.lane < lanes.size() ? lanes[record.lane] : kLeftOut;
    if (lane == kLeftOut || (kept == Kept::removals && !only_takes_away(record.op))) return;
    record.lane = lane;
    const size_t size = record_bytes(record);
    std::memcpy(out.data() + end, &record, sizeof record);
    std::memcpy(out.data() + end + sizeof record, at + sizeof record, size - sizeof record);
    end += size;
  });
  out.resize(end);
  return out;
}

}  // namespace kvatlas
