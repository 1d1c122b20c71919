#include "index/native/route.hpp"

#include <cstring>
#include <string>

#include "index/native/match.hpp"

namespace kvatlas {

std::vector<uint32_t> lanes_of(const uint8_t* delta, size_t bytes) {
  check_delta(delta, bytes);
  std::vector<bool> named(kLanesMax, false);
  for_each_record(delta, bytes, [&](const DeltaRecord& record, const uint8_t*) { named[record.lane] = true; });
  std::vector<uint32_t> lanes;
  for (uint32_t lane = 0; lane < kLanesMax; ++lane)
    if (named[lane]) lanes.push_back(lane);
  return lanes;
}

Route::Route(const uint8_t* delta, size_t bytes, uint32_t n_shards) {
  if (n_shards < 1 || n_shards > kShardsMax)
    throw Error(ErrorKind::input, "n_shards: expected 1 to " + std::to_string(kShardsMax) + ", got " + std::to_string(n_shards));
  check_delta(delta, bytes);
  bytes_.assign(n_shards, 0);
  // Of neighbours most are of one segment.
  uint64_t last_key = 0;
  uint16_t last_shard = static_cast<uint16_t>(shard_of(last_key, n_shards));
  for_each_record(delta, bytes, [&](const DeltaRecord& record, const uint8_t*) {
    const size_t length = record_bytes(record);
    if (record.op != DeltaOp::add && record.op != DeltaOp::remove) {
      shards_.push_back(kAllShards);
      for (uint64_t& of_shard : bytes_) of_shard += length;
      return;
    }
    if (record.segment_key != last_key) {
      last_key = record.segment_key;
      last_shard = static_cast<uint16_t>(shard_of(last_key, n_shards));
    }
    shards_.push_back(last_shard);
    bytes_[last_shard] += length;
  });
}

void Route::split(const uint8_t* delta, size_t bytes, const std::vector<uint8_t*>& out) const {
  std::vector<uint8_t*> at = out;
  size_t i = 0;
  auto append = [&at](uint32_t shard, const uint8_t* from, size_t length) {
    std::memcpy(at[shard], from, length);
    at[shard] += length;
  };
  for_each_record(delta, bytes, [&](const DeltaRecord& record, const uint8_t* from) {
    const size_t length = record_bytes(record);
    const uint16_t shard = shards_[i++];
    if (shard != kAllShards) return append(shard, from, length);
    for (uint32_t each = 0; each < n_shards(); ++each) append(each, from, length);
  });
}

}  // namespace kvatlas
