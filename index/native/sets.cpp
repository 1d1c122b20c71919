#include "index/native/sets.hpp"

#include <algorithm>
#include <cstring>
#include <string>

#include "index/native/error.hpp"

namespace kvatlas {
namespace {

constexpr int kMemoBits = 12;

uint32_t hash_elements(const uint32_t* elements, uint32_t count) {
  uint64_t hash = count;
  for (uint32_t i = 0; i < count; ++i) hash = (hash ^ elements[i]) * 0x9fb21c651e98df25ULL, hash ^= hash >> 32;
  return static_cast<uint32_t>(hash);
}

}  // namespace

SetArena::SetArena(Generation& generation, uint64_t bytes_max)
    : generation_(generation), bytes_max_(bytes_max), memo_(size_t{1} << kMemoBits, Memo{~0ull, 0}), interned_(64, 0) {}

uint32_t SetArena::transition(uint32_t set, uint32_t phys, uint8_t tiers, bool add) {
  static_assert(sizeof(Memo) << kMemoBits == kMemoBytes);
  const uint64_t question = static_cast<uint64_t>(set) << 32 | phys << 8 | static_cast<uint64_t>(tiers & 0x7f) << 1 | add;
  if (question == last_question_) return last_answer_;
  Memo& memo = memo_[(question * 0x9e3779b97f4a7c15ULL) >> (64 - kMemoBits)];
  if (memo.question != question) memo = {question, compute(set, phys, tiers, add)};
  last_question_ = question;
  return last_answer_ = memo.answer;
}

uint32_t SetArena::compute(uint32_t set, uint32_t phys, uint8_t tiers, bool add) {
  const SetView old = generation_.set(set);
  const uint32_t* end = old.elements + old.count;
  const uint32_t* at = std::lower_bound(old.elements, end, phys << 8);
  const bool present = at != end && (*at >> 8) == phys;
  const uint32_t mask = present ? *at & 0xff : 0;
  const uint32_t now = add ? mask | tiers : mask & ~static_cast<uint32_t>(tiers);
  if (now == mask) return set;
  scratch_.assign(old.elements, at);
  if (now != 0) scratch_.push_back(phys << 8 | now);
  scratch_.insert(scratch_.end(), present ? at + 1 : at, end);
  return intern(scratch_.data(), static_cast<uint32_t>(scratch_.size()));
}

uint32_t SetArena::with_all(uint32_t set, const Elements& more) {
  if (more.number == more_number_ && set == more_before_) return more_after_;
  const uint32_t after = unite(set, more.elements);
  more_number_ = more.number;
  more_before_ = set;
  return more_after_ = after;
}

uint32_t SetArena::unite(uint32_t set, const std::vector<uint32_t>& more) {
  const SetView old = generation_.set(set);
  const uint32_t *at = old.elements, *end = old.elements + old.count;
  scratch_.clear();
  for (uint32_t element : more) {
    for (; at != end && *at >> 8 < element >> 8; ++at) scratch_.push_back(*at);
    const bool both = at != end && *at >> 8 == element >> 8;
    scratch_.push_back(both ? *at++ | element : element);
  }
  scratch_.insert(scratch_.end(), at, end);
  return intern(scratch_.data(), static_cast<uint32_t>(scratch_.size()));
}

uint32_t SetArena::intern(const uint32_t* elements, uint32_t count) {
  if (count == 0) return 0;
  const uint32_t hash = hash_elements(elements, count);
  const size_t mask = interned_.size() - 1;
  for (size_t at = hash & mask;; at = (at + 1) & mask) {
    const uint32_t set = interned_[at];
    if (set == 0) break;
    const auto* words = reinterpret_cast<const uint32_t*>(generation_.arena() + 8ull * set);
    if (words[1] == hash && words[0] == count && std::memcmp(words + 2, elements, 4ull * count) == 0) return set;
  }
  const uint64_t bytes = (8 + 4ull * count + 7) / 8 * 8;
  require_room(bytes);
  generation_.back_arena(used_ + bytes);
  const uint32_t set = static_cast<uint32_t>(used_ / 8);
  auto* words = reinterpret_cast<uint32_t*>(generation_.arena() + used_);
  words[0] = count;
  words[1] = hash;
  std::memcpy(words + 2, elements, 4ull * count);
  used_ += bytes;
  ++n_sets_;
  generation_.use_arena(used_);
  index(set, hash);
  return set;
}

void SetArena::require_room(uint64_t bytes) {
  if (bytes_with(bytes, interned_.size() << ((n_sets_ + 2) * 2 > interned_.size())) <= bytes_max_) return;
  is_full_ = true;
  throw Error(ErrorKind::table_file, "residency sets: expected at most " + std::to_string(bytes_max_) + " bytes");
}

void SetArena::index(uint32_t set, uint32_t hash) {
  if (index_is_full()) {
    std::vector<uint32_t> wider(interned_.size() * 2, 0);
    const size_t mask = wider.size() - 1;
    for (uint32_t old : interned_) {
      if (old == 0) continue;
      size_t at = reinterpret_cast<const uint32_t*>(generation_.arena() + 8ull * old)[1] & mask;
      while (wider[at] != 0) at = (at + 1) & mask;
      wider[at] = old;
    }
    interned_ = std::move(wider);
  }
  const size_t mask = interned_.size() - 1;
  size_t at = hash & mask;
  while (interned_[at] != 0) at = (at + 1) & mask;
  interned_[at] = set;
}

uint64_t SetArena::private_bytes() const {
  return memo_.capacity() * sizeof(Memo) + interned_.capacity() * sizeof(uint32_t);
}

}  // namespace kvatlas
