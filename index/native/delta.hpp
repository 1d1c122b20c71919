// Delta records: the residency changes that one shard applies, as the mirror writes them.
//
//   delta  := record*                                            little-endian
//   record := op u8 | tier bits u8 | 0 u16 | count u32 | lane u32 | 0 u32 | segment key u64 | count x block key u64
//
// Thread safety: plain data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "index/native/error.hpp"
#include "index/native/generation.hpp"

namespace kvatlas {

enum class DeltaOp : uint8_t {
  add = 1,         // the keys are held by the lane in these tiers
  remove = 2,      // no longer
  clear_lane = 3,  // nothing is held by the lane any more; count 0
  close = 4,       // the lane's content is closed under prefixes, gpu only; count 0
  open = 5         // it may no longer be; count 0
};

struct DeltaRecord {
  DeltaOp op;
  uint8_t tiers;
  uint16_t zero16;
  uint32_t count;
  uint32_t lane;
  uint32_t zero32;
  uint64_t segment_key;
};
static_assert(sizeof(DeltaRecord) == 24);

inline size_t record_bytes(const DeltaRecord& record) { return sizeof record + 8ull * record.count; }

// Throws Error{input}, saying at which byte, unless `delta` is a whole number of valid records.
inline void check_delta(const uint8_t* delta, size_t bytes) {
  auto refuse = [](size_t at, const std::string& what) {
    return Error(ErrorKind::input, "delta at byte " + std::to_string(at) + ": " + what);
  };
  for (size_t at = 0; at < bytes;) {
    DeltaRecord record;
    if (bytes - at < sizeof record) throw refuse(at, "expected a record of 24 bytes, got " + std::to_string(bytes - at));
    std::memcpy(&record, delta + at, sizeof record);
    const auto op = static_cast<uint8_t>(record.op);
    if (op < 1 || op > 5) throw refuse(at, "expected an op from 1 to 5, got " + std::to_string(op));
    if (record.lane >= kLanesMax) throw refuse(at, "expected a lane below 65535, got " + std::to_string(record.lane));
    const bool has_keys = record.op == DeltaOp::add || record.op == DeltaOp::remove;
    if (has_keys && (record.tiers == 0 || record.tiers >= 1 << kTiers))
      throw refuse(at, "expected tier bits from 1 to 63, got " + std::to_string(record.tiers));
    if (!has_keys && record.count != 0) throw refuse(at, "expected no keys for this op, got " + std::to_string(record.count));
    if ((bytes - at - sizeof record) / 8 < record.count)
      throw refuse(at, "expected " + std::to_string(record.count) + " keys, the delta ends before");
    at += sizeof record + 8ull * record.count;
  }
}

// Calls use(record, where it lies) for each. REQUIRES: check_delta has passed.
template <class Use>
void for_each_record(const uint8_t* delta, size_t bytes, const Use& use) {
  for (size_t at = 0; at < bytes;) {
    DeltaRecord record;
    std::memcpy(&record, delta + at, sizeof record);
    use(record, delta + at);
    at += record_bytes(record);
  }
}

// Collects records; consecutive keys of one (op, tier, lane, segment) share a record.
class DeltaWriter {
 public:
  void put(DeltaOp op, uint8_t tiers, uint32_t lane, uint64_t segment_key, uint64_t key) {
    if (!extends(op, tiers, lane, segment_key)) begin(op, tiers, lane, segment_key);
    append(&key, sizeof key);
    ++open_.count;
    std::memcpy(bytes_.data() + open_at_ + offsetof(DeltaRecord, count), &open_.count, sizeof open_.count);
  }
  void mark(DeltaOp op, uint32_t lane) {
    begin(op, 0, lane, 0);
    has_open_ = false;
  }
  const std::vector<uint8_t>& bytes() const { return bytes_; }
  void clear() {
    bytes_.clear();
    has_open_ = false;
  }

 private:
  bool extends(DeltaOp op, uint8_t tiers, uint32_t lane, uint64_t segment_key) const {
    return has_open_ && open_.op == op && open_.tiers == tiers && open_.lane == lane && open_.segment_key == segment_key;
  }
  void begin(DeltaOp op, uint8_t tiers, uint32_t lane, uint64_t segment_key) {
    open_ = {op, tiers, 0, 0, lane, 0, segment_key};
    open_at_ = bytes_.size();
    has_open_ = true;
    append(&open_, sizeof open_);
  }
  void append(const void* from, size_t n) {
    const size_t at = bytes_.size();
    bytes_.resize(at + n);
    std::memcpy(bytes_.data() + at, from, n);
  }

  std::vector<uint8_t> bytes_;
  DeltaRecord open_{};
  size_t open_at_ = 0;
  bool has_open_ = false;
};

}  // namespace kvatlas
