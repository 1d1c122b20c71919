#include "tokenize/native/plan.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "index/native/error.hpp"

namespace kvatlas {

Plan::Plan(SegmentMemo& memo, const Cutter& cutter, std::string_view text) : generation_(memo.generation()) {
  constexpr size_t kBytesMax = (size_t{1} << 31) - 1;  // 31 bits name a piece
  if (text.size() > kBytesMax)
    throw Error(ErrorKind::input, "text: expected at most " + std::to_string(kBytesMax) + " bytes of UTF-8, got " + std::to_string(text.size()));
  uint32_t n_added = 0;
  uint64_t piece_bytes = 0, missed_bytes = 0;
  Cutter::Cursor cursor(cutter, text);
  for (Cutter::Cut cut; cursor.next(cut);) {
    if (cut.is_added) {
      added_.push_back(cut.id);
      ++n_added;
      continue;
    }
    Step step = place(memo, text, cut);
    step.n_added = std::exchange(n_added, 0);
    steps_.push_back(step);
    piece_bytes += cut.end - cut.begin;
  }
  index_ = {};  // done with
  for (const Missing& one : missing_) missed_bytes += one.end - one.begin;
  memo.count(steps_.size() - missing_.size(), piece_bytes - missed_bytes, missing_.size(), missed_bytes);
}

Plan::Step Plan::place(SegmentMemo& memo, std::string_view text, const Cutter::Cut& cut) {
  const std::string_view piece = text.substr(cut.begin, cut.end - cut.begin);
  const uint64_t hash = memo.hash(piece);
  PieceRef found = memo.find(hash, piece);
  if (!found) return {0, 1, miss(hash, text, cut)};
  n_tokens_found_ += found->n_tokens();
  found_.push_back(std::move(found));
  return {0, 0, static_cast<uint32_t>(found_.size() - 1)};
}

// The number of this text among the missing ones; a new one if it is not among them.
uint32_t Plan::miss(uint64_t hash, std::string_view text, const Cutter::Cut& cut) {
  const std::string_view piece = text.substr(cut.begin, cut.end - cut.begin);
  if (missing_.size() * 2 >= index_.size()) grow_index();
  const size_t mask = index_.size() - 1;
  size_t slot = hash & mask;
  for (; index_[slot] != 0; slot = (slot + 1) & mask) {
    Missing& other = missing_[index_[slot] - 1];
    if (other.hash != hash || text.substr(other.begin, other.end - other.begin) != piece) continue;
    ++other.uses;
    return index_[slot] - 1;
  }
  missing_.push_back({hash, static_cast<uint32_t>(cut.begin), static_cast<uint32_t>(cut.end), 1});
  index_[slot] = static_cast<uint32_t>(missing_.size());
  return static_cast<uint32_t>(missing_.size() - 1);
}

void Plan::grow_index() {
  index_.assign(std::max<size_t>(16, index_.size() * 2), 0);
  const size_t mask = index_.size() - 1;
  for (size_t i = 0; i < missing_.size(); ++i) {
    size_t slot = missing_[i].hash & mask;
    while (index_[slot] != 0) slot = (slot + 1) & mask;
    index_[slot] = static_cast<uint32_t>(i + 1);
  }
}

size_t Plan::n_tokens(const std::vector<Ids>& encoded) const {
  size_t sum = added_.size() + n_tokens_found_;
  for (size_t i = 0; i < missing_.size(); ++i) sum += encoded[i].size * missing_[i].uses;
  return sum;
}

void Plan::finish(SegmentMemo& memo, std::string_view text, const std::vector<Ids>& encoded, uint32_t* ids) const {
  for (size_t i = 0; i < missing_.size(); ++i) {
    const Missing& one = missing_[i];
    memo.remember(generation_, one.hash, text.substr(one.begin, one.end - one.begin), encoded[i].data, encoded[i].size);
  }
  auto added = added_.begin();
  for (const Step& step : steps_) {
    ids = std::copy_n(added, step.n_added, ids);
    added += step.n_added;
    const Ids piece = step.is_missing ? encoded[step.piece] : Ids{found_[step.piece]->ids(), found_[step.piece]->n_tokens()};
    ids = std::copy_n(piece.data, piece.size, ids);
  }
  std::copy(added, added_.end(), ids);
}

}  // namespace kvatlas
