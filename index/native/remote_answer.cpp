#include "index/native/remote_answer.hpp"

#include <algorithm>
#include <cstring>
#include <string_view>
#include <unordered_set>

#include "index/native/error.hpp"
#include "index/native/excerpt_format.hpp"
#include "index/native/remote_batch.hpp"

namespace kvatlas {
namespace {

// Reads an answer's parts, one after the other. Throws Error{decode} where it ends before.
class Cursor {
 public:
  Cursor(const uint8_t* bytes, size_t n_bytes) : bytes_(bytes), n_bytes_(n_bytes) {}

  bool at_end() const { return at_ == n_bytes_; }
  template <class T>
  T take() {
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  std::string_view take(size_t n) {
    if (n_bytes_ - at_ < n) throw Error(ErrorKind::decode, "answer at byte " + std::to_string(at_) + ": expected " + std::to_string(n) + " bytes, got " + std::to_string(n_bytes_ - at_));
    const std::string_view part(reinterpret_cast<const char*>(bytes_) + at_, n);
    at_ += n;
    return part;
  }

 private:
  const uint8_t* bytes_;
  size_t n_bytes_;
  size_t at_ = 0;
};

// Sets of values, each value once.
class Sets {
 public:
  static constexpr uint32_t kNobody = UINT32_MAX;

  explicit Sets(const RemoteLanes& lanes) : lanes_(lanes) {}

  // The number of the value's set, from 0.
  uint32_t number_of(std::string_view value) {
    if (value.empty()) return kNobody;
    const auto [at, is_new] = numbers_.try_emplace(value, kNobody);
    if (is_new) at->second = add(value);
    if (foreign_.contains(value)) ++foreign_values;
    return at->second;
  }

  std::vector<uint32_t> counts, elements;  // elements: lane << 8 | tiers, ascending
  uint64_t foreign_values = 0;

 private:
  uint32_t add(std::string_view value) {
    const size_t before = elements.size();
    if (!read(value)) {
      elements.resize(before);
      foreign_.insert(value);
      return kNobody;
    }
    if (elements.size() == before) return kNobody;
    std::sort(elements.begin() + static_cast<ptrdiff_t>(before), elements.end());
    counts.push_back(static_cast<uint32_t>(elements.size() - before));
    return static_cast<uint32_t>(counts.size() - 1);
  }

  bool read(std::string_view value) {
    if (value.size() % 4 != 0) return false;
    uint32_t last = 0;
    for (size_t i = 0; i < value.size(); i += 4) {
      uint32_t element;
      std::memcpy(&element, value.data() + i, sizeof element);
      const uint32_t phys = element >> 8, tiers = element & 0xff;
      if (phys <= last || tiers == 0 || tiers >= 1u << kTiers) return false;
      last = phys;
      if (const uint32_t lane = lanes_.lane(phys); lane != RemoteLanes::kNone) elements.push_back(lane << 8 | tiers);
    }
    return true;
  }

