// The mirror's content at one moment, written out while events go on being applied.
//
//   begin ---- part, part, .. ---- the end         (docs/checkpoint_format.md: the bytes)
//
// A cursor goes through the nodes, a slice of them at a time under the mirror's mutex. A node that is
// about to change before the cursor has reached it is written first, as it was (Mirror::keep); what
// was kept leaves with the next part. So memory is bounded by what changes between two parts, and
// the apply path waits for one slice, or, since a mutex is not fair, for the slices of one part.
//
// A clear, a doubt or a restart abandons it: it would cost a walk, and what was is worth little then.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "ingest/native/byte_stream.hpp"
#include "ingest/native/nodes.hpp"

namespace kvatlas {

struct MirrorSnapshot {
  uint64_t number;  // tells it from others of the mirror
  NodeId end;       // nodes from here on came later
  NodeId next = 0;  // the cursor
  std::vector<bool> was_kept;
  std::deque<Bytes> kept;  // parts not handed out: first the head
};

// Bits of a node's record.
enum NodeBit : uint16_t {
  kBitIndexed = 1u << 0, kBitGpuMore = 1u << 1, kBitCpu = 1u << 2, kBitCpuUnknown = 1u << 3, kBitCpuMore = 1u << 4,
  kBitOther = 1u << 5, kBitGpuStale = 1u << 6, kBitCpuStale = 1u << 7, kBitOtherStale = 1u << 8, kBitGhost = 1u << 9,
  kBitForgotten = 1u << 10, kBitGroups = 1u << 11, kBitSalt = 1u << 12, kBitUnplaced = 1u << 13, kBitsEnd = 1u << 14
};

inline constexpr uint8_t kHeadPart = 'H';
inline constexpr uint8_t kNodesPart = 'N';
inline constexpr NodeId kSliceNodes = 1024;

}  // namespace kvatlas
