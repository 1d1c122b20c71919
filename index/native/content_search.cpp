#include "index/native/content_search.hpp"

#include <algorithm>
#include <unordered_map>

#include "index/native/lane_masks.hpp"
#include "index/native/steady.hpp"

namespace kvatlas {
namespace {

// How many keys have this set on the left and that one on the right.
class Tally {
 public:
  void count(uint32_t left, uint32_t right) {
    const uint64_t both = static_cast<uint64_t>(left) << 32 | right;
    if (both != last_) at_ = &counts_[last_ = both];
    ++*at_;
  }
  const std::unordered_map<uint64_t, uint64_t>& counts() const { return counts_; }

 private:
  std::unordered_map<uint64_t, uint64_t> counts_;
  uint64_t last_ = ~0ull;
  uint64_t* at_ = nullptr;
};

// Calls use(key, set) for each entry.
template <class Use>
void for_each_entry(const Generation& g, const Use& use) {
  for (uint64_t i = 0; i < g.backed_slots(); ++i) {
    const uint64_t key = Generation::load(&g.slots()[i].key), word = key == 0 ? 0 : Generation::load(&g.slots()[i].word);
    if (word_set(word) != 0) use(key, word_set(word));
  }
}

// The tiers by lane of a set.
std::map<uint32_t, uint32_t> tiers_of(const Generation& g, uint32_t set) {
  std::map<uint32_t, uint32_t> tiers;
  const SetView view = g.set(set);
  for (uint32_t i = 0; i < view.count; ++i) {
    const uint32_t word = g.lane_word(view.elements[i] >> 8);
    if (const uint32_t mask = live_mask(word, view.elements[i])) tiers[word & 0xffff] |= mask;
  }
  return tiers;
}

void spread(const std::map<uint32_t, uint32_t>& left, const std::map<uint32_t, uint32_t>& right, uint64_t n, std::map<uint32_t, Difference>& out) {
  auto count = [&](uint32_t lane, uint32_t tiers, uint64_t Difference::*field) {
    for (uint32_t bit = 1; bit < 1u << kTiers; bit <<= 1)
      if (tiers & bit) out[lane << 8 | bit].*field += n;
  };
  auto of = [](const std::map<uint32_t, uint32_t>& tiers, uint32_t lane) {
    const auto at = tiers.find(lane);
    return at == tiers.end() ? 0 : at->second;
  };
  for (const auto& [lane, tiers] : left) {
    const uint32_t others = of(right, lane);
    count(lane, tiers & ~others, &Difference::n_left);
    count(lane, tiers & others, &Difference::n_both);
  }
  for (const auto& [lane, tiers] : right) count(lane, tiers & ~of(left, lane), &Difference::n_right);
}

}  // namespace

uint64_t search_section(const SectionView& section, const std::vector<uint8_t>& tiers_of_lane, const std::vector<uint64_t>* keys, size_t n_max,
                        std::vector<Holding>& out) {
  uint64_t n = 0;
  size_t at = 0;
  std::vector<Holding> holders;
  for (uint32_t i = 0; i < section.n_runs(); ++i) {
    const SectionRun run = section.run(i);
    holders.clear();
    for (uint32_t e = section.set_begin(run.set); e < section.set_begin(run.set + 1); ++e) {
      const uint32_t lane = section.lane(section.element(e) >> 8) & kContentLane;
      if (const uint32_t tiers = section.element(e) & tiers_of_lane[lane]) holders.push_back({0, run.tag, lane, tiers});
    }
    for (uint32_t k = 0; k < run.n_keys && !holders.empty(); ++k) {
      const uint64_t key = section.key(at + k);
      if (keys != nullptr && !std::binary_search(keys->begin(), keys->end(), key)) continue;
      n += holders.size();
      for (size_t h = 0; h < holders.size() && out.size() < n_max; ++h) {
        out.push_back(holders[h]);
        out.back().key = key;
      }
    }
    at += run.n_keys;
  }
  return n;
}

std::map<uint32_t, Difference> compare(Table& left, Table& right) {
  const std::vector<Pin> pins{left.pin(), right.pin()};
  const Generation &a = *pins[0], &b = *pins[1];
  Tally tally;
  for_each_entry(a, [&](uint64_t key, uint32_t set) { tally.count(set, word_set(b.find(key))); });
  for_each_entry(b, [&](uint64_t key, uint32_t set) {
    if (word_set(a.find(key)) == 0) tally.count(0, set);
  });
  std::map<uint32_t, Difference> out;
  for (const auto& [sets, n] : tally.counts())
    spread(tiers_of(a, static_cast<uint32_t>(sets >> 32)), tiers_of(b, static_cast<uint32_t>(sets)), n, out);
  return out;
}

}  // namespace kvatlas
