// Reads one event value of a batch into its arrays; the fields and their rules are here.
//
// Thread safety: none; a reader lives for one event.
#pragma once

#include <cstring>
#include <utility>

#include "ingest/native/event_fields.hpp"
#include "ingest/native/extra_keys_reader.hpp"
#include "ingest/native/msgpack.hpp"

namespace kvatlas {
using namespace event_fields;

// Reads one event value. Every read_* takes one whole value and says whether it has the right
// type; a value of the wrong type is stepped over. `depth` counts the containers open around it.
class EventReader {
 public:
  EventReader(MsgpackCursor cursor, Batch& batch) : in_(cursor), batch_(batch) {}

  const uint8_t* position() const { return in_.position(); }

  // Reads the event at the cursor into the batch, or counts why not.
  void read() {
    event_ = Event{};
    begin_ = in_.position();
    bad_ = 0;
    seen_ = 0;
    Tag tag = Tag::invalid;
    switch (in_.kind()) {
      case Kind::bin: return read_wrapped();
      case Kind::array: tag = read_fields_in_order(); break;
      case Kind::map: tag = read_fields_by_name(); break;
      default: in_.skip(0);
    }
    finish(tag);
  }

 private:
  void read_wrapped() {
    if (wrapped_) {
      in_.skip(0);
      ++batch_.bad_events;
      return;
    }
    const std::string_view inner = in_.read_bytes();
    const auto* begin = reinterpret_cast<const uint8_t*>(inner.data());
    EventReader reader(MsgpackCursor(begin, begin + inner.size()), batch_);
    reader.wrapped_ = true;
    try {
      reader.read();
    } catch (const Broken&) {
      ++batch_.bad_events;
    }
  }

  Tag read_fields_in_order() {
    const uint64_t n = in_.read_array();
    if (n == 0) return Tag::invalid;
    Tag tag = Tag::invalid;
    if (in_.kind() == Kind::str) tag = tag_of(in_.read_bytes());
    else in_.skip(1);
    for (uint64_t i = 0; i + 1 < n; ++i) {
      Field field = kIgnored;
      if (tag == Tag::stored && i < kStoredOrder.size()) field = kStoredOrder[i];
      if (tag == Tag::removed && i < kRemovedOrder.size()) field = kRemovedOrder[i];
      read_field(field);
    }
    return tag;
  }

  Tag read_fields_by_name() {
    Tag tag = Tag::invalid;
    const uint64_t n = in_.read_map();
    for (uint64_t i = 0; i < n; ++i) {
      if (in_.kind() != Kind::str) {
        in_.skip(1);
        in_.skip(1);
        continue;
      }
      const std::string_view key = in_.read_bytes();
      if (key != "type") {
        read_field(field_of(key));
      } else if (in_.kind() == Kind::str) {
        tag = tag_of(in_.read_bytes());
      } else {
        in_.skip(1);
        tag = Tag::invalid;
      }
    }
    return tag;
  }

  void read_field(Field field) {
    if (field == kIgnored) return in_.skip(1);
    const bool is_nil = in_.kind() == Kind::nil;
    const bool good = is_nil ? reset(field) : read_value(field);
    seen_ = is_nil ? seen_ & ~bit(field) : seen_ | bit(field);
    bad_ = good ? bad_ & ~bit(field) : bad_ | bit(field);
  }

  bool reset(Field field) {
    in_.read_nil();
    switch (field) {
      case kHashes: event_.hashes = {}; break;
      case kParent: event_.parent = 0; break;
      case kTokens: event_.tokens = {}; break;
      case kBlockSize: event_.block_size = 0; break;
      case kLoraId: event_.has_lora_id = false; break;
      case kMedium: event_.medium = {}; break;
      case kLoraName: event_.lora_name = event_.cache_salt = {}; break;
      case kExtraKeys: event_.has_extras = false; event_.extras = {}; break;
      case kGroup: event_.group = 0; break;
      case kSpecKind: event_.kind = {}; break;
      case kWindow: event_.has_window = false; event_.window = 0; break;
      case kLocality: event_.locality = {}; break;
      case kOwnership: event_.ownership = {}; break;
      case kChunkBlocks: event_.chunk_blocks = 0; break;
      case kInventory: event_.begins_inventory = event_.ends_inventory = false; break;
      case kFields: break;
    }
    return true;
  }

