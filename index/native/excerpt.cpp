#include "index/native/excerpt.hpp"

#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "index/native/error.hpp"
#include "index/native/excerpt_format.hpp"
#include "index/native/lane_masks.hpp"
#include "index/native/steady.hpp"

namespace kvatlas {
namespace {

// Collects what a generation says of keys, one after the other.
class Collector {
 public:
  explicit Collector(const Generation& g) : g_(g) {}

  void read(const uint64_t* keys, size_t n_keys) {
    constexpr size_t kAhead = 12;  // slots fetched before they are needed
    for (size_t i = 0; i < n_keys; ++i) {
      if (i + kAhead < n_keys) g_.prefetch(Generation::normal(keys[i + kAhead]));
      const uint32_t set = word_set(g_.find(keys[i]));
      if (!runs_.empty() && runs_.back().set == set) ++runs_.back().length;
      else runs_.push_back({set, 1});
    }
    // Lanes after slots: one says that it is open before a hole is made in it.
    size_t n_kept = 0;
    for (const ExcerptRun& run : runs_) {
      const ExcerptRun numbered{run.set == 0 ? 0 : number_of(run.set), run.length};
      if (n_kept > 0 && runs_[n_kept - 1].set == numbered.set) runs_[n_kept - 1].length += run.length;
      else runs_[n_kept++] = numbered;
    }
    runs_.resize(n_kept);
  }

  std::vector<uint8_t> bytes(uint32_t n_keys, bool whole) {
    rank_lanes();
    ExcerptHeader header{};
    std::memcpy(header.magic, kExcerptMagic, sizeof header.magic);
    header.version = kExcerptVersion;
    header.flags = whole ? kExcerptWhole : 0;
    header.n_keys = n_keys;
    header.n_lanes = static_cast<uint32_t>(lanes_.size());
    header.n_sets = static_cast<uint32_t>(counts_.size());
    header.n_elements = static_cast<uint32_t>(elements_.size());
    header.n_runs = static_cast<uint32_t>(runs_.size());
    std::vector<uint8_t> out;
    out.reserve(excerpt_bytes(header));
    append(out, &header, 1);
    append(out, lanes_.data(), lanes_.size());
    append(out, counts_.data(), counts_.size());
    append(out, elements_.data(), elements_.size());
    append(out, runs_.data(), runs_.size());
    return out;
  }

 private:
  template <class T>
  static void append(std::vector<uint8_t>& out, const T* from, size_t n) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(from);
    out.insert(out.end(), bytes, bytes + n * sizeof(T));
  }

  uint32_t number_of(uint32_t set) {
    const auto [at, is_new] = numbers_.try_emplace(set, 0);
    if (!is_new) return at->second;
    const SetView view = g_.set(set);
    const size_t before = elements_.size();
    for (uint32_t i = 0; i < view.count; ++i) {
      const uint32_t word = g_.lane_word(view.elements[i] >> 8);
      if (const uint8_t mask = live_mask(word, view.elements[i])) elements_.push_back(place_of(word) << 8 | mask);
    }
    if (elements_.size() == before) return 0;  // only lanes that are gone held it
    counts_.push_back(static_cast<uint32_t>(elements_.size() - before));
    return at->second = static_cast<uint32_t>(counts_.size());
  }

  uint32_t place_of(uint32_t word) {
    const auto [at, is_new] = places_.try_emplace(word & 0xffff, static_cast<uint32_t>(lanes_.size()));
    if (is_new) lanes_.push_back(word & (0xffff | kLaneClosed));
    return at->second;
  }

  // Orders the lanes, and the elements of each set by them.
  void rank_lanes() {
    std::vector<uint32_t> order(lanes_.size()), rank(lanes_.size());
    for (uint32_t i = 0; i < order.size(); ++i) order[i] = i;
    std::sort(order.begin(), order.end(), [this](uint32_t a, uint32_t b) { return (lanes_[a] & 0xffff) < (lanes_[b] & 0xffff); });
    std::vector<uint32_t> ranked(lanes_.size());
    for (uint32_t i = 0; i < order.size(); ++i) {
      rank[order[i]] = i;
      ranked[i] = lanes_[order[i]];
    }
    lanes_ = std::move(ranked);
    for (uint32_t& element : elements_) element = rank[element >> 8] << 8 | (element & 0xff);
    auto begin = elements_.begin();
    for (const uint32_t count : counts_) {
      std::sort(begin, begin + count);
      begin += count;
    }
  }

  const Generation& g_;
  std::vector<ExcerptRun> runs_;
  std::unordered_map<uint32_t, uint32_t> numbers_;  // of a set here -> in the excerpt
  std::unordered_map<uint32_t, uint32_t> places_;   // of a lane in lanes_
  std::vector<uint32_t> lanes_, counts_, elements_;
};

}  // namespace

std::vector<uint8_t> excerpt_of(Source& source, const uint64_t* keys, size_t n_keys) {
  if (n_keys > UINT32_MAX) throw Error(ErrorKind::input, "keys: expected fewer than 2^32, got " + std::to_string(n_keys));
  const bool whole = source.whole();  // before the look: what was missing then may be missing in it
  const std::vector<Pin> pins{source.pin()};
  std::vector<uint8_t> out;
  look_steadily(pins, [&] {
    Collector collector(*pins[0]);
    collector.read(keys, n_keys);
    out = collector.bytes(static_cast<uint32_t>(n_keys), whole);
  });
  return out;
}

Excerpt::Excerpt(const std::vector<Part>& parts) {
  std::vector<ExcerptView> views;
  for (const Part& part : parts) {
    views.emplace_back(part.bytes, part.n_bytes, part.n_keys, views.size());
    whole_ = whole_ && views.back().whole();
  }
  const std::vector<uint32_t> lanes = merged_lanes(views);
  uint64_t n_keys = 0, arena_bytes = 8;
  for (const ExcerptView& view : views) {
    n_keys += view.header().n_keys;
    arena_bytes += view.arena_bytes();
  }
  Generation g = Generation::create("", 0, 1, 2 * n_keys + 16, arena_bytes);
  g.back_slots(g.n_slots());
  for (uint32_t phys = 0; phys < lanes.size(); ++phys) {
    g.store_lane_word(phys, lanes[phys] | kLaneLive);
    g.store_phys_of(lanes[phys] & 0xffff, static_cast<uint16_t>(phys));
  }
  ExcerptWriter writer(g);
  for (size_t i = 0; i < views.size(); ++i) writer.put(views[i], lanes, parts[i].keys);
  generation_ = std::make_shared<const Generation>(std::move(g));
}

}  // namespace kvatlas
