// A store as a whole: saved, loaded, exported. docs/checkpoint_format.md: the bytes.
#include "ingest/native/store.hpp"

#include "index/native/delta.hpp"
#include "index/native/match.hpp"

namespace kvatlas {
namespace {

constexpr uint8_t kStorePart = 'S';
constexpr size_t kSliceBuckets = 1024;

void append_meaning(Bytes& out, uint64_t engine_key, const Meaning& meaning) {
  append(out, engine_key);
  append(out, meaning.block_size);
  append(out, meaning.first_block);
  append(out, meaning.segment_key);
  append_all(out, meaning.keys.data(), meaning.keys.size());
}

}  // namespace

Bytes Store::save(uint32_t index_block_tokens) const {
  Bytes out;
  size_t n_buckets = 0;
  for (size_t bucket = 0; n_buckets == 0 || bucket < n_buckets;) {
    std::lock_guard guard(mutex_);
    if (held_.bucket_count() != n_buckets) {  // what lies in which bucket has changed: once more
      n_buckets = held_.bucket_count();
      bucket = 0;
      out.clear();
      append(out, kStorePart);
      append(out, index_block_tokens);
    }
    for (size_t n = 0; n < kSliceBuckets && bucket < n_buckets; ++n, ++bucket)
      for (auto at = held_.begin(bucket); at != held_.end(bucket); ++at) append_meaning(out, at->first, at->second);
  }
  return out;
}

void Store::load(std::string_view saved, uint32_t index_block_tokens) {
  ByteReader in(saved, "store");
  const auto kind = in.take<uint8_t>();
  in.require(kind == kStorePart, "a store (83)", kind);
  const auto block = in.take<uint32_t>();
  in.require(block == index_block_tokens && block > 0, "the index's block size", block);
  decltype(held_) held;
  decltype(holders_) holders;
  while (!in.at_end()) {
    const auto engine_key = in.take<uint64_t>();
    Meaning meaning{};
    meaning.block_size = in.take<uint32_t>();
    meaning.first_block = in.take<uint32_t>();
    meaning.segment_key = in.take<uint64_t>();
    // A block without keys is one that could not be indexed.
    in.require(meaning.block_size % block == 0, "a multiple of the index's block size", meaning.block_size);
    in.require((uint64_t{meaning.first_block} + meaning.block_size / block) * block <= 0xffffffffu, "a place below 2^32 tokens", meaning.first_block);
    meaning.keys = in.take_vector<uint64_t>(meaning.block_size / block);
    in.require(held.size() < blocks_max_, "no more than blocks_max", held.size());
    for (uint64_t key : meaning.keys) ++holders[key];
    in.require(held.emplace(engine_key, std::move(meaning)).second, "each engine key once", engine_key);
  }
  std::lock_guard guard(mutex_);
  if (!held_.empty()) throw Error(ErrorKind::input, "load: expected an empty store, got " + std::to_string(held_.size()) + " blocks");
  held_ = std::move(held);
  holders_ = std::move(holders);
}

std::vector<Bytes> Store::content(uint32_t n_shards, uint8_t tiers) const {
  if (n_shards < 1 || n_shards > 65536) throw Error(ErrorKind::input, "n_shards: expected 1 to 65536, got " + std::to_string(n_shards));
  std::vector<DeltaWriter> writers(n_shards);
  for (DeltaWriter& writer : writers) writer.mark(DeltaOp::clear_lane, lane_);
  each([&](const Meaning& meaning) {
    uint64_t segment_key = meaning.segment_key;
    for (size_t i = 0; i < meaning.keys.size(); ++i) {
      if (i > 0 && (meaning.first_block + i) % kSegmentBlocks == 0) segment_key = meaning.keys[i];
      writers[shard_of(segment_key, n_shards)].put(DeltaOp::add, tiers, lane_, segment_key, meaning.keys[i]);
    }
  });
  std::vector<Bytes> content;
  for (const DeltaWriter& writer : writers) content.push_back(writer.bytes());
  return content;
}

}  // namespace kvatlas