  bool read_value(Field field) {
    switch (field) {
      case kHashes: return read_hashes();
      case kParent: return read_hash(event_.parent);
      case kTokens: return read_tokens();
      case kBlockSize: return read_length(event_.block_size);
      case kLoraId: return read_lora_id();
      case kMedium: return read_text(event_.medium);
      case kLoraName: return read_lora_name();
      case kExtraKeys: return read_extra_keys();
      case kGroup: return read_group();
      case kSpecKind: return read_text(event_.kind);
      case kWindow: return event_.has_window = read_length(event_.window);
      case kLocality: return read_text(event_.locality);
      case kOwnership: return read_text(event_.ownership);
      case kChunkBlocks: return read_length(event_.chunk_blocks);
      case kInventory: return read_inventory();
      case kFields: break;
    }
    return false;
  }

  bool refuse() {
    in_.skip(1);
    return false;
  }

  bool read_hash(uint64_t& hash, int depth = 1) {
    const Kind kind = in_.kind();
    if (kind == Kind::integer) {
      bool negative;
      hash = in_.read_integer(negative);
      return true;
    }
    if (kind != Kind::bin) {
      in_.skip(depth);
      return false;
    }
    const std::string_view digest = in_.read_bytes();
    hash = 0;
    for (char byte : digest.substr(digest.size() > 8 ? digest.size() - 8 : 0)) hash = hash << 8 | static_cast<uint8_t>(byte);
    return !digest.empty();
  }

  bool read_hashes() {
    if (in_.kind() != Kind::array) return refuse();
    const uint64_t n = in_.read_array();
    const size_t begin = batch_.hashes.size();
    bool good = true;
    for (uint64_t i = 0; i < n; ++i) {
      uint64_t hash = 0;
      good &= read_hash(hash, 2);
      batch_.hashes.push_back(hash);
    }
    event_.hashes = {static_cast<uint32_t>(begin), static_cast<uint32_t>(n)};
    return good;
  }

  bool read_tokens() {
    if (in_.kind() != Kind::array) return refuse();
    const uint64_t n = in_.read_array();
    std::vector<uint32_t>& tokens = batch_.tokens;
    const size_t begin = tokens.size();
    // A token takes at least a byte, so no more than the payload can ever be reserved.
    const auto bytes_left = static_cast<uint64_t>(in_.end() - in_.position());
    if (n > bytes_left) throw_broken_after_types(n);
    tokens.resize(begin + n);
    uint32_t* out = tokens.data() + begin;
    bool good = true;
    for (uint64_t i = 0; i < n;) {
      i += read_token_run(out + i, n - i);
      if (i == n) break;
      good &= read_token(out[i]);
      ++i;
    }
    event_.tokens = {static_cast<uint32_t>(begin), static_cast<uint32_t>(n)};
    return good;
  }

  // An array that claims more values than bytes are left breaks the payload somewhere.
  [[noreturn]] void throw_broken_after_types(uint64_t n) {
    for (uint64_t i = 0; i < n; ++i) in_.skip(2);
    throw Broken();
  }

  // The usual tokens: fixint, uint8, uint16, uint32, each followed by at least 8 readable bytes.
  // Returns how many were read.
  uint64_t read_token_run(uint32_t* out, uint64_t n) {
    const uint8_t* at = in_.position();
    if (in_.end() - at < 16) return 0;
    const uint8_t* last = in_.end() - 16;
    uint64_t i = 0;
    for (; i < n && at <= last; ++i) {
      const uint8_t tag = *at;
      if (tag == 0xcd || tag == 0xce) {
        // Two and four bytes alternate at random in real text: no branch between them.
        const unsigned wide = tag & 2u;  // 0xcd: 0, 0xce: 2
        uint32_t word;
        std::memcpy(&word, at + 1, sizeof word);
        out[i] = __builtin_bswap32(word) >> (16 - 8 * wide);
        at += 3 + wide;
      } else if (tag <= 0x7f) {
        out[i] = tag;
        at += 1;
      } else if (tag == 0xcc) {
        out[i] = at[1];
        at += 2;
      } else {
        break;
      }
    }
    in_.seek(at);
    return i;
  }

  bool read_token(uint32_t& token) {
    if (in_.kind() != Kind::integer) {
      in_.skip(2);
      return false;
    }
    bool negative;
    const uint64_t value = in_.read_integer(negative);
    token = static_cast<uint32_t>(value);
    return !negative && value <= 0xffffffffu;
  }

  bool read_length(uint32_t& length) {
    uint64_t value = 0;
    if (!read_unsigned(value) || value > 0x7fffffffu) return false;
    length = static_cast<uint32_t>(value);
    return true;
  }

