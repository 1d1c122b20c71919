// Delta records as the scripts of the remote index take them: by bucket, segment and physical lane.
//
//   records := count of lone records u16, record*, then a segment: count of records u16, record*      little-endian
//   record  := op u8 (1 add, 2 remove) | physical lane << 8 | tiers u32 | count u16 | block key u64 x count
//
// A lone record is of as many segments as it has keys: of each this key is all that the batch tells. Engines that decode
// tell of little else. Another segment lies in one call, unless its keys fill it.
//
// What a batch says of a lane before it clears that lane is left out: nothing of it would stay.
//
// Thread safety: plain data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

namespace kvatlas {

inline constexpr uint32_t kRemotePhysMax = (1u << 24) - 1;  // an element has 24 bits for it; 0: none
inline constexpr size_t kRemoteKeysPerCall = 1024;  // what one run of a script takes, a few ms at most
inline constexpr size_t kRemoteKeysPerQuestion = 4096;  // the same of the other script, which is faster
inline constexpr size_t kRemoteKeysPerRecord = 256;  // Lua's unpack takes a few thousand values

// What must be known of lanes before a batch can be packed.
struct RemoteLanesOfBatch {
  std::vector<uint32_t> keyed;    // lanes with keys that stay, ascending
  std::vector<uint32_t> cleared;  // ascending
  std::vector<std::pair<uint32_t, bool>> closed;  // the last word on each lane's closedness, ascending
};

// One run of the script.
struct RemoteCall {
  uint32_t bucket;
  std::vector<uint32_t> tags;  // of the lone keys, in their order, then of the other segments
  std::vector<uint8_t> records;
  uint64_t keys;
};

// Both throw Error{input} for malformed deltas. In pack, records of lanes without a physical one are left out.
RemoteLanesOfBatch remote_lanes_of(const uint8_t* delta, size_t bytes);
std::vector<RemoteCall> remote_pack(const uint8_t* delta, size_t bytes, const std::unordered_map<uint32_t, uint32_t>& phys_of, uint32_t n_buckets);

// What is asked of one bucket: whole segments of a chain, in its order.
//
//   questions, a segment := count of keys u16 | block key u64 x count
struct RemoteQuestion {
  uint32_t bucket;
  std::vector<uint32_t> tags;
  std::vector<uint8_t> questions;
  std::vector<uint64_t> keys;
};
std::vector<RemoteQuestion> remote_questions(const uint64_t* keys, size_t n_keys, uint32_t n_buckets);

}  // namespace kvatlas
