#include "index/native/remote_batch.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <numeric>
#include <optional>
#include <string>

#include "index/native/delta.hpp"
#include "index/native/match.hpp"

namespace kvatlas {
namespace {

struct LaneNews {
  size_t from = 0;  // where what stays of it begins
  bool is_cleared = false, is_keyed = false, tells_closed = false, is_closed = false;
};

std::map<uint32_t, LaneNews> news_of(const uint8_t* delta, size_t bytes) {
  check_delta(delta, bytes);
  std::map<uint32_t, LaneNews> news;
  for_each_record(delta, bytes, [&](const DeltaRecord& record, const uint8_t* at) {
    LaneNews& lane = news[record.lane];
    if (record.op == DeltaOp::clear_lane) {
      lane = {.from = static_cast<size_t>(at - delta), .is_cleared = true};
    } else if (record.op == DeltaOp::close || record.op == DeltaOp::open) {
      lane.tells_closed = true;
      lane.is_closed = record.op == DeltaOp::close;
    } else if (record.count > 0) {
      lane.is_keyed = true;
    }
  });
  return news;
}

// What stays of one record of the batch.
struct Piece {
  uint8_t op;
  uint32_t element;
  uint32_t count;
  const uint8_t* keys;

  uint64_t key(size_t i) const {
    uint64_t key;
    std::memcpy(&key, keys + 8 * i, sizeof key);
    return Generation::normal(key);
  }
};

struct Pieces {
  std::vector<Piece> all;  // as the batch has them
  std::vector<uint64_t> order;  // tag << 32 | place in `all`, ascending

  const Piece& at(size_t i) const { return all[static_cast<uint32_t>(order[i])]; }
  uint32_t tag(size_t i) const { return static_cast<uint32_t>(order[i] >> 32); }
};

// All that is told of one segment: pieces `begin` to `end` - 1, in order.
struct SegmentNews {
  uint32_t bucket, begin, end;
  uint64_t place;  // within the bucket

  // Lone ones with equal headers come together, removals first: memory that is full does not keep them out.
  static uint64_t place_of_lone(const Piece& piece) { return (piece.op == static_cast<uint8_t>(DeltaOp::remove) ? 0ull : 1ull) << 32 | piece.element; }
  static constexpr uint64_t kPlaceOfOthers = 2ull << 32;
  bool is_lone() const { return place < kPlaceOfOthers; }  // one key

  bool operator<(const SegmentNews& other) const {
    if (bucket != other.bucket) return bucket < other.bucket;
    return place != other.place ? place < other.place : begin < other.begin;
  }
};

template <class T>
void append(std::vector<uint8_t>& out, const T& value) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(&value);
  out.insert(out.end(), bytes, bytes + sizeof value);
}

// Adds one to a u16.
void count_up(std::vector<uint8_t>& out, size_t at) {
  uint16_t n;
  std::memcpy(&n, out.data() + at, sizeof n);
  ++n;
  std::memcpy(out.data() + at, &n, sizeof n);
}

// Fills the calls of one bucket, each with about as many keys as a run of the script takes. REQUIRES: lone keys first.
class Filler {
 public:
  Filler(uint32_t bucket, std::vector<RemoteCall>& calls) : bucket_(bucket), calls_(calls) {}

  void put_lone(uint32_t tag, const Piece& piece) {
    if (is_full()) begin_call();
    if (run_at_ == 0 || !continues(piece)) begin_run(0, piece);  // a call begins with their count
    calls_.back().tags.push_back(tag);
    put_key(piece.key(0));
  }

  // Where the call is full before the last key the segment goes on in the next.
  void put(const SegmentNews& news, const Pieces& pieces) {
    run_at_ = 0;
    size_t segment_at = 0;
    for (size_t p = news.begin; p < news.end; ++p) {
      const Piece& piece = pieces.at(p);
      for (size_t i = 0; i < piece.count; ++i) {
        if (run_at_ == 0 || !continues(piece) || run_keys_ == kRemoteKeysPerRecord) {
          if (segment_at == 0 || is_full()) segment_at = begin_segment(pieces.tag(news.begin));
          begin_run(segment_at, piece);
        }
        put_key(piece.key(i));
      }
    }
  }

 private:
  bool is_full() const { return !has_call_ || calls_.back().keys >= kRemoteKeysPerCall; }
  bool continues(const Piece& piece) const { return piece.op == run_->op && piece.element == run_->element; }

  void begin_call() {
    calls_.push_back({bucket_, {}, {}, 0});
    append(calls_.back().records, uint16_t{0});
    has_call_ = true;
    run_at_ = 0;
  }

  size_t begin_segment(uint32_t tag) {
    if (is_full()) begin_call();
    calls_.back().tags.push_back(tag);
    append(calls_.back().records, uint16_t{0});
    return calls_.back().records.size() - 2;
  }

  void begin_run(size_t counted_at, const Piece& piece) {
    std::vector<uint8_t>& records = calls_.back().records;
    count_up(records, counted_at);
    append(records, piece.op);
    append(records, piece.element);
    run_at_ = records.size();
    append(records, uint16_t{0});
    run_ = &piece;
    run_keys_ = 0;
  }

