// What lies in one store of KV files, shared by all workers attached to it.
//
// A set, not counts: a file is announced by every pod that writes it and removed once. Keeps what
// each engine key means, so that a file can be removed, or loaded by a worker that never saw it,
// whoever announces it.
//
// Thread safety: any thread may call any method.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "ingest/native/byte_stream.hpp"

namespace kvatlas {

// An engine block made of whole index blocks.
struct Meaning {
  uint32_t block_size;        // of the engine
  uint32_t first_block;       // number of the first index block in its chain
  uint64_t segment_key;       // of the first index block
  std::vector<uint64_t> keys;
};

class Store {
 public:
  Store(uint32_t lane, uint64_t blocks_max) : lane_(lane), blocks_max_(blocks_max) {}
  uint32_t lane() const { return lane_; }

  enum class Added : uint8_t { now, before, no_room };
  // `entered`: which block keys no other engine key held, when added now.
  Added add(uint64_t engine_key, const Meaning& meaning, std::vector<bool>& entered) {
    std::lock_guard guard(mutex_);
    if (held_.contains(engine_key)) return Added::before;
    if (held_.size() >= blocks_max_) return Added::no_room;
    held_.emplace(engine_key, meaning);
    entered.clear();
    for (uint64_t key : meaning.keys) entered.push_back(++holders_[key] == 1);
    return Added::now;
  }
  // What the removed engine key meant; nothing when it was not there. `left` as `entered`.
  std::optional<Meaning> remove(uint64_t engine_key, std::vector<bool>& left) {
    std::lock_guard guard(mutex_);
    const auto found = held_.find(engine_key);
    if (found == held_.end()) return std::nullopt;
    Meaning meaning = std::move(found->second);
    held_.erase(found);
    left.clear();
    for (uint64_t key : meaning.keys) {
      const auto holders = holders_.find(key);
      left.push_back(--holders->second == 0);
      if (left.back()) holders_.erase(holders);
    }
    return meaning;
  }
  std::optional<Meaning> find(uint64_t engine_key) const {
    std::lock_guard guard(mutex_);
    const auto found = held_.find(engine_key);
    return found == held_.end() ? std::nullopt : std::optional(found->second);
  }
  bool holds(uint64_t engine_key) const {
    std::lock_guard guard(mutex_);
    return held_.contains(engine_key);
  }
  void clear() {
    std::lock_guard guard(mutex_);
    held_.clear();
    holders_.clear();
  }
  // Calls visit(meaning) for each engine key.
  template <class Visit>
  void each(Visit visit) const {
    std::lock_guard guard(mutex_);
    for (const auto& [key, meaning] : held_) visit(meaning);
  }
  // All of it, with the index's block size, for load(). Other calls take their turns meanwhile: what
  // they change may be in it or not, which a stream that is replayed from before it sets right.
  Bytes save(uint32_t index_block_tokens) const;
  // REQUIRES: empty. Throws Error{input} when it is not, Error{checkpoint} for anything that save()
  // would not have written for such blocks; then it stays empty.
  void load(std::string_view saved, uint32_t index_block_tokens);
  // The delta records that make each shard's lane hold what lies here; `tiers` is the store's.
  std::vector<Bytes> content(uint32_t n_shards, uint8_t tiers) const;

  size_t size() const {
    std::lock_guard guard(mutex_);
    return held_.size();
  }

 private:
  const uint32_t lane_;
  const uint64_t blocks_max_;
  mutable std::mutex mutex_;
  std::unordered_map<uint64_t, Meaning> held_;
  std::unordered_map<uint64_t, uint32_t> holders_;  // block key -> engine keys that mean it
};

}  // namespace kvatlas
