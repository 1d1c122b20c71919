// How one text becomes token ids: its cuts in order, and for each piece who knows its ids.
//
//     text    hi<sp><sp>how are you?<sp>hi<sp>
//     steps   {0 added, found 0}   {2 added, missing 0}   {1 added, found 1}, then the last added one
//
// Memory: 16 bytes for each piece found, 32 for each missing one, 4 an added token. The text itself
// is the caller's, and is needed until finish() has returned.
//
// Thread safety: one thread at a time; const methods from several.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "tokenize/native/cutter.hpp"
#include "tokenize/native/segment_memo.hpp"

namespace kvatlas {

class Plan {
 public:
  struct Missing {  // a text that the memo did not hold; each text once
    uint64_t hash;
    uint32_t begin, end;
    uint32_t uses;  // how often it stands in the text
  };
  struct Ids {
    const uint32_t* data;
    size_t size;
  };

  // Throws Error{input} when the text has 2^31 bytes or more. REQUIRES: text is UTF-8.
  Plan(SegmentMemo& memo, const Cutter& cutter, std::string_view text);

  size_t n_pieces() const { return steps_.size(); }
  const std::vector<Missing>& missing() const { return missing_; }

  // How many ids there are. REQUIRES, as finish() does: encoded[i] are the ids of missing()[i].
  size_t n_tokens(const std::vector<Ids>& encoded) const;

  // Writes all ids, n_tokens of them, and has the memo remember the encoded ones.
  void finish(SegmentMemo& memo, std::string_view text, const std::vector<Ids>& encoded, uint32_t* ids) const;

 private:
  struct Step {  // a piece, and how many added tokens stand before it
    uint32_t n_added;
    uint32_t is_missing : 1;
    uint32_t piece : 31;  // in found_ or missing_
  };

  Step place(SegmentMemo& memo, std::string_view text, const Cutter::Cut& cut);
  uint32_t miss(uint64_t hash, std::string_view text, const Cutter::Cut& cut);
  void grow_index();

  uint64_t generation_;
  std::vector<Step> steps_;
  std::vector<uint32_t> added_;  // ids of added tokens
  std::vector<PieceRef> found_;
  std::vector<Missing> missing_;
  // While the plan is made: numbers of missing_ plus one, by hash, linear probing, half full; 0: free.
  std::vector<uint32_t> index_;
  size_t n_tokens_found_ = 0;
};

}  // namespace kvatlas
