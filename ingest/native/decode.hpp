// Decodes a payload of KV events straight from its bytes: one pass, no object per token.
//
// The rules are those of ingest/wire/decoding.py, the plain Python decoder; a differential test
// holds both to the same result on any input.
//
// Thread safety: a Batch belongs to one thread at a time. Its text points into the payload.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace kvatlas {

enum class EventType : uint8_t { stored, removed, cleared };
enum class Tier : uint8_t { gpu = 1, cpu = 2, disk = 4, storage = 8, unknown = 16 };

struct Span {
  uint32_t begin = 0;
  uint32_t count = 0;
};

struct ExtraKey {
  enum class Form : uint8_t { text, bytes, pair, opaque };
  Form form;
  std::string_view value;
  int64_t offset;  // pair only
};

struct Text {
  std::string_view value;
  bool present = false;
};

struct Event {
  EventType type;
  Tier tier = Tier::gpu;
  uint16_t group = 0;
  Span hashes;        // of Batch::hashes
  Span tokens;        // of Batch::tokens
  uint64_t parent = 0;  // 0: none
  uint32_t block_size = 0;
  bool has_lora_id = false;
  bool lora_id_negative = false;
  uint64_t lora_id = 0;
  bool has_extras = false;  // the field was there, even all nil
  Span extras;              // of Batch::block_extras, one a hash; empty when all are nil
  uint32_t window = 0;
  bool has_window = false;
  uint32_t chunk_blocks = 0;  // stores in files: blocks of each, the last of which is named; 0: not said
  bool begins_inventory = false, ends_inventory = false;  // clears, of those that announce a store
  Text medium, lora_name, cache_salt, kind, locality, ownership;
  std::string_view raw;  // the event's own msgpack, within the payload
};

struct Batch {
  double ts = 0;
  bool has_ts = false;
  int32_t rank = -1;  // -1: none
  std::vector<Event> events;
  std::vector<uint64_t> hashes;
  std::vector<uint32_t> tokens;
  std::vector<ExtraKey> extra_keys;
  std::vector<Span> block_extras;     // of extra_keys
  std::vector<bool> block_has_extras; // nil is not the same as an empty list
  uint32_t bad_events = 0;
  uint32_t unknown_events = 0;
  bool broken = false;

  // Of the gpu stores in the batch: the smallest block size of a dense one, 0 when there is none.
  uint32_t dense_block_size = 0;
  uint64_t group_mask = 0;   // groups named by stores with at least one hash
  uint64_t full_groups = 0;  // of these, whose last spec kind in the batch is full attention
  uint64_t other_groups = 0; // ... is another one; groups in neither were given no kind
  uint32_t store_tiers = 0;    // bits of disk and storage, where stores name at least one hash
  uint32_t removed_tiers = 0;  // the same of removals

  void clear();
};

// Decodes one event that decode() has read before (Event::raw) into an empty batch.
void decode_event(std::string_view raw, Batch& batch);

// Fills `batch` (cleared first). Throws Error{decode} when not even the frame can be read.
void decode(const uint8_t* payload, size_t bytes, Batch& batch);

}  // namespace kvatlas
