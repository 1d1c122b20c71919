// Delta records told under other lanes: a writer's own lanes become those that its session leases in a server.
//
// Complexity: one pass over the records, one copy of their bytes.
// Thread safety: plain functions; what is passed must not change meanwhile.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace kvatlas {

constexpr uint32_t kLeftOut = UINT32_MAX;  // in a map: its records are left out

// What is kept of the records: all, or those that only take away (remove, clear_lane, open).
enum class Kept { all, removals };

// The records with lane `from` told of `lanes[from]`. Records of lanes that the map leaves out, or that lie beyond
// its end, are left out. Throws Error{input} for records that are none, as check_delta.
std::vector<uint8_t> rename_lanes(const uint8_t* delta, size_t bytes, std::span<const uint32_t> lanes, Kept kept);

}  // namespace kvatlas
