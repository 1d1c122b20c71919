#include "index/native/llmd_batch.hpp"

#include <array>
#include <charconv>
#include <cstring>
#include <unordered_map>

#include "index/native/delta.hpp"

namespace kvatlas {
namespace {

void extend(std::vector<LlmdStep>& steps, const DeltaRecord& record, const uint8_t* keys) {
  const auto op = static_cast<uint8_t>(record.op);
  if (steps.empty() || steps.back().op != op || steps.back().tiers != record.tiers) steps.push_back({op, record.tiers, {}});
  std::vector<uint64_t>& told = steps.back().keys;
  told.resize(told.size() + record.count);
  std::memcpy(told.data() + told.size() - record.count, keys, 8ull * record.count);
}

}  // namespace

std::vector<LlmdLane> llmd_lanes_of(const uint8_t* delta, size_t bytes) {
  check_delta(delta, bytes);
  std::vector<LlmdLane> lanes;
  std::unordered_map<uint32_t, size_t> place_of;
  for_each_record(delta, bytes, [&](const DeltaRecord& record, const uint8_t* at) {
    if (record.op == DeltaOp::close || record.op == DeltaOp::open) return;
    const auto [place, is_new] = place_of.try_emplace(record.lane, lanes.size());
    if (is_new) lanes.push_back({record.lane, false, 0, {}});
    LlmdLane& lane = lanes[place->second];
    lane.keys_told += record.count;
    if (record.op == DeltaOp::clear_lane) {
      lane.steps.clear();
      lane.is_emptied = true;
    } else if (record.count > 0) {
      extend(lane.steps, record, at + sizeof record);
    }
  });
  return lanes;
}

std::string llmd_arguments(const uint64_t* keys, size_t n_keys) {
  std::string out;
  out.reserve(27 * n_keys);  // $20, the longest number, and two ends of lines
  std::array<char, 20> digits;
  for (size_t i = 0; i < n_keys; ++i) {
    const char* end = std::to_chars(digits.data(), digits.data() + digits.size(), keys[i]).ptr;
    const auto length = static_cast<size_t>(end - digits.data());
    out.append("$").append(std::to_string(length)).append("\r\n").append(digits.data(), length).append("\r\n");
  }
  return out;
}

}  // namespace kvatlas
