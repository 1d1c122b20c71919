// Block keys: the 64-bit chained hash by which the writer (from event tokens) and the
// reader (from prompt tokens) name a block.
//
//     key_i = H(key_{i-1}, tokens_i, extras_i)        key_{-1} = root(keyspace, lora)
//
// Two algorithms: fold64, a seeded multiply-fold over 64-bit token words (a few ns per block;
// docs/indexer.md has it bit for bit), and fnv64a_cbor, FNV-1a over canonical CBOR, which
// agrees with llm-d.
//
// Thread safety: a Keyspace is immutable; any thread may call any method.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace kvatlas {

inline constexpr uint32_t kBlockSizeMax = 4096;

// A multimodal item of a prompt, in tokens from the prompt's start.
struct Feature {
  std::string id;
  int64_t offset;
  int64_t length;
};

// What a model server folds into one block's hash besides its tokens (LoRA: see root()).
struct BlockExtras {
  struct Item {
    std::string_view id;
    int64_t offset;  // relative to the block's first token; may be negative
  };
  std::vector<Item> items;                   // multimodal, any order
  std::string_view salt;                     // only on a chain's first block
  bool has_salt = false;
  std::vector<std::string_view> embeddings;  // digests, in order

  bool empty() const { return items.empty() && !has_salt && embeddings.empty(); }
  void clear() { items.clear(); has_salt = false; embeddings.clear(); }
};

class Keyspace {
 public:
  enum class Algorithm : uint8_t { fold64, fnv64a_cbor };

  // `secrets` are fold64's S[0..15] (index/keys.py derives them from seed, model, block size).
  Keyspace(const std::array<uint64_t, 16>& secrets, uint32_t block_size);
  // fnv64a_cbor. `hash_seed` and `model` are UTF-8.
  Keyspace(std::string hash_seed, std::string model, uint32_t block_size);

  Algorithm algorithm() const { return algorithm_; }
  uint32_t block_size() const { return block_size_; }

  // The key before a chain's first block. `lora` empty: none.
  uint64_t root(std::string_view lora) const;

  // Whether the algorithm has a place for these extras (fnv64a_cbor: multimodal items only).
  bool can_key(const BlockExtras& extras) const {
    return algorithm_ == Algorithm::fold64 || (!extras.has_salt && extras.embeddings.empty());
  }

  // The key of the block that follows `parent`. REQUIRES: tokens[0..block_size), can_key(extras).
  uint64_t next(uint64_t parent, const uint32_t* tokens, const BlockExtras* extras) const;

  // The keys of n_blocks consecutive blocks from `parent`, plain (no extras).
  void chain(uint64_t parent, const uint32_t* tokens, size_t n_blocks, uint64_t* keys) const;

  // The same with a prompt's features and, when has_salt, the salt on the first block.
  // REQUIRES: tokens start at the prompt's first token when has_salt.
  void chain(uint64_t parent, const uint32_t* tokens, size_t n_blocks,
             const std::vector<Feature>& features, std::string_view salt, bool has_salt,
             uint64_t* keys) const;

 private:
  uint64_t digest(const uint32_t* tokens) const;
  uint64_t fold_next(uint64_t parent, const uint32_t* tokens) const;
  uint64_t fold_bytes(std::string_view bytes) const;
  uint64_t fnv_next(uint64_t parent, const uint32_t* tokens, const BlockExtras* extras) const;

  Algorithm algorithm_;
  uint32_t block_size_;
  std::array<uint64_t, 16> secrets_{};  // fold64
  uint64_t fnv_seed_ = 0;               // fnv64a_cbor
  std::string model_;                   // fnv64a_cbor
};

}  // namespace kvatlas
