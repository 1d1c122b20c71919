#include "index/native/excerpt_format.hpp"

#include <algorithm>
#include <string>

#include "index/native/error.hpp"

namespace kvatlas {
namespace {

Error refuse(size_t part, const std::string& what) {
  return Error(ErrorKind::decode, "excerpts[" + std::to_string(part) + "]: " + what);
}

}  // namespace

ExcerptView::ExcerptView(const uint8_t* bytes, size_t n_bytes, size_t n_keys, size_t part) : words_(bytes + sizeof header_) {
  if (n_bytes < sizeof header_) throw refuse(part, "expected a header of 32 bytes, got " + std::to_string(n_bytes));
  std::memcpy(&header_, bytes, sizeof header_);
  if (std::memcmp(header_.magic, kExcerptMagic, sizeof kExcerptMagic) != 0) throw refuse(part, "expected an excerpt, got something else");
  if (header_.version != kExcerptVersion)
    throw refuse(part, "expected excerpt version " + std::to_string(kExcerptVersion) + ", got " + std::to_string(header_.version) + ": another release wrote it");
  if (header_.n_keys != n_keys)
    throw refuse(part, "expected an answer to " + std::to_string(n_keys) + " keys, got one to " + std::to_string(header_.n_keys));
  if (excerpt_bytes(header_) != n_bytes)
    throw refuse(part, "expected " + std::to_string(excerpt_bytes(header_)) + " bytes as its header says, got " + std::to_string(n_bytes));
  check_lanes(part);
  check_sets(part);
  check_runs(part);
}

void ExcerptView::check_lanes(size_t part) const {
  for (uint32_t i = 0; i < header_.n_lanes; ++i) {
    const uint32_t number = lane(i) & ~kLaneClosed;
    if (number >= kLanesMax || (i > 0 && number <= (lane(i - 1) & ~kLaneClosed)))
      throw refuse(part, "expected ascending lanes below 65535, got " + std::to_string(lane(i)));
  }
}

void ExcerptView::check_sets(size_t part) const {
  uint64_t at = 0;
  for (uint32_t i = 0; i < header_.n_sets; ++i) {
    const uint64_t end = at + count(i);
    if (end == at || end > header_.n_elements) throw refuse(part, "expected sets of 1 lane at least and all its elements, got " + std::to_string(count(i)));
    for (uint64_t e = at; e < end; ++e) {
      const uint32_t mask = element(e) & 0xff, place = element(e) >> 8;
      if (place >= header_.n_lanes || mask == 0 || mask >= 1u << kTiers || (e > at && place <= element(e - 1) >> 8))
        throw refuse(part, "expected ascending elements of its lanes and tiers, got " + std::to_string(element(e)));
    }
    at = end;
  }
  if (at != header_.n_elements) throw refuse(part, "expected sets of " + std::to_string(header_.n_elements) + " elements, got " + std::to_string(at));
}

void ExcerptView::check_runs(size_t part) const {
  uint64_t n_keys = 0;
  for (uint32_t i = 0; i < header_.n_runs; ++i) {
    if (run(i).set > header_.n_sets || run(i).length == 0) throw refuse(part, "expected runs of its sets, got one of set " + std::to_string(run(i).set));
    n_keys += run(i).length;
  }
  if (n_keys != header_.n_keys) throw refuse(part, "expected runs over " + std::to_string(header_.n_keys) + " keys, got " + std::to_string(n_keys));
}

std::vector<uint32_t> merged_lanes(const std::vector<ExcerptView>& views) {
  std::vector<uint32_t> all;
  for (const ExcerptView& view : views)
    for (uint32_t i = 0; i < view.header().n_lanes; ++i) all.push_back(view.lane(i));
  std::sort(all.begin(), all.end(), [](uint32_t a, uint32_t b) { return (a & 0xffff) < (b & 0xffff); });
  std::vector<uint32_t> merged;
  for (uint32_t word : all) {
    if (merged.empty() || (merged.back() & 0xffff) != (word & 0xffff)) merged.push_back(word);
    else merged.back() &= word;  // the lane, and closed where both are
  }
  return merged;
}

void ExcerptWriter::put(const ExcerptView& view, const std::vector<uint32_t>& lanes, const uint64_t* keys) {
  put_sets(view, lanes);
  for (uint32_t i = 0; i < view.header().n_runs; ++i) {
    const ExcerptRun run = view.run(i);
    if (run.set != 0)
      for (uint32_t k = 0; k < run.length; ++k) put_key(Generation::normal(keys[k]), numbers_[run.set - 1]);
    keys += run.length;
  }
}

void ExcerptWriter::put_sets(const ExcerptView& view, const std::vector<uint32_t>& lanes) {
  std::vector<uint32_t> phys_of_place(view.header().n_lanes);
  for (uint32_t i = 0, phys = 0; i < phys_of_place.size(); ++i) {
    while ((lanes[phys] & 0xffff) != (view.lane(i) & 0xffff)) ++phys;  // both ascend
    phys_of_place[i] = phys;
  }
  numbers_.clear();
  uint64_t next = 0;
  for (uint32_t i = 0; i < view.header().n_sets; ++i) {
    const uint32_t count = view.count(i);
    auto* words = reinterpret_cast<uint32_t*>(g_.arena() + used_);
    words[0] = count;
    words[1] = 0;
    for (uint32_t e = 0; e < count; ++e, ++next) words[2 + e] = phys_of_place[view.element(next) >> 8] << 8 | (view.element(next) & 0xff);
    numbers_.push_back(static_cast<uint32_t>(used_ / 8));
    used_ += (8 + 4ull * count + 7) / 8 * 8;
  }
  g_.use_arena(used_);
}

// A key that was asked for twice keeps its first answer. One for which probing finds no slot, as
// only chosen keys bring about, counts as not held.
void ExcerptWriter::put_key(uint64_t key, uint32_t set) {
  for (uint64_t at = g_.home(key); at < g_.n_slots(); ++at) {
    Slot& slot = g_.slots()[at];
    if (slot.key == key) return;
    if (slot.key != 0) continue;
    slot = {key, set};
    return;
  }
}

}  // namespace kvatlas
