// One generation of a residency table: what readers see. Append-only but for the set words.
//
//   offset 0        4 096   266 240   397 312               arena_offset
//          | Header | lanes | phys_of | (n_homes + tail) x 16|  residency sets ...
//
//   slot   u64 key (0: never used)   u64 word = segment tag << 32 | set        (set 0: empty)
//   set    at arena_offset + 8 * set:  u32 count, u32 hash, count x u32 element, padded to 8
//   element = physical lane << 8 | tier mask, ascending
//   lane word (by physical lane) = kLoading | kLossy | kClosed | live tier mask << 16 | lane
//
// What makes it safe without locks:
//  1. a slot's key is written once, before its first word, and never changes in a generation;
//  2. a set never changes after its number is first stored in a word (release);
//  3. removal stores another set's number; slots and sets are never reused in a generation:
//     garbage goes when the writer copies what lives into the next generation.
// So whatever a reader pairs (key, set) was true at some moment. Where several lane words change as
// one, `flips` is odd meanwhile: readers look again (steady.hpp).
//
// Format version 3, little-endian. Source: our own; docs/indexer.md describes it.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <string>

#include "index/native/region.hpp"

namespace kvatlas {

inline constexpr uint32_t kFormatVersion = 3;
inline constexpr uint32_t kLanesMax = 65535;   // logical and physical lanes: 0 .. 65534
inline constexpr uint16_t kNoLane = 65535;
inline constexpr int kTiers = 6;               // gpu cpu disk storage unknown speculative
inline constexpr uint32_t kLaneLiveShift = 16;
inline constexpr uint32_t kLaneLive = 0xffu << kLaneLiveShift;
inline constexpr uint32_t kLaneClosed = 1u << 24;
inline constexpr uint32_t kLaneLossy = 1u << 25;
inline constexpr uint32_t kLaneLoading = 1u << 26;  // it holds what nobody is to see yet: no tier is live

struct Slot {
  uint64_t key;
  uint64_t word;
};

struct GenerationHeader {
  char magic[8];  // "kvatlas\0"
  uint32_t version;
  uint32_t header_bytes;
  uint64_t incarnation;  // of the writer
  uint64_t generation;
  uint64_t reserve_bytes;
  uint64_t n_homes;  // slots a key may hash to
  uint64_t n_slots;  // with the tail in which the last ones overflow: probing never wraps
  uint64_t lanes_offset;
  uint64_t phys_offset;
  uint64_t slots_offset;
  uint64_t arena_offset;
  uint64_t arena_bytes;  // atomic: used so far
  uint64_t flips;        // atomic: odd while lanes are being replaced
};

struct SetView {
  uint32_t count;
  const uint32_t* elements;
};

class Generation {
 public:
  // Writer: a new, empty generation; private when path is empty.
  static Generation create(const std::string& path, uint64_t incarnation, uint64_t number,
                           uint64_t n_homes, uint64_t arena_reserve_bytes);
  // The same in `spare`, private memory of an earlier one, where it is large enough.
  static Generation create_in(Region spare, uint64_t number, uint64_t n_homes, uint64_t arena_reserve_bytes);
  // Reader: maps and checks a file. Throws Error{table_file}.
  static Generation open(const std::string& path, uint64_t incarnation, uint64_t number);

  static constexpr uint64_t kHeadBytes = 397312;  // before the slots
  static constexpr uint64_t kTailMax = 4096;
  static constexpr int kLinesAhead = 3;
  // Those of so many homes, with the tail in which the last ones overflow.
  static uint64_t slots_of(uint64_t n_homes) { return n_homes + std::min<uint64_t>(kTailMax, 64 + n_homes / 4); }

  Generation(Generation&&) = default;
  Generation(const Generation&) = delete;

  const GenerationHeader& header() const { return *reinterpret_cast<GenerationHeader*>(region_.data()); }
  uint64_t n_homes() const { return n_homes_; }
  uint64_t n_slots() const { return n_slots_; }
  Slot* slots() const { return slots_; }

  // Writer: back the first n slots / the first n bytes of sets with memory.
  void back_slots(uint64_t n);
  void back_arena(uint64_t bytes);
  uint64_t backed_slots() const { return backed_slots_; }
  // Bytes before the sets that have memory: those of an earlier generation as well.
  uint64_t slot_bytes() const;
  // Its memory, for another one. Nobody uses this one any more.
  Region release();

  uint64_t home(uint64_t key) const {
    __extension__ typedef unsigned __int128 uint128;
    // Monotone in the scrambled key, so copying to the next generation is a sequential merge.
    return static_cast<uint64_t>((static_cast<uint128>(scramble(key)) * n_homes_) >> 64);
  }
  // Where a search for it begins. A nearly full generation is searched for some lines more. Inlined by force: GCC
  // takes a function that only fetches ahead for one without effect, and its calls away.
  [[gnu::always_inline]] void prefetch(uint64_t key) const { prefetch_from(home(key)); }
  [[gnu::always_inline]] void prefetch_from(uint64_t at) const {
    const auto* from = reinterpret_cast<const uint8_t*>(&slots_[at]);
    for (int line = 0; line < kLinesAhead; ++line) __builtin_prefetch(from + 64 * line);
  }

