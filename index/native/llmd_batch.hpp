// Delta records as llm-d's hashes are told of them: by lane, since one lane's fields never meet another's, and keys in decimal.
//
// Thread safety: plain data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace kvatlas {

// Keys that a lane gains or loses in some tiers.
struct LlmdStep {
  uint8_t op;  // 1 add, 2 remove
  uint8_t tiers;
  std::vector<uint64_t> keys;
};

struct LlmdLane {
  uint32_t lane;
  bool is_emptied;     // before its steps
  uint64_t keys_told;  // in all of the batch
  std::vector<LlmdStep> steps;
};

// Lanes in the order in which the batch first names them, steps in the batch's; neighbours that say the same are one. A
// word on closedness has no place here. Throws Error{input} for malformed deltas.
std::vector<LlmdLane> llmd_lanes_of(const uint8_t* delta, size_t bytes);

// Keys as llm-d names them, as arguments of a command are on the wire: $length, the digits.
// Source: RESP2, https://redis.io/docs/latest/develop/reference/protocol-spec/
std::string llmd_arguments(const uint64_t* keys, size_t n_keys);

}  // namespace kvatlas
