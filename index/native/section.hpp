// Content records: what some lanes hold, as self-contained buffers ("sections").
//
//   section := magic "kvac" | version u16 | flags u16 | lanes u32 | sets u32 | elements u32 | runs u32 | keys u32 | crc u32
//              | keys * key u64 | lanes * lane u32 | sets * size u32 | elements * element u32 | runs * run     little-endian
//   flags   := 1: the segments are not known, all tags are 0 and stand for nothing
//   lane    := number, with bit 31: closed under prefixes, bit 30: something of it was dropped
//   set     := so many of the elements, in their order, each a place in `lanes` << 8 | tier bits, ascending
//   run     := segment tag u32 | set u32 | keys u32        so many of the keys, in their order, are held by this set
//
// crc: zlib's crc32 of all but itself. A lane stands in `lanes` once. A key may stand in several sections, and then
// is held by all sets together. One section has at most kSectionKeysMax keys and kSectionPairsMax (key, lane) pairs,
// so that nothing made from one is large.
//
// Thread safety: plain data; a view needs its bytes to stay.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "index/native/generation.hpp"

namespace kvatlas {

inline constexpr uint16_t kSectionVersion = 1;
inline constexpr uint32_t kSectionKeysMax = 1u << 20;
inline constexpr uint64_t kSectionPairsMax = 1ull << 22;
inline constexpr uint16_t kTagsUnknown = 1;
inline constexpr uint32_t kContentClosed = 1u << 31;
inline constexpr uint32_t kContentLossy = 1u << 30;
inline constexpr uint32_t kContentLane = 0xffff;

struct SectionHeader {
  char magic[4];
  uint16_t version;
  uint16_t flags;
  uint32_t n_lanes, n_sets, n_elements, n_runs, n_keys, crc;
};
static_assert(sizeof(SectionHeader) == 32);

struct SectionRun {
  uint32_t tag, set, n_keys;
};
static_assert(sizeof(SectionRun) == 12);

// A checked section, read where it lies.
class SectionView {
 public:
  // Throws Error{dump}, saying at which byte, for what is no section, cut short, of another version or contradicts itself.
  SectionView(const uint8_t* bytes, size_t n);

  uint32_t n_lanes() const { return header_.n_lanes; }
  uint32_t n_sets() const { return header_.n_sets; }
  uint32_t n_runs() const { return header_.n_runs; }
  uint32_t n_keys() const { return header_.n_keys; }
  uint64_t n_pairs() const { return n_pairs_; }
  bool knows_tags() const { return (header_.flags & kTagsUnknown) == 0; }
  // Throws Error{dump} where several shards are to share what does not say to which it belongs.
  void require_shards(uint32_t n_shards) const;
  uint64_t key(size_t i) const { return load<uint64_t>(keys_, i); }
  uint32_t lane(size_t i) const { return load<uint32_t>(lanes_, i); }  // with its bits
  uint32_t element(size_t i) const { return load<uint32_t>(elements_, i); }
  SectionRun run(size_t i) const { return load<SectionRun>(runs_, i); }
  // The elements of a set are those from set_begin(set) to set_begin(set + 1).
  uint32_t set_begin(uint32_t set) const { return set_begins_[set]; }
  const uint8_t* key_bytes(size_t i) const { return keys_ + 8 * i; }

 private:
  template <class T>
  static T load(const uint8_t* from, size_t i) {
    T value;
    std::memcpy(&value, from + sizeof(T) * i, sizeof(T));
    return value;
  }
  void place(const uint8_t* bytes, size_t n);
  void check_lanes() const;
  void check_sets();
  void check_runs();

  SectionHeader header_;
  const uint8_t* begin_ = nullptr;
  const uint8_t *keys_ = nullptr, *lanes_ = nullptr, *sizes_ = nullptr, *elements_ = nullptr, *runs_ = nullptr;
  std::vector<uint32_t> set_begins_;
  uint64_t n_pairs_ = 0;
};

// Content as sections are written from it.
struct Content {
  std::vector<Slot> entries;                // key, word = tag << 32 | set; ascending by word
  std::vector<uint32_t> set_begins{0};      // [n_sets + 1] first element of each set
  std::vector<uint32_t> elements;           // lane << 8 | tiers; of a set ascending, each lane once
  std::vector<uint32_t> lanes;              // with their bits, ascending by number; every lane that elements name
  bool knows_tags = true;

  uint32_t set_size(uint32_t set) const { return set_begins[set + 1] - set_begins[set]; }
  uint64_t n_pairs() const;
  uint64_t bytes() const;
  void sort();  // entries by word
};

// Writes a content's sections one after the other: the first names all lanes, the others those that they need.
class SectionWriter {
 public:
  // REQUIRES: the content stays as it is. Throws Error{input} unless keys_max is 1 to kSectionKeysMax.
  SectionWriter(const Content& content, uint32_t keys_max);

  // The next section into `out`; false: that was the last. There is always one, also of an empty content.
  bool next(std::vector<uint8_t>& out);

 private:
  size_t end_of_section() const;
  uint32_t set_index(uint32_t set);
  uint32_t lane_index(uint32_t lane);

  const Content& content_;
  const uint32_t keys_max_;
  size_t at_ = 0;
  bool is_first_ = true;
  // Of the section being written.
  std::vector<uint32_t> lanes_, sizes_, elements_;
  std::vector<SectionRun> runs_;
  std::vector<uint32_t> set_of_content_;   // [n_sets] in the section, kNone
  std::vector<uint32_t> place_of_lane_;    // [65536] in lanes_, kNone
  std::vector<uint32_t> word_of_lane_;     // [65536] with its bits
};

// What becomes of lanes: [65536] the new number of each, kNoLane: it is left out. Empty: all as they are.
using LaneNumbers = std::vector<uint16_t>;

// The section with its lanes renamed; keys that no lane holds then are left out. REQUIRES: no two get one number.
std::vector<uint8_t> renamed_section(const SectionView& section, const LaneNumbers& lanes);

// What a section says, as delta records that add it: one buffer a shard. Marks of lanes are not in it.
std::vector<std::vector<uint8_t>> deltas_of_section(const SectionView& section, const LaneNumbers& lanes, uint32_t n_shards);

}  // namespace kvatlas
