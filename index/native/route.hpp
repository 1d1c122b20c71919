// Delta records by where they belong: to which shard, to which lanes.
//
// Thread safety: plain functions.
#pragma once

#include <cstdint>
#include <vector>

#include "index/native/delta.hpp"

namespace kvatlas {

inline constexpr uint32_t kShardsMax = 1024;

// The lanes that records name, ascending. Throws Error{input} when the delta is malformed.
std::vector<uint32_t> lanes_of(const uint8_t* delta, size_t bytes);

// For each record of a delta the shard that it goes to, kAllShards for those without keys; and how
// many bytes that makes a shard.
class Route {
 public:
  // Throws Error{input} when the delta is malformed or n_shards is not 1 to kShardsMax.
  Route(const uint8_t* delta, size_t bytes, uint32_t n_shards);

  uint64_t bytes_of(uint32_t shard) const { return bytes_[shard]; }
  uint32_t n_shards() const { return static_cast<uint32_t>(bytes_.size()); }
  // Copies each shard's records, in their order, to out[shard], which has bytes_of(shard) bytes.
  void split(const uint8_t* delta, size_t bytes, const std::vector<uint8_t*>& out) const;

 private:
  static constexpr uint16_t kAllShards = 65535;

  std::vector<uint16_t> shards_;  // [n_records]
  std::vector<uint64_t> bytes_;   // [n_shards]
};

}  // namespace kvatlas