  const RemoteLanes& lanes_;
  std::unordered_map<std::string_view, uint32_t> numbers_;  // views of the answer
  std::unordered_set<std::string_view> foreign_;
};

template <class T>
void append(std::vector<uint8_t>& out, const T* from, size_t n) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(from);
  out.insert(out.end(), bytes, bytes + n * sizeof(T));
}

std::vector<uint8_t> excerpt_from(const Sets& sets, const std::vector<ExcerptRun>& runs, size_t n_keys, bool whole) {
  std::vector<uint32_t> lanes;
  for (const uint32_t element : sets.elements) lanes.push_back(element >> 8);
  std::sort(lanes.begin(), lanes.end());
  lanes.erase(std::unique(lanes.begin(), lanes.end()), lanes.end());
  std::vector<uint32_t> elements;
  for (const uint32_t element : sets.elements) {
    const auto place = std::lower_bound(lanes.begin(), lanes.end(), element >> 8) - lanes.begin();
    elements.push_back(static_cast<uint32_t>(place) << 8 | (element & 0xff));
  }
  ExcerptHeader header{};
  std::memcpy(header.magic, kExcerptMagic, sizeof header.magic);
  header.version = kExcerptVersion;
  header.flags = whole ? kExcerptWhole : 0;
  header.n_keys = static_cast<uint32_t>(n_keys);
  header.n_lanes = static_cast<uint32_t>(lanes.size());
  header.n_sets = static_cast<uint32_t>(sets.counts.size());
  header.n_elements = static_cast<uint32_t>(elements.size());
  header.n_runs = static_cast<uint32_t>(runs.size());
  std::vector<uint8_t> out;
  out.reserve(excerpt_bytes(header));
  append(out, &header, 1);
  append(out, lanes.data(), lanes.size());
  append(out, sets.counts.data(), sets.counts.size());
  append(out, elements.data(), elements.size());
  append(out, runs.data(), runs.size());
  return out;
}

}  // namespace

RemoteLanes::RemoteLanes(const std::vector<uint32_t>& pairs) {
  std::unordered_set<uint32_t> lanes;
  for (size_t i = 0; i + 1 < pairs.size(); i += 2) {
    const uint32_t phys = pairs[i], lane = pairs[i + 1];
    if (phys == 0 || phys > kRemotePhysMax || lane >= kLanesMax)
      throw Error(ErrorKind::decode, "lane map: expected a physical lane from 1 to 2^24-1 and a lane below 65535, got " + std::to_string(phys) + " and " + std::to_string(lane));
    if (!lanes.insert(lane).second || !lane_of_.try_emplace(phys, lane).second)
      throw Error(ErrorKind::decode, "lane map: expected each lane and each physical lane once, got " + std::to_string(lane) + " in " + std::to_string(phys) + " again");
  }
}

RemoteAnswer remote_answer(const uint8_t* bytes, size_t n_bytes, size_t n_keys, const RemoteLanes& lanes, bool whole) {
  Cursor cursor(bytes, n_bytes);
  RemoteAnswer answer;
  answer.life = cursor.take(cursor.take<uint8_t>());
  Sets sets(lanes);
  std::vector<ExcerptRun> runs;
  size_t n_seen = 0;
  while (!cursor.at_end()) {
    const auto count = cursor.take<uint16_t>();
    const uint32_t set = sets.number_of(cursor.take(cursor.take<uint32_t>())) + 1;  // nobody: 0
    if (count == 0) throw Error(ErrorKind::decode, "answer: expected runs of one key at least, got one of 0");
    n_seen += count;
    if (!runs.empty() && runs.back().set == set) runs.back().length += count;
    else runs.push_back({set, count});
  }
  if (n_seen != n_keys) throw Error(ErrorKind::decode, "answer: expected one to " + std::to_string(n_keys) + " keys, got one to " + std::to_string(n_seen));
  answer.foreign_values = sets.foreign_values;
  answer.excerpt = excerpt_from(sets, runs, n_keys, whole);
  return answer;
}

RemotePage remote_page(const uint8_t* bytes, size_t n_bytes, const RemoteLanes& lanes) {
  Cursor cursor(bytes, n_bytes);
  RemotePage page;
  Sets sets(lanes);
  while (!cursor.at_end()) {
    const auto tag = cursor.take<uint32_t>();
    for (auto left = cursor.take<uint32_t>(); left > 0; --left) {
      const std::string_view name = cursor.take(cursor.take<uint32_t>());
      const std::string_view value = cursor.take(cursor.take<uint32_t>());
      if (name.size() != 8) {
        ++page.foreign_values;
        continue;
      }
      const uint32_t set = sets.number_of(value);
      if (set == Sets::kNobody) continue;
      uint64_t key;
      std::memcpy(&key, name.data(), sizeof key);
      page.keys.push_back(key);
      page.tags.push_back(tag);
      page.sets.push_back(set);
    }
  }
  page.counts = std::move(sets.counts);
  page.elements = std::move(sets.elements);
  page.foreign_values += sets.foreign_values;
  return page;
}

}  // namespace kvatlas
