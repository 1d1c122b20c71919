// What scripts of the remote index answer, checked, and made into excerpts and content.
//
//   answer := length u8 of the life's id | id | run*                             little-endian
//   run    := count of keys u16 | length of the value u32 | value
//   page   := segment*
//   segment := tag u32 | count u32 | (length u32 | key u64 | length u32 | value) x count
//   value  := element u32 *        element = physical lane << 8 | tiers, ascending by lane
//
// A value that is no such list stands for nobody, and is counted.
//
// Thread safety: RemoteLanes is immutable; the rest are plain functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

namespace kvatlas {

// The lanes that physical ones stand for.
class RemoteLanes {
 public:
  // Pairs of (physical lane, lane). Throws Error{decode} for numbers out of range, or a lane or a physical one that stands twice.
  explicit RemoteLanes(const std::vector<uint32_t>& pairs);
  // The lane, or kNone.
  static constexpr uint32_t kNone = UINT32_MAX;
  uint32_t lane(uint32_t phys) const {
    const auto at = lane_of_.find(phys);
    return at == lane_of_.end() ? kNone : at->second;
  }
  size_t size() const { return lane_of_.size(); }

 private:
  std::unordered_map<uint32_t, uint32_t> lane_of_;
};

struct RemoteAnswer {
  std::string life;
  std::vector<uint8_t> excerpt;  // for Excerpt (excerpt.hpp)
  uint64_t foreign_values = 0;
};

// Throws Error{decode} for bytes that are no answer to so many keys.
RemoteAnswer remote_answer(const uint8_t* bytes, size_t n_bytes, size_t n_keys, const RemoteLanes& lanes, bool whole);

// Keys of whole segments, by sets: element = lane << 8 | tiers, ascending.
struct RemotePage {
  std::vector<uint64_t> keys;
  std::vector<uint32_t> tags, sets;  // of each key; sets from 0
  std::vector<uint32_t> counts, elements;
  uint64_t foreign_values = 0;
};
RemotePage remote_page(const uint8_t* bytes, size_t n_bytes, const RemoteLanes& lanes);

}  // namespace kvatlas