  // The word of `key`, 0 when it is not there or has no set. Any thread.
  uint64_t find(uint64_t key) const {
    key = normal(key);
    for (uint64_t at = home(key); at < n_slots_; ++at) {
      const uint64_t seen = load(&slots_[at].key);
      if (seen == key) return load(&slots_[at].word);
      if (seen == 0) return 0;
    }
    return 0;
  }

  // The set numbered `set`; an empty view when the number lies outside (a corrupt file).
  SetView set(uint32_t number) const {
    const uint64_t offset = static_cast<uint64_t>(number) * 8;
    const uint64_t used = load(&header().arena_bytes);
    if (number == 0 || offset + 8 > used) return {0, nullptr};
    const auto* at = reinterpret_cast<const uint32_t*>(arena_ + offset);
    if (offset + 8 + 4ull * at[0] > used) return {0, nullptr};
    return {at[0], at + 2};
  }
  uint8_t* arena() const { return arena_; }
  // Writer: the sets in the first so many bytes are readable from now on.
  void use_arena(uint64_t bytes) { store(&header_of_writer().arena_bytes, bytes); }

  uint32_t lane_word(uint32_t phys) const {
    return std::atomic_ref<uint32_t>(lanes_[phys & 0xffff]).load(std::memory_order_acquire);
  }
  void store_lane_word(uint32_t phys, uint32_t word) {
    std::atomic_ref<uint32_t>(lanes_[phys]).store(word, std::memory_order_release);
  }
  // The physical lane in which `lane` lives now, kNoLane when it holds nothing. Stored as its
  // complement, so that fresh memory says kNoLane.
  uint16_t phys_of(uint32_t lane) const {
    return static_cast<uint16_t>(~std::atomic_ref<uint16_t>(phys_of_[lane & 0xffff]).load(std::memory_order_acquire));
  }
  void store_phys_of(uint32_t lane, uint16_t phys) {
    std::atomic_ref<uint16_t>(phys_of_[lane]).store(static_cast<uint16_t>(~phys), std::memory_order_release);
  }

  uint64_t flips() const { return load(&header().flips); }
  // Writer: lane words stored between the two are seen by steady readers all or not at all. They
  // are stored with release, so who sees one of them sees the first of these two as well.
  void begin_flip() { std::atomic_ref<uint64_t>(header_of_writer().flips).fetch_add(1, std::memory_order_relaxed); }
  void end_flip() { std::atomic_ref<uint64_t>(header_of_writer().flips).fetch_add(1, std::memory_order_release); }

  static uint64_t load(const uint64_t* word) {
    return std::atomic_ref<uint64_t>(*const_cast<uint64_t*>(word)).load(std::memory_order_acquire);
  }
  static void store(uint64_t* word, uint64_t value) {
    std::atomic_ref<uint64_t>(*word).store(value, std::memory_order_release);
  }
  // 0 marks an unused slot: key 0 shares the slot of key 1.
  static uint64_t normal(uint64_t key) { return key + (key == 0); }
  // Block keys are hashes already; fnv64a ones are weak in their high bits.
  static uint64_t scramble(uint64_t key) { return (key ^ (key >> 32)) * 0x9e3779b97f4a7c15ULL; }
  static constexpr uint64_t kUnscramble = 0xf1de83e19937733dULL;  // the factor's inverse

 private:
  explicit Generation(Region region);
  static Generation lay_out(Region region, uint64_t incarnation, uint64_t number, uint64_t n_homes, uint64_t reserve);
  GenerationHeader& header_of_writer() { return *reinterpret_cast<GenerationHeader*>(region_.data()); }

  Region region_;
  uint64_t n_homes_ = 0;
  uint64_t n_slots_ = 0;
  uint64_t backed_slots_ = 0;
  uint64_t backed_arena_ = 0;
  uint32_t* lanes_ = nullptr;
  uint16_t* phys_of_ = nullptr;
  Slot* slots_ = nullptr;
  uint8_t* arena_ = nullptr;
};

// A segment's name in 32 bits: what a slot keeps of it. It decides the shard and the heat, so that a table's
// content can be told to others without the segments' keys. Two segments may share one: they are colder or warmer together.
inline uint32_t segment_tag(uint64_t segment_key) { return static_cast<uint32_t>(Generation::scramble(segment_key) >> 32); }
// A key of a segment with this tag: as good as the right one wherever only tags count.
inline uint64_t segment_key_of(uint32_t tag) {
  const uint64_t mixed = (static_cast<uint64_t>(tag) << 32) * Generation::kUnscramble;
  return mixed ^ (mixed >> 32);
}

// The set number and segment tag in a slot's word.
inline uint32_t word_set(uint64_t word) { return static_cast<uint32_t>(word); }
inline uint32_t word_tag(uint64_t word) { return static_cast<uint32_t>(word >> 32); }

}  // namespace kvatlas
