// Reads the field `extra_keys`: per block a list of text, bytes and (text, offset) pairs, or nil.
#pragma once

#include "ingest/native/decode.hpp"
#include "ingest/native/msgpack.hpp"

namespace kvatlas {

class ExtraKeysReader {
 public:
  ExtraKeysReader(MsgpackCursor& cursor, Batch& batch) : in_(cursor), batch_(batch) {}

  // Reads the list at the cursor; n: how many blocks it speaks of. False when one is ill-formed.
  // REQUIRES: kind() array.
  bool read(Event& event, uint64_t& n) {
    n = in_.read_array();
    const size_t begin = batch_.block_extras.size();
    bool good = true, any = false;
    for (uint64_t i = 0; i < n; ++i) {
      const bool is_nil = in_.kind() == Kind::nil;
      Span elements{static_cast<uint32_t>(batch_.extra_keys.size()), 0};
      if (is_nil) {
        in_.read_nil();
      } else {
        good &= read_block_extras(elements);
        any = true;
      }
      batch_.block_extras.push_back(elements);
      batch_.block_has_extras.push_back(!is_nil);
    }
    event.has_extras = true;
    event.extras = {static_cast<uint32_t>(begin), any ? static_cast<uint32_t>(n) : 0};
    if (!any) {  // the usual case: nothing to keep
      batch_.block_extras.resize(begin);
      batch_.block_has_extras.resize(begin);
    }
    return good;
  }

 private:
  bool read_block_extras(Span& elements) {
    if (in_.kind() != Kind::array) {
      in_.skip(2);
      return false;
    }
    const uint64_t n = in_.read_array();
    for (uint64_t i = 0; i < n; ++i) batch_.extra_keys.push_back(read_extra_key());
    elements.count = static_cast<uint32_t>(n);
    return true;
  }

  ExtraKey read_extra_key() {
    const Kind kind = in_.kind();
    if (kind == Kind::str) return {ExtraKey::Form::text, in_.read_bytes(), 0};
    if (kind == Kind::bin) return {ExtraKey::Form::bytes, in_.read_bytes(), 0};
    ExtraKey key{ExtraKey::Form::opaque, {}, 0};
    const uint8_t* begin = in_.position();
    in_.skip(3);
    const uint8_t* end = in_.position();
    if (kind != Kind::array) return key;
    in_.seek(begin);
    if (in_.read_array() >= 2 && in_.kind() == Kind::str) {
      key.value = in_.read_bytes();
      if (in_.kind() == Kind::integer) {
        bool negative;
        const uint64_t offset = in_.read_integer(negative);
        key.offset = static_cast<int64_t>(offset);
        if (negative || offset <= INT64_MAX) key.form = ExtraKey::Form::pair;
      }
    }
    in_.seek(end);
    return key;
  }

  MsgpackCursor& in_;
  Batch& batch_;
};

}  // namespace kvatlas
