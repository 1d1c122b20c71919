#include "tokenize/native/segment_memo.hpp"

#include <algorithm>
#include <bit>

namespace kvatlas {
namespace {

constexpr size_t kShardsMax = 8;
constexpr size_t kBytesPerShardMin = size_t{1} << 20;
// The largest piece that is remembered: half a shard of a large memo, a sixteenth of all of it.
constexpr size_t kPieceShare = 16;

size_t n_shards(size_t bytes_max) {
  return std::bit_floor(std::clamp<size_t>(bytes_max / kBytesPerShardMin, 1, kShardsMax));
}

}  // namespace

SegmentMemo::SegmentMemo(size_t bytes_max, uint64_t hash_seed) : hash_(hash_seed), bytes_max_(bytes_max) {
  const size_t count = n_shards(bytes_max);
  for (size_t i = 0; i < count; ++i) shards_.push_back(std::make_unique<MemoShard>(bytes_max / count));
}

PieceRef SegmentMemo::find(uint64_t hash, std::string_view text) {
  PieceRef piece = shard_of(hash).find(hash);
  return piece && piece->text() == text ? std::move(piece) : PieceRef();
}

void SegmentMemo::remember(uint64_t generation, uint64_t hash, std::string_view text, const uint32_t* ids, size_t n_tokens) {
  if (bytes_max_ == 0) return;
  MemoShard& shard = shard_of(hash);
  if (Piece::cost_bytes(text.size(), n_tokens) > bytes_max_ / kPieceShare || n_tokens > UINT32_MAX) return shard.refuse();
  PieceRef piece;
  try {
    piece = Piece::make(hash, text, ids, n_tokens);
  } catch (const std::bad_alloc&) {
    return shard.refuse();
  }
  shard.add(std::move(piece), [&] { return generation == generation_.load(); });
}

void SegmentMemo::clear() {
  generation_.fetch_add(1);  // first: what is added to a shard from here on, or was, is cleared or left out
  for (auto& shard : shards_) shard->clear();
}

void SegmentMemo::count(uint64_t hits, uint64_t hit_bytes, uint64_t misses, uint64_t missed_bytes) {
  hits_.fetch_add(hits, std::memory_order_relaxed);
  hit_bytes_.fetch_add(hit_bytes, std::memory_order_relaxed);
  misses_.fetch_add(misses, std::memory_order_relaxed);
  missed_bytes_.fetch_add(missed_bytes, std::memory_order_relaxed);
}

MemoStatistics SegmentMemo::statistics() const {
  MemoStatistics all;
  all.bytes_max = bytes_max_;
  for (const auto& shard : shards_) {
    const MemoShard::Counts one = shard->counts();
    all.pieces += one.pieces;
    all.bytes += one.bytes;
    all.tokens += one.tokens;
    all.evicted += one.evicted;
    all.refused += one.refused;
  }
  all.hits = hits_.load(std::memory_order_relaxed);
  all.misses = misses_.load(std::memory_order_relaxed);
  all.hit_bytes = hit_bytes_.load(std::memory_order_relaxed);
  all.missed_bytes = missed_bytes_.load(std::memory_order_relaxed);
  return all;
}

}  // namespace kvatlas
