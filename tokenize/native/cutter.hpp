// Cuts a text into pieces whose token ids do not depend on what stands around them.
//
//     hello<|im_end|>\n<|im_start|>user\nhi      with the added tokens <|im_end|> and <|im_start|>
//     piece  added   pc   added     piece
//
// First at added tokens: of those that begin leftmost the longest, then on behind it. Then each
// stretch between them that is longer than piece_bytes, at the first line end at or beyond
// piece_bytes from its begin that the line rule allows, and again from there. So texts with a common
// beginning have common pieces. With a word rule each stretch is cut at every such line end instead, and
// lines of ASCII into words (words.hpp); other lines stay whole. Which tokens and which rule keep the ids exact is not known here:
// tokenize/segments proves it.
//
// Cost: linear in the text, times the longest added token where texts are made to look like one. A
// memchr for each first byte of the added tokens while these are few, else a byte at a time.
//
// Thread safety: a Cutter is immutable; a Cursor is one thread's.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenize/native/words.hpp"

namespace kvatlas {

// Where a stretch may be cut besides: always directly behind a "\n". White space is Unicode's
// White_Space property; the ends of a stretch are neither text nor white space.
enum class LineRule : uint8_t {
  none,
  before_text,            // the next character is no white space
  before_text_not_slash,  // the same, and no "/"
  single_lines            // no white space on either side of the "\n"
};

class Cutter {
 public:
  using AddedToken = std::pair<std::string, uint32_t>;  // content in UTF-8, id

  // Throws Error{input}: an empty content, a content twice, piece_bytes 0.
  Cutter(std::vector<AddedToken> added_tokens, LineRule line_rule, size_t piece_bytes, WordRule word_rule = WordRule::none);

  // A piece text[begin, end), or an added token that stands there.
  struct Cut {
    size_t begin = 0, end = 0;
    bool is_added = false;
    uint32_t id = 0;
  };

  // Walks through the cuts of a text, in order; no piece is empty, and nothing is left out.
  // REQUIRES: text is UTF-8 and outlives the cursor, as does the cutter.
  class Cursor {
   public:
    Cursor(const Cutter& cutter, std::string_view text);
    bool next(Cut& cut);  // false: there are no more

   private:
    size_t next_candidate();
    void find_added();
    size_t next_word();

    const Cutter& cutter_;
    std::string_view text_;
    size_t at_ = 0;
    size_t line_end_ = 0;     // with a word rule: of the line that at_ lies in
    bool is_ascii_ = false;   // that line
    Cut added_;  // the next added token; begins at the text's end when there is none
    static constexpr size_t kLetters = 4;
    std::array<size_t, kLetters> letter_at_{};  // where each first byte comes next, from at_ on
  };

 private:
  // A trie: the children of a node lie side by side, ordered by label.
  struct Node {
    uint32_t first_child = 0;
    uint32_t id = 0;
    uint16_t n_children = 0;
    uint8_t label = 0;
    bool is_token = false;
  };

  void build(const std::vector<AddedToken>& sorted);
  bool match(std::string_view text, size_t at, Cut& cut) const;
  size_t piece_end(std::string_view text, size_t begin, size_t end) const;
  bool allows_cut(std::string_view text, size_t begin, size_t at) const;

  LineRule line_rule_;
  WordRule word_rule_;
  size_t piece_bytes_;
  std::vector<Node> nodes_;              // the root first
  std::array<uint32_t, 256> by_first_{};  // node of each first byte; 0: no token begins with it
  std::string firsts_;                   // those first bytes
};

}  // namespace kvatlas
