#include "index/native/remote_batch.hpp"

#include <algorithm>
#include <cstring>
#include <map>
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

// The records of one segment, in their order.
struct SegmentRecords {
  struct Run {
    uint8_t op;
    uint32_t element;
    std::vector<uint64_t> keys;
  };
  uint32_t tag;
  std::vector<Run> runs;

  void put(uint8_t op, uint32_t element, uint64_t key) {
    if (runs.empty() || runs.back().op != op || runs.back().element != element || runs.back().keys.size() == kRemoteKeysPerRecord)
      runs.push_back({op, element, {}});
    runs.back().keys.push_back(key);
  }
};

template <class T>
void append(std::vector<uint8_t>& out, const T& value) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(&value);
  out.insert(out.end(), bytes, bytes + sizeof value);
}

// Fills the calls of one bucket, each with about as many keys as a run of the script takes.
class Filler {
 public:
  Filler(uint32_t bucket, std::vector<RemoteCall>& calls) : bucket_(bucket), calls_(calls) {}

  void put(const SegmentRecords& group) {
    size_t count_at = 0;
    for (size_t i = 0; i < group.runs.size(); ++i) {
      if (i == 0 || is_full()) count_at = begin(group.tag);
      RemoteCall& call = calls_.back();
      const SegmentRecords::Run& run = group.runs[i];
      append(call.records, run.op);
      append(call.records, run.element);
      append(call.records, static_cast<uint16_t>(run.keys.size()));
      for (const uint64_t key : run.keys) append(call.records, key);
      call.keys += run.keys.size();
      uint16_t n;
      std::memcpy(&n, call.records.data() + count_at, sizeof n);
      ++n;
      std::memcpy(call.records.data() + count_at, &n, sizeof n);
    }
  }

 private:
  bool is_full() const { return !has_call_ || calls_.back().keys >= kRemoteKeysPerCall; }
  size_t begin(uint32_t tag) {
    if (is_full()) calls_.push_back({bucket_, {}, {}, 0});
    has_call_ = true;
    calls_.back().tags.push_back(tag);
    append(calls_.back().records, uint16_t{0});
    return calls_.back().records.size() - 2;
  }

  uint32_t bucket_;
  std::vector<RemoteCall>& calls_;
  bool has_call_ = false;
};

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
  const std::map<uint32_t, LaneNews> news = news_of(delta, bytes);
  std::vector<SegmentRecords> groups;
  std::unordered_map<uint32_t, size_t> group_of;  // by tag
  for_each_record(delta, bytes, [&](const DeltaRecord& record, const uint8_t* at) {
    const bool has_keys = (record.op == DeltaOp::add || record.op == DeltaOp::remove) && record.count > 0;
    if (!has_keys || static_cast<size_t>(at - delta) < news.at(record.lane).from) return;
    const auto phys = phys_of.find(record.lane);
    if (phys == phys_of.end()) return;
    const uint32_t tag = segment_tag(record.segment_key);
    const auto [place, is_new] = group_of.try_emplace(tag, groups.size());
    if (is_new) groups.push_back({tag, {}});
    const uint32_t element = phys->second << 8 | record.tiers;
    for (uint32_t i = 0; i < record.count; ++i) {
      uint64_t key;
      std::memcpy(&key, at + sizeof record + 8ull * i, sizeof key);
      groups[place->second].put(static_cast<uint8_t>(record.op), element, Generation::normal(key));
    }
  });
  std::stable_sort(groups.begin(), groups.end(), [&](const SegmentRecords& a, const SegmentRecords& b) { return a.tag % n_buckets < b.tag % n_buckets; });
  std::vector<RemoteCall> calls;
  for (size_t i = 0; i < groups.size();) {
    const uint32_t bucket = groups[i].tag % n_buckets;
    Filler filler(bucket, calls);
    for (; i < groups.size() && groups[i].tag % n_buckets == bucket; ++i) filler.put(groups[i]);
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
