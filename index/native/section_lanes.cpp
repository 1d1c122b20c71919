// Sections with other lanes, and as delta records.
#include <algorithm>
#include <cstring>

#include "index/native/delta.hpp"
#include "index/native/match.hpp"
#include "index/native/section.hpp"

namespace kvatlas {
namespace {

constexpr uint32_t kNone = ~0u;

uint32_t number_of(uint32_t lane, const LaneNumbers& lanes) { return lanes.empty() ? lane & kContentLane : lanes[lane & kContentLane]; }

// The sets as the content has them, without lanes that are left out; for each its number there, kNone: nobody is left.
std::vector<uint32_t> take_sets(const SectionView& section, const LaneNumbers& lanes, Content& content) {
  std::vector<uint32_t> numbers;
  for (uint32_t set = 0; set < section.n_sets(); ++set) {
    const size_t begin = content.elements.size();
    for (uint32_t i = section.set_begin(set); i < section.set_begin(set + 1); ++i) {
      const uint32_t lane = number_of(section.lane(section.element(i) >> 8), lanes);
      if (lane != kNoLane) content.elements.push_back(lane << 8 | (section.element(i) & 0xff));
    }
    if (content.elements.size() == begin) {
      numbers.push_back(kNone);
      continue;
    }
    std::sort(content.elements.begin() + static_cast<std::ptrdiff_t>(begin), content.elements.end());
    numbers.push_back(static_cast<uint32_t>(content.set_begins.size() - 1));
    content.set_begins.push_back(static_cast<uint32_t>(content.elements.size()));
  }
  return numbers;
}

}  // namespace

std::vector<uint8_t> renamed_section(const SectionView& section, const LaneNumbers& lanes) {
  Content content;
  content.knows_tags = section.knows_tags();
  for (uint32_t i = 0; i < section.n_lanes(); ++i) {
    const uint32_t number = number_of(section.lane(i), lanes);
    if (number != kNoLane) content.lanes.push_back(number | (section.lane(i) & ~kContentLane));
  }
  const std::vector<uint32_t> sets = take_sets(section, lanes, content);
  content.entries.reserve(section.n_keys());
  size_t at = 0;
  for (uint32_t i = 0; i < section.n_runs(); ++i) {
    const SectionRun run = section.run(i);
    if (const uint32_t set = sets[run.set]; set != kNone)
      for (uint32_t k = 0; k < run.n_keys; ++k) content.entries.push_back({section.key(at + k), static_cast<uint64_t>(run.tag) << 32 | set});
    at += run.n_keys;
  }
  std::vector<uint8_t> out;
  SectionWriter(content, kSectionKeysMax).next(out);  // of no more keys and pairs than one section had
  return out;
}

std::vector<std::vector<uint8_t>> deltas_of_section(const SectionView& section, const LaneNumbers& lanes, uint32_t n_shards) {
  section.require_shards(n_shards);
  std::vector<std::vector<uint8_t>> out(n_shards);
  size_t at = 0;
  for (uint32_t i = 0; i < section.n_runs(); ++i) {
    const SectionRun run = section.run(i);
    const uint64_t segment_key = segment_key_of(run.tag);
    std::vector<uint8_t>& to = out[shard_of(segment_key, n_shards)];
    const size_t key_bytes = 8ull * run.n_keys;
    for (uint32_t e = section.set_begin(run.set); e < section.set_begin(run.set + 1); ++e) {
      const uint32_t lane = number_of(section.lane(section.element(e) >> 8), lanes);
      if (lane == kNoLane) continue;
      const DeltaRecord record{DeltaOp::add, static_cast<uint8_t>(section.element(e)), 0, run.n_keys, lane, 0, segment_key};
      const size_t end = to.size();
      to.resize(end + sizeof record + key_bytes);
      std::memcpy(to.data() + end, &record, sizeof record);
      std::memcpy(to.data() + end + sizeof record, section.key_bytes(at), key_bytes);
    }
    at += run.n_keys;
  }
  return out;
}

}  // namespace kvatlas
