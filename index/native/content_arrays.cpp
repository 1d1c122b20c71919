#include "index/native/content_arrays.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "index/native/error.hpp"

namespace kvatlas {
namespace {

void require(bool good, const std::string& what) {
  if (!good) throw Error(ErrorKind::input, what);
}

std::vector<uint32_t> set_begins_of(const std::vector<uint32_t>& sizes, size_t n_elements) {
  std::vector<uint32_t> begins{0};
  uint64_t n = 0;
  for (uint32_t size : sizes) {
    n += size;
    require(size > 0 && n <= n_elements, "set_sizes: expected sizes of at least 1, " + std::to_string(n_elements) + " together");
    begins.push_back(static_cast<uint32_t>(n));
  }
  require(n == n_elements, "elements: expected " + std::to_string(n) + " as set_sizes say, got " + std::to_string(n_elements));
  return begins;
}

// Sorts each set's elements.
void check_elements(const std::vector<bool>& is_named, Content& content) {
  for (size_t set = 0; set + 1 < content.set_begins.size(); ++set) {
    const auto begin = content.elements.begin() + content.set_begins[set], end = content.elements.begin() + content.set_begins[set + 1];
    std::sort(begin, end);
    for (auto at = begin; at != end; ++at) {
      const uint32_t lane = *at >> 8, tiers = *at & 0xff;
      const bool good = lane < is_named.size() && is_named[lane] && tiers != 0 && tiers < 1u << kTiers && (at == begin || at[-1] >> 8 != lane);
      require(good, "elements: expected lane << 8 | tier bits of lanes that `lanes` names, each once in a set, got " + std::to_string(*at));
    }
  }
}

}  // namespace

Content content_of(ContentArrays arrays) {
  Content content;
  content.knows_tags = arrays.knows_tags;
  content.set_begins = set_begins_of(arrays.set_sizes, arrays.elements.size());
  content.elements = std::move(arrays.elements);
  content.lanes = std::move(arrays.lanes);
  std::sort(content.lanes.begin(), content.lanes.end(), [](uint32_t a, uint32_t b) { return (a & kContentLane) < (b & kContentLane); });
  std::vector<bool> is_named(kContentLane + 1, false);
  for (uint32_t lane : content.lanes) is_named[lane & kContentLane] = true;
  check_elements(is_named, content);
  const std::string n_keys = std::to_string(arrays.n_keys), n_sets = std::to_string(arrays.set_sizes.size());
  require(arrays.tags.size() == arrays.n_keys && arrays.sets.size() == arrays.n_keys,
          "tags, sets: expected one for each of " + n_keys + " keys, got " + std::to_string(arrays.tags.size()) + " and " + std::to_string(arrays.sets.size()));
  content.entries.reserve(arrays.n_keys);
  for (size_t i = 0; i < arrays.n_keys; ++i) {
    const uint32_t set = arrays.sets[i];
    if (set >= arrays.set_sizes.size()) require(false, "sets: expected numbers below " + n_sets + ", got " + std::to_string(set));
    content.entries.push_back({arrays.keys[i], static_cast<uint64_t>(arrays.tags[i]) << 32 | set});
  }
  return content;
}

}  // namespace kvatlas
