#include "index/native/section.hpp"

#include <algorithm>
#include <string>

#include "index/native/crc32.hpp"
#include "index/native/error.hpp"

namespace kvatlas {
namespace {

constexpr char kMagic[4] = {'k', 'v', 'a', 'c'};
constexpr uint32_t kNone = ~0u;
constexpr size_t kCrcAt = offsetof(SectionHeader, crc);

uint32_t crc_of(const uint8_t* section, size_t n) {
  return crc32(section + sizeof(SectionHeader), n - sizeof(SectionHeader), crc32(section, kCrcAt));
}

Error refuse(size_t at, const std::string& what) {
  return Error(ErrorKind::dump, "content record at byte " + std::to_string(at) + ": " + what);
}

Error unexpected(size_t at, const std::string& expected, uint64_t got) {
  return refuse(at, "expected " + expected + ", got " + std::to_string(got));
}

}  // namespace

SectionView::SectionView(const uint8_t* bytes, size_t n) : begin_(bytes) {
  if (n < sizeof header_) throw unexpected(0, "a section of at least 32 bytes", n);
  std::memcpy(&header_, bytes, sizeof header_);
  if (std::memcmp(header_.magic, kMagic, sizeof kMagic) != 0) throw refuse(0, "expected the magic \"kvac\": this is no section");
  if (header_.version != kSectionVersion)
    throw unexpected(offsetof(SectionHeader, version), "format version " + std::to_string(kSectionVersion), header_.version);
  place(bytes, n);
  if (const uint32_t crc = crc_of(bytes, n); crc != header_.crc) throw unexpected(kCrcAt, "checksum " + std::to_string(crc), header_.crc);
  check_lanes();
  check_sets();
  check_runs();
}

void SectionView::place(const uint8_t* bytes, size_t n) {
  const SectionHeader& h = header_;
  if (h.flags > kTagsUnknown) throw unexpected(offsetof(SectionHeader, flags), "flags 0 or 1", h.flags);
  if (h.n_keys > kSectionKeysMax) throw unexpected(offsetof(SectionHeader, n_keys), "at most " + std::to_string(kSectionKeysMax) + " keys", h.n_keys);
  const uint64_t wanted = sizeof h + 8ull * h.n_keys + 4ull * h.n_lanes + 4ull * h.n_sets + 4ull * h.n_elements + 12ull * h.n_runs;
  if (n != wanted) throw unexpected(std::min<uint64_t>(n, wanted), std::to_string(wanted) + " bytes as its header says", n);
  keys_ = bytes + sizeof h;
  lanes_ = keys_ + 8ull * h.n_keys;
  sizes_ = lanes_ + 4ull * h.n_lanes;
  elements_ = sizes_ + 4ull * h.n_sets;
  runs_ = elements_ + 4ull * h.n_elements;
}

void SectionView::check_lanes() const {
  std::vector<bool> named(kLanesMax, false);
  for (uint32_t i = 0; i < n_lanes(); ++i) {
    const uint32_t number = lane(i) & ~(kContentClosed | kContentLossy);
    const size_t at = static_cast<size_t>(lanes_ - begin_) + 4ull * i;
    if (number >= kLanesMax) throw unexpected(at, "a lane below 65535", number);
    if (named[number]) throw unexpected(at, "each lane once", number);
    named[number] = true;
  }
}

void SectionView::check_sets() {
  set_begins_.reserve(n_sets() + 1ull);
  set_begins_.push_back(0);
  for (uint32_t set = 0; set < n_sets(); ++set) {
    const uint32_t size = load<uint32_t>(sizes_, set), begin = set_begins_.back();
    if (size == 0 || size > header_.n_elements - begin)
      throw unexpected(static_cast<size_t>(sizes_ - begin_) + 4ull * set, "a size from 1 to " + std::to_string(header_.n_elements - begin), size);
    uint64_t next = 0;  // the least place that may follow
    for (uint32_t i = begin; i < begin + size; ++i) {
      const uint32_t place = element(i) >> 8, tiers = element(i) & 0xff;
      if (place < next || place >= n_lanes() || tiers == 0 || tiers >= 1u << kTiers)
        throw unexpected(static_cast<size_t>(elements_ - begin_) + 4ull * i,
                         "a lane's place from " + std::to_string(next) + " to " + std::to_string(n_lanes()) + " with tier bits from 1 to 63", element(i));
      next = place + 1ull;
    }
    set_begins_.push_back(begin + size);
  }
  if (set_begins_.back() != header_.n_elements)
    throw unexpected(offsetof(SectionHeader, n_elements), std::to_string(set_begins_.back()) + " elements as its sets say", header_.n_elements);
}

void SectionView::check_runs() {
  uint64_t n = 0;
  for (uint32_t i = 0; i < n_runs(); ++i) {
    const SectionRun one = run(i);
    const size_t at = static_cast<size_t>(runs_ - begin_) + sizeof(SectionRun) * i;
    if (one.set >= n_sets()) throw unexpected(at + 4, "a set below " + std::to_string(n_sets()), one.set);
    if (one.n_keys == 0 || one.n_keys > n_keys() - n) throw unexpected(at + 8, "from 1 to " + std::to_string(n_keys() - n) + " keys", one.n_keys);
    n += one.n_keys;
    n_pairs_ += static_cast<uint64_t>(one.n_keys) * (set_begins_[one.set + 1] - set_begins_[one.set]);
    if (n_pairs_ > kSectionPairsMax) throw unexpected(at, "at most " + std::to_string(kSectionPairsMax) + " pairs of key and lane", n_pairs_);
  }
  if (n != n_keys()) throw unexpected(offsetof(SectionHeader, n_keys), std::to_string(n) + " keys as its runs say", n_keys());
}

void SectionView::require_shards(uint32_t n_shards) const {
  if (n_shards > 1 && !knows_tags())
    throw Error(ErrorKind::dump, "content record: expected one that knows the segments of its blocks, to divide it among " + std::to_string(n_shards) +
                                     " shards; it comes from an index that does not keep them");
}

uint64_t Content::n_pairs() const {
  uint64_t n = 0;
  for (const Slot& entry : entries) n += set_size(word_set(entry.word));
  return n;
}

uint64_t Content::bytes() const {
  return entries.capacity() * sizeof(Slot) + (set_begins.capacity() + elements.capacity() + lanes.capacity()) * sizeof(uint32_t);
}

// By the leading bits of the tags first, in place of one long sort.
void Content::sort() {
  constexpr int kShift = 53;
  std::vector<size_t> begins((size_t{1} << (64 - kShift)) + 1, 0);
  for (const Slot& entry : entries) ++begins[(entry.word >> kShift) + 1];
  for (size_t i = 1; i < begins.size(); ++i) begins[i] += begins[i - 1];
  std::vector<Slot> sorted(entries.size());
  std::vector<size_t> at(begins.begin(), begins.end() - 1);
  for (const Slot& entry : entries) sorted[at[entry.word >> kShift]++] = entry;
  entries = std::move(sorted);
  for (size_t i = 0; i + 1 < begins.size(); ++i)
    std::sort(entries.begin() + static_cast<std::ptrdiff_t>(begins[i]), entries.begin() + static_cast<std::ptrdiff_t>(begins[i + 1]),
              [](const Slot& a, const Slot& b) { return a.word < b.word; });
}

SectionWriter::SectionWriter(const Content& content, uint32_t keys_max)
    : content_(content), keys_max_(keys_max), set_of_content_(content.set_begins.size() - 1, kNone), place_of_lane_(65536, kNone), word_of_lane_(65536, 0) {
  if (keys_max < 1 || keys_max > kSectionKeysMax)
    throw Error(ErrorKind::input, "keys_max: expected 1 to " + std::to_string(kSectionKeysMax) + ", got " + std::to_string(keys_max));
  for (uint32_t lane : content.lanes) word_of_lane_[lane & kContentLane] = lane;
}

size_t SectionWriter::end_of_section() const {
  uint64_t pairs = 0;
  size_t end = at_;
  for (; end < content_.entries.size() && end - at_ < keys_max_; ++end) {
    pairs += content_.set_size(word_set(content_.entries[end].word));
    if (pairs > kSectionPairsMax && end > at_) break;
  }
  return end;
}

uint32_t SectionWriter::lane_index(uint32_t lane) {
  uint32_t& place = place_of_lane_[lane];
  if (place == kNone) {
    place = static_cast<uint32_t>(lanes_.size());
    lanes_.push_back(word_of_lane_[lane]);
  }
  return place;
}

uint32_t SectionWriter::set_index(uint32_t set) {
  uint32_t& index = set_of_content_[set];
  if (index != kNone) return index;
  index = static_cast<uint32_t>(sizes_.size());
  sizes_.push_back(content_.set_size(set));
  const size_t begin = elements_.size();
  for (uint32_t i = content_.set_begins[set]; i < content_.set_begins[set + 1]; ++i)
    elements_.push_back(lane_index(content_.elements[i] >> 8) << 8 | (content_.elements[i] & 0xff));
  std::sort(elements_.begin() + static_cast<std::ptrdiff_t>(begin), elements_.end());
  return index;
}

bool SectionWriter::next(std::vector<uint8_t>& out) {
  if (at_ == content_.entries.size() && !is_first_) return false;
  lanes_.clear(), sizes_.clear(), elements_.clear(), runs_.clear();
  if (is_first_)
    for (uint32_t lane : content_.lanes) lane_index(lane & kContentLane);
  is_first_ = false;
  const size_t begin = at_;
  at_ = end_of_section();
  uint64_t last = ~0ull;
  for (size_t i = begin; i < at_; ++i) {
    const uint64_t word = content_.entries[i].word;
    if (runs_.empty() || word != last) runs_.push_back({word_tag(word), set_index(word_set(word)), 0});
    ++runs_.back().n_keys;
    last = word;
  }
  const size_t n_keys = at_ - begin;
  SectionHeader header{{kMagic[0], kMagic[1], kMagic[2], kMagic[3]}, kSectionVersion, content_.knows_tags ? uint16_t{0} : kTagsUnknown,
                       static_cast<uint32_t>(lanes_.size()), static_cast<uint32_t>(sizes_.size()), static_cast<uint32_t>(elements_.size()),
                       static_cast<uint32_t>(runs_.size()), static_cast<uint32_t>(n_keys), 0};
  out.resize(sizeof header + 8 * n_keys + 4 * (lanes_.size() + sizes_.size() + elements_.size()) + sizeof(SectionRun) * runs_.size());
  uint8_t* to = out.data();
  auto put = [&to](const void* from, size_t n) {
    if (n > 0) std::memcpy(to, from, n);
    to += n;
  };
  put(&header, sizeof header);
  for (size_t i = begin; i < at_; ++i) put(&content_.entries[i].key, 8);
  put(lanes_.data(), 4 * lanes_.size());
  put(sizes_.data(), 4 * sizes_.size());
  put(elements_.data(), 4 * elements_.size());
  put(runs_.data(), sizeof(SectionRun) * runs_.size());
  header.crc = crc_of(out.data(), out.size());
  std::memcpy(out.data() + kCrcAt, &header.crc, sizeof header.crc);
  for (uint32_t lane : lanes_) place_of_lane_[lane & kContentLane] = kNone;
  for (size_t i = begin; i < at_; ++i) set_of_content_[word_set(content_.entries[i].word)] = kNone;
  return true;
}

}  // namespace kvatlas
