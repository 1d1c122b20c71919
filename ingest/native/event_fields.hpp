// The names of the wire: event types, their fields in order and by name, media and what tier they are.
//
// Source: vLLM `distributed/kv_events.py`, SGLang `disaggregation/kv_events.py`.
#pragma once

#include <array>
#include <string_view>
#include <utility>

#include "ingest/native/decode.hpp"

namespace kvatlas {
namespace event_fields {

enum Field : uint8_t {
  kHashes, kParent, kTokens, kBlockSize, kLoraId, kMedium, kLoraName, kExtraKeys, kGroup, kSpecKind, kWindow,
  kLocality, kOwnership, kChunkBlocks, kInventory, kFields, kIgnored = kFields
};

inline constexpr uint32_t bit(Field field) { return 1u << field; }
inline constexpr uint32_t kStoredFields = bit(kInventory) - 1;
inline constexpr uint32_t kRemovedFields = bit(kHashes) | bit(kMedium) | bit(kGroup) | bit(kLocality) | bit(kOwnership);

inline constexpr std::array<Field, 11> kStoredOrder = {kHashes, kParent, kTokens, kBlockSize, kLoraId, kMedium,
                                                kLoraName, kExtraKeys, kGroup, kSpecKind, kWindow};
inline constexpr std::array<Field, 3> kRemovedOrder = {kHashes, kMedium, kGroup};

inline Field field_of(std::string_view key) {
  static constexpr std::pair<std::string_view, Field> kNames[] = {
      {"block_hashes", kHashes}, {"parent_block_hash", kParent}, {"token_ids", kTokens}, {"block_size", kBlockSize},
      {"lora_id", kLoraId}, {"medium", kMedium}, {"lora_name", kLoraName}, {"extra_keys", kExtraKeys},
      {"group_idx", kGroup}, {"kv_cache_spec_kind", kSpecKind}, {"kv_cache_spec_sliding_window", kWindow},
      {"locality", kLocality}, {"ownership", kOwnership}, {"chunk_blocks", kChunkBlocks}, {"inventory", kInventory}};
  for (const auto& [name, field] : kNames)
    if (name == key) return field;
  return kIgnored;
}

enum class Tag : uint8_t { stored, removed, cleared, unknown, invalid };

inline Tag tag_of(std::string_view name) {
  if (name == "BlockStored") return Tag::stored;
  if (name == "BlockRemoved") return Tag::removed;
  if (name == "AllBlocksCleared") return Tag::cleared;
  return Tag::unknown;
}

inline bool same_word(std::string_view text, std::string_view upper) {
  if (text.size() != upper.size()) return false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if ((c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c) != upper[i]) return false;
  }
  return true;
}

inline Tier tier_of(const Text& medium, const Text& locality) {
  if (!medium.present || same_word(medium.value, "GPU")) return Tier::gpu;
  if (same_word(medium.value, "CPU") || same_word(medium.value, "CPU_PINNED")) return Tier::cpu;
  if (same_word(medium.value, "DISK")) return Tier::disk;
  if (same_word(medium.value, "STORAGE")) return locality.present && same_word(locality.value, "LOCAL") ? Tier::disk : Tier::storage;
  if (same_word(medium.value, "EXTERNAL")) return Tier::storage;
  return Tier::unknown;
}

inline bool is_full_attention(std::string_view kind) {
  return kind == "full_attention" || kind == "mla_attention" || kind == "sink_full_attention";
}

}  // namespace event_fields

}  // namespace kvatlas