  void put_key(uint64_t key) {
    RemoteCall& call = calls_.back();
    append(call.records, key);
    count_up(call.records, run_at_);
    ++call.keys;
    ++run_keys_;
  }

  uint32_t bucket_;
  std::vector<RemoteCall>& calls_;
  bool has_call_ = false;
  size_t run_at_ = 0;  // where the open record counts its keys; 0: none is open
  size_t run_keys_ = 0;
  const Piece* run_ = nullptr;  // whose header it has
};

// By the upper half, in four passes that keep what is equal in its order. Faster than std::sort, for many of few tags above all.
void sort_by_tag(std::vector<uint64_t>& order) {
  std::vector<uint64_t> sorted(order.size());
  for (int shift = 32; shift < 64; shift += 8) {
    std::array<size_t, 257> begins{};
    for (const uint64_t one : order) ++begins[(one >> shift & 255) + 1];
    std::partial_sum(begins.begin(), begins.end(), begins.begin());
    for (const uint64_t one : order) sorted[begins[one >> shift & 255]++] = one;
    order.swap(sorted);
  }
}

Pieces pieces_of(const uint8_t* delta, size_t bytes, const std::unordered_map<uint32_t, uint32_t>& phys_of) {
  const std::map<uint32_t, LaneNews> news = news_of(delta, bytes);
  Pieces out;
  for_each_record(delta, bytes, [&](const DeltaRecord& record, const uint8_t* at) {
    const bool has_keys = (record.op == DeltaOp::add || record.op == DeltaOp::remove) && record.count > 0;
    if (!has_keys || static_cast<size_t>(at - delta) < news.at(record.lane).from) return;
    const auto phys = phys_of.find(record.lane);
    if (phys == phys_of.end()) return;
    out.order.push_back(static_cast<uint64_t>(segment_tag(record.segment_key)) << 32 | out.all.size());
    out.all.push_back({static_cast<uint8_t>(record.op), phys->second << 8 | record.tiers, record.count, at + sizeof record});
  });
  sort_by_tag(out.order);
  return out;
}

std::vector<SegmentNews> segments_of(const Pieces& pieces, uint32_t n_buckets) {
  std::vector<SegmentNews> segments;
  const auto n = static_cast<uint32_t>(pieces.order.size());
  for (uint32_t begin = 0, end; begin < n; begin = end) {
    for (end = begin + 1; end < n && pieces.tag(end) == pieces.tag(begin);) ++end;
    const bool is_lone = end - begin == 1 && pieces.at(begin).count == 1;
    segments.push_back({pieces.tag(begin) % n_buckets, begin, end, is_lone ? SegmentNews::place_of_lone(pieces.at(begin)) : SegmentNews::kPlaceOfOthers});
  }
  std::sort(segments.begin(), segments.end());
  return segments;
}

}  // namespace

RemoteLanesOfBatch remote_lanes_of(const uint8_t* delta, size_t bytes) {
  RemoteLanesOfBatch out;
  for (const auto& [lane, news] : news_of(delta, bytes)) {
    if (news.is_keyed) out.keyed.push_back(lane);
    if (news.is_cleared) out.cleared.push_back(lane);
    if (news.tells_closed) out.closed.emplace_back(lane, news.is_closed);
  }
  return out;
}

std::vector<RemoteCall> remote_pack(const uint8_t* delta, size_t bytes, const std::unordered_map<uint32_t, uint32_t>& phys_of, uint32_t n_buckets) {
  if (n_buckets == 0) throw Error(ErrorKind::input, "n_buckets: expected at least 1, got 0");
  const Pieces pieces = pieces_of(delta, bytes, phys_of);
  std::vector<RemoteCall> calls;
  std::optional<Filler> filler;
  uint32_t bucket = 0;
  for (const SegmentNews& news : segments_of(pieces, n_buckets)) {
    if (!filler || news.bucket != bucket) filler.emplace(bucket = news.bucket, calls);
    if (news.is_lone())
      filler->put_lone(pieces.tag(news.begin), pieces.at(news.begin));
    else
      filler->put(news, pieces);
  }
  return calls;
}

std::vector<RemoteQuestion> remote_questions(const uint64_t* keys, size_t n_keys, uint32_t n_buckets) {
  if (n_buckets == 0) throw Error(ErrorKind::input, "n_buckets: expected at least 1, got 0");
  std::vector<RemoteQuestion> out;
  for (size_t from = 0; from < n_keys; from += kSegmentBlocks) {
    const size_t count = std::min<size_t>(kSegmentBlocks, n_keys - from);
    const uint32_t tag = segment_tag(keys[from]);
    const uint32_t bucket = tag % n_buckets;
    auto of_bucket = std::find_if(out.begin(), out.end(), [&](const RemoteQuestion& q) { return q.bucket == bucket && q.keys.size() < kRemoteKeysPerQuestion; });
    if (of_bucket == out.end()) of_bucket = out.insert(out.end(), RemoteQuestion{bucket, {}, {}, {}});
    of_bucket->tags.push_back(tag);
    append(of_bucket->questions, static_cast<uint16_t>(count));
    for (size_t i = from; i < from + count; ++i) {
      append(of_bucket->questions, Generation::normal(keys[i]));
      of_bucket->keys.push_back(keys[i]);
    }
  }
  return out;
}

}  // namespace kvatlas
