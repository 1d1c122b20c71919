// A store as a whole: saved, loaded, exported. docs/checkpoint_format.md: the bytes.
#include <algorithm>
#include <bit>
#include <cmath>

#include "index/native/delta.hpp"
#include "ingest/native/store.hpp"

namespace kvatlas {
namespace {

constexpr uint8_t kStorePart = 'K';
constexpr EntryId kSliceEntries = 4096;

enum SavedBit : uint8_t { kHasMeaning = 1, kHasParent = 2, kIsFile = 4, kIsHidden = 8, kSavedBits = 16 };

uint64_t bits_of(double value) { return std::bit_cast<uint64_t>(value); }

std::vector<DeltaWriter> writers_for(uint32_t n_shards) {
  if (n_shards < 1 || n_shards > 65536) throw Error(ErrorKind::input, "n_shards: expected 1 to 65536, got " + std::to_string(n_shards));
  return std::vector<DeltaWriter>(n_shards);
}

std::vector<Bytes> bytes_of(const std::vector<DeltaWriter>& writers) {
  std::vector<Bytes> deltas;
  for (const DeltaWriter& writer : writers) deltas.push_back(writer.bytes());
  return deltas;
}

}  // namespace

Bytes Store::save(uint32_t index_block_tokens) const {
  Bytes out;
  for (EntryId begin = 0, end = 1; begin < end; begin += kSliceEntries) {
    std::lock_guard turn(mutex_);
    if (begin == 0) save_head(index_block_tokens, out);
    end = std::max(entries_.end(), EntryId{1});
    for (EntryId id = begin; id < entries_.end() && id < begin + kSliceEntries; ++id)
      if (entries_[id].parent != kFreeEntry && (entries_[id].placed != 0 || entries_[id].is_file())) save_entry(entries_[id], out);
  }
  return out;
}

void Store::save_head(uint32_t index_block_tokens, Bytes& out) const {
  append(out, kStorePart);
  append(out, index_block_tokens);
  append(out, needed_);
  append(out, bits_of(floor_s_));
  append(out, static_cast<uint32_t>(removed_order_.size()));
  for (uint64_t name : removed_order_) {
    append(out, name);
    append(out, bits_of(removed_at_.at(name).removed_s));
    append(out, bits_of(removed_at_.at(name).stored_s));
  }
}

void Store::save_entry(const Entry& entry, Bytes& out) const {
  const bool has_parent = entry.parent != kNoEntry;
  append(out, entry.engine_key);
  append(out, static_cast<uint8_t>((entry.placed != 0 ? kHasMeaning : 0) | (has_parent ? kHasParent : 0) | (entry.is_file() ? kIsFile : 0) |
                                   (entry.covers == 0 ? kIsHidden : 0)));
  if (has_parent) append(out, entries_[entry.parent].engine_key);
  if (entry.is_file()) {
    append(out, static_cast<uint16_t>(entry.chunk));
    append(out, groups_of(entry));
  }
  if (entry.placed == 0) return;
  const Meaning meaning = meaning_of(entry);
  append(out, meaning.block_size);
  if (meaning.block_size == 0) return;
  append(out, meaning.first_block);
  append(out, meaning.segment_key);
  append_all(out, meaning.keys.data(), meaning.keys.size());
}

void Store::load(std::string_view saved, uint32_t index_block_tokens) {
  std::lock_guard turn(mutex_);
  if (entries_.size() > 0) throw Error(ErrorKind::input, "load: expected an empty store, got " + std::to_string(entries_.size()) + " blocks");
  ByteReader in(saved, "store");
  Loading loading;
  try {
    load_head(in, index_block_tokens);
    while (!in.at_end()) load_entry(in, index_block_tokens, loading);
  } catch (...) {
    forget_all();
    removed_at_.clear();
    removed_order_.clear();
    needed_ = 0;
    floor_s_ = kNoTime;
    throw;
  }
  ResidencyChanges changes;
  for (const auto& [child, parent] : loading.links)
    if (const EntryId id = by_engine_key_.find(child); id != kNoEntry) link(id, parent, changes);
  for (EntryId id = 0; id < entries_.end(); ++id)
    if (entries_[id].placed != 0 && counts_now(entries_[id]) && !cover(id, changes)) ++counts_.refused;
  for (EntryId id : loading.hidden)
    if (entries_[id].parent != kFreeEntry && entries_[id].covers > 0) hide(id, changes);
}

void Store::load_head(ByteReader& in, uint32_t index_block_tokens) {
  const auto kind = in.take<uint8_t>();
  in.require(kind == kStorePart, "a store (75)", kind);
  const auto block = in.take<uint32_t>();
  in.require(block == index_block_tokens && block > 0, "the index's block size", block);
  needed_ = in.take<uint64_t>();
  floor_s_ = std::bit_cast<double>(in.take<uint64_t>());
  const auto n_removed = in.take<uint32_t>();
  in.require(n_removed <= kRemovedMax, "at most 65536 removals", n_removed);
  for (uint32_t i = 0; i < n_removed; ++i) {
    const auto name = in.take<uint64_t>();
    const double time_s = std::bit_cast<double>(in.take<uint64_t>());
    const double stored_s = std::bit_cast<double>(in.take<uint64_t>());
    in.require(!std::isnan(time_s) && !removed_at_.contains(name), "each removal once, with its time", name);
    note_removed(name, time_s);
    removed_at_.at(name).stored_s = stored_s;
  }
}

void Store::load_entry(ByteReader& in, uint32_t index_block_tokens, Loading& loading) {
  const auto engine_key = in.take<uint64_t>();
  const auto bits = in.take<uint8_t>();
  in.require(bits < kSavedBits && (bits & (kHasMeaning | kIsFile)) != 0, "a block that is known or in a file", bits);
  if ((bits & kHasParent) != 0) loading.links.emplace_back(engine_key, in.take<uint64_t>());
  // Twice: it went and came again while all was saved.
  const EntryId id = by_engine_key_.find(engine_key) == kNoEntry ? entry(engine_key) : kNoEntry;
  if (id != kNoEntry && (bits & kIsHidden) != 0) loading.hidden.push_back(id);
  if ((bits & kIsFile) != 0) {
    const auto chunk = in.take<uint16_t>();
    const auto groups = in.take<uint64_t>();
    in.require(chunk < kChunkBlocksMax && groups != 0, "a file of at most 4096 blocks, for some group", chunk);
    const int number = id == kNoEntry ? -1 : mask_number(groups);
    if (number >= 0) {
      entries_[id].groups = static_cast<uint32_t>(number) & 15u;
      entries_[id].chunk = chunk & 4095u;
      entries_[id].seen = 1;
      ++n_files_;
    }
  }
  if ((bits & kHasMeaning) == 0) {
    if (id != kNoEntry && entries_[id].is_file()) begin_waiting(id);
    return;
  }
  Lesson lesson{engine_key, 0, true};
  lesson.block_size = in.take<uint32_t>();
  std::vector<uint64_t> keys;
  if (lesson.block_size > 0) {
    lesson.first_block = in.take<uint32_t>();
    lesson.segment_key = in.take<uint64_t>();
    lesson.n_keys = lesson.block_size / index_block_tokens;
    in.require(lesson.block_size % index_block_tokens == 0, "a multiple of the index's block size", lesson.block_size);
    in.require((uint64_t{lesson.first_block} + lesson.n_keys) * index_block_tokens <= 0xffffffffu, "a place below 2^32 tokens", lesson.first_block);
    keys = in.take_vector<uint64_t>(lesson.n_keys);
    lesson.keys = keys.data();
  }
  if (id == kNoEntry) return;
  const bool is_file = entries_[id].is_file();
  const uint64_t placed_late = counts_.placed_late;
  n_waiting_ += is_file;  // until it is placed
  const bool is_placed = place(id, lesson);
  counts_.placed_late = placed_late;
  if (!is_file || is_placed) return;
  --n_waiting_;
  begin_waiting(id);
}

std::vector<Bytes> Store::content(uint32_t n_shards, uint8_t tiers) const {
  std::vector<DeltaWriter> writers = writers_for(n_shards);
  for (DeltaWriter& writer : writers) writer.mark(DeltaOp::clear_lane, lane_);
  each_resident([&](uint64_t segment_key, uint64_t key) {
    writers[shard_of(segment_key, n_shards)].put(DeltaOp::add, tiers, lane_, segment_key, key);
  });
  return bytes_of(writers);
}

std::vector<Bytes> Store::deltas(const ResidencyChanges& changes, uint32_t n_shards, uint8_t tiers) const {
  std::vector<DeltaWriter> writers = writers_for(n_shards);
  for (const ResidencyChange& change : changes)
    writers[shard_of(change.segment_key, n_shards)].put(change.on ? DeltaOp::add : DeltaOp::remove, tiers, lane_, change.segment_key, change.key);
  return bytes_of(writers);
}

}  // namespace kvatlas
