#include "ingest/native/decode.hpp"

#include <string>

#include "index/native/error.hpp"
#include "ingest/native/event_reader.hpp"

namespace kvatlas {
namespace {

[[noreturn]] void refuse_batch(const std::string& where, const std::string& what) {
  throw Error(ErrorKind::decode, where + ": expected " + what);
}

class BatchReader {
 public:
  BatchReader(MsgpackCursor cursor, Batch& batch) : in_(cursor), batch_(batch) {}

  void read() {
    try {
      switch (in_.kind()) {
        case Kind::array: read_in_order(); break;
        case Kind::map: read_by_name(); break;
        default: refuse_batch("$", "an array or a map");
      }
    } catch (const Broken&) {
      if (!has_events_) refuse_batch("$", "a batch, the payload breaks before its events");
      batch_.broken = true;
    }
    if (!has_events_) refuse_batch("$", "a batch with events");
  }

 private:
  void read_in_order() {
    const uint64_t n = in_.read_array();
    if (n < 2) refuse_batch("$", "at least 2 elements, got " + std::to_string(n));
    read_ts();
    read_events();
    if (n > 2) read_rank();
    for (uint64_t i = 3; i < n; ++i) in_.skip(0);
  }

  void read_by_name() {
    const uint64_t n = in_.read_map();
    for (uint64_t i = 0; i < n; ++i) {
      if (in_.kind() != Kind::str) {
        in_.skip(0);
        in_.skip(0);
        continue;
      }
      const std::string_view key = in_.read_bytes();
      if (key == "ts") read_ts();
      else if (key == "data_parallel_rank") read_rank();
      else if (key == "events" && !has_events_) read_events();
      else in_.skip(0);
    }
  }

  void read_ts() {
    const Kind kind = in_.kind();
    if (kind == Kind::floating) {
      batch_.ts = in_.read_float();
      batch_.has_ts = true;
    } else if (kind == Kind::integer) {
      bool negative;
      const uint64_t value = in_.read_integer(negative);
      batch_.ts = negative ? static_cast<double>(static_cast<int64_t>(value)) : static_cast<double>(value);
      batch_.has_ts = true;
    } else {
      in_.skip(0);
      batch_.has_ts = false;
    }
  }

  void read_rank() {
    int32_t rank = -1;
    if (in_.kind() == Kind::integer) {
      bool negative;
      const uint64_t value = in_.read_integer(negative);
      if (!negative && value <= 65535) rank = static_cast<int32_t>(value);
    } else {
      in_.skip(0);
    }
    batch_.rank = rank;  // only now: where it breaks off, an earlier one stays
  }

  void read_events() {
    if (in_.kind() != Kind::array) {
      in_.skip(0);
      refuse_batch("$.events", "an array");
    }
    const uint64_t n = in_.read_array();
    has_events_ = true;
    for (uint64_t i = 0; i < n; ++i) {
      EventReader reader(in_, batch_);
      reader.read();
      in_.seek(reader.position());
    }
  }

  MsgpackCursor in_;
  Batch& batch_;
  bool has_events_ = false;
};

}  // namespace

namespace {
// Empties an array that is filled anew for every batch; gives back what one huge batch took.
template <class Array>
void reuse(Array& array) {
  constexpr size_t kKeepBytes = 4 << 20;
  if (array.capacity() * sizeof(typename Array::value_type) > kKeepBytes) Array().swap(array);
  array.clear();
}
}  // namespace

void Batch::clear() {
  has_ts = broken = false;
  rank = -1;
  reuse(events);
  reuse(hashes);
  reuse(tokens);
  reuse(extra_keys);
  reuse(block_extras);
  reuse(block_has_extras);
  bad_events = unknown_events = dense_block_size = store_tiers = removed_tiers = 0;
  group_mask = full_groups = other_groups = 0;
}

void decode_event(std::string_view raw, Batch& batch) {
  batch.clear();
  const auto* begin = reinterpret_cast<const uint8_t*>(raw.data());
  EventReader(MsgpackCursor(begin, begin + raw.size()), batch).read();
}

void decode(const uint8_t* payload, size_t bytes, Batch& batch) {
  batch.clear();
  if (bytes > 0xffffffffu) refuse_batch("$", "a payload below 4 GiB");
  BatchReader(MsgpackCursor(payload, payload + bytes), batch).read();
}

}  // namespace kvatlas
