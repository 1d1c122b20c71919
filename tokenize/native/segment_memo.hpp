// Remembers the token ids of pieces of text, so that of a conversation only the new turn is encoded.
//
//     plan = Plan(memo, cutter, text)            cuts the text and looks its pieces up
//     plan.missing()                             what the caller has to encode
//     plan.finish(memo, text, encoded, ids)      all ids; the encoded pieces are remembered
//
// A memo belongs to one tokenizer and one way of cutting: it knows pieces by their text alone. It is
// exact whatever the hash does, for each find compares the whole text.
//
// Memory: 4 bytes a token, the text's UTF-8, and about 60 bytes a piece (memo_shard.hpp); all of it
// counts. Pieces that plans under way refer to live on until these are done.
//
// Thread safety: any thread, any method; SegmentMemo's locks are its shards'.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "tokenize/native/memo_shard.hpp"
#include "tokenize/native/text_hash.hpp"

namespace kvatlas {

struct MemoStatistics {
  uint64_t pieces = 0, bytes = 0, tokens = 0;  // held now
  uint64_t bytes_max = 0;
  uint64_t hits = 0, misses = 0;               // pieces that needed no encoding, and that did
  uint64_t hit_bytes = 0, missed_bytes = 0;    // of their text
  uint64_t evicted = 0;                        // to make room
  uint64_t refused = 0;                        // too large a share of bytes_max, no room, or no memory
};

class SegmentMemo {
 public:
  // bytes_max 0: remembers nothing.
  SegmentMemo(size_t bytes_max, uint64_t hash_seed);
  SegmentMemo(const SegmentMemo&) = delete;

  uint64_t hash(std::string_view text) const { return hash_(text); }

  // The piece with this text; empty: it is not held. REQUIRES: hash is the text's.
  PieceRef find(uint64_t hash, std::string_view text);

  // Remembers a piece that was looked for in `generation`; of an older one it is left out, for its
  // ids may be those of what was cleared. Never throws.
  void remember(uint64_t generation, uint64_t hash, std::string_view text, const uint32_t* ids, size_t n_tokens);

  // Counts clears; a plan keeps the one it began in.
  uint64_t generation() const { return generation_.load(); }
  void clear();

  void count(uint64_t hits, uint64_t hit_bytes, uint64_t misses, uint64_t missed_bytes);
  MemoStatistics statistics() const;

 private:
  MemoShard& shard_of(uint64_t hash) { return *shards_[(hash >> 56) & (shards_.size() - 1)]; }

  const TextHash hash_;
  const size_t bytes_max_;
  std::vector<std::unique_ptr<MemoShard>> shards_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<uint64_t> hits_{0}, misses_{0}, hit_bytes_{0}, missed_bytes_{0};
};

}  // namespace kvatlas