  bool read_unsigned(uint64_t& value) {
    if (in_.kind() != Kind::integer) return refuse();
    bool negative;
    value = in_.read_integer(negative);
    return !negative;
  }

  bool read_group() {
    uint64_t value = 0;
    if (!read_unsigned(value) || value > 63) return false;
    event_.group = static_cast<uint16_t>(value);
    return true;
  }

  bool read_lora_id() {
    if (in_.kind() != Kind::integer) return refuse();
    event_.lora_id = in_.read_integer(event_.lora_id_negative);
    return event_.has_lora_id = true;
  }

  bool read_text(Text& text) {
    if (in_.kind() != Kind::str) return refuse();
    text = {in_.read_bytes(), true};
    return true;
  }

  // Anything else than these two words says nothing.
  bool read_inventory() {
    Text word;
    const bool good = read_text(word);
    event_.begins_inventory = good && word.value == "begin";
    event_.ends_inventory = good && word.value == "end";
    return true;
  }

  bool read_lora_name() {
    event_.lora_name = event_.cache_salt = {};
    if (in_.kind() == Kind::str) return read_text(event_.lora_name);
    if (in_.kind() != Kind::map) return refuse();
    const uint64_t n = in_.read_map();
    for (uint64_t i = 0; i < n; ++i) {
      const bool is_salt = in_.kind() == Kind::str && peek_text() == "cache_salt";
      in_.skip(2);
      if (!is_salt) {
        in_.skip(2);
        continue;
      }
      event_.cache_salt = {};
      if (in_.kind() == Kind::str) event_.cache_salt = {in_.read_bytes(), true};
      else in_.skip(2);
    }
    return true;
  }

  std::string_view peek_text() {
    const uint8_t* at = in_.position();
    const std::string_view text = in_.read_bytes();
    in_.seek(at);
    return text;
  }

  bool read_extra_keys() {
    if (in_.kind() != Kind::array) return refuse();
    return ExtraKeysReader(in_, batch_).read(event_, n_extras_);
  }

  void finish(Tag tag) {
    const uint32_t looked_at = tag == Tag::stored ? kStoredFields : tag == Tag::removed ? kRemovedFields : 0;
    const bool needs_hashes = looked_at != 0;
    if (tag == Tag::unknown) {
      ++batch_.unknown_events;
      return;
    }
    if (tag == Tag::invalid || (bad_ & looked_at) != 0 || (needs_hashes && (seen_ & bit(kHashes)) == 0) ||
        (tag == Tag::stored && event_.has_extras && n_extras_ != event_.hashes.count)) {
      ++batch_.bad_events;
      return;
    }
    event_.type = tag == Tag::stored ? EventType::stored : tag == Tag::removed ? EventType::removed : EventType::cleared;
    if (tag != Tag::cleared) event_.tier = tier_of(event_.medium, event_.locality);
    if (tag == Tag::stored) note_stored();
    if (tag == Tag::removed && event_.hashes.count > 0) batch_.removed_tiers |= static_cast<uint32_t>(event_.tier) & 12u;
    event_.raw = {reinterpret_cast<const char*>(begin_), static_cast<size_t>(in_.position() - begin_)};
    batch_.events.push_back(event_);
  }

  void note_stored() {
    // An empty store on gpu names its group too: the engine needs that group's blocks already.
    if (event_.hashes.count > 0 || event_.tier == Tier::gpu) {
      const uint64_t group = uint64_t{1} << event_.group;
      batch_.group_mask |= group;
      if (event_.kind.present) {
        const bool full = is_full_attention(event_.kind.value);
        batch_.full_groups = full ? batch_.full_groups | group : batch_.full_groups & ~group;
        batch_.other_groups = full ? batch_.other_groups & ~group : batch_.other_groups | group;
      }
      batch_.store_tiers |= static_cast<uint32_t>(event_.tier) & 12u;
    }
    const bool is_dense = event_.tier == Tier::gpu && event_.tokens.count > 0 &&
                          event_.tokens.count == static_cast<uint64_t>(event_.hashes.count) * event_.block_size;
    if (is_dense && (batch_.dense_block_size == 0 || event_.block_size < batch_.dense_block_size))
      batch_.dense_block_size = event_.block_size;
  }

  MsgpackCursor in_;
  Batch& batch_;
  Event event_;
  uint32_t seen_ = 0, bad_ = 0;  // by Field; of a repeated field the last value counts
  uint64_t n_extras_ = 0;
  const uint8_t* begin_ = nullptr;
  bool wrapped_ = false;
};

}  // namespace kvatlas
