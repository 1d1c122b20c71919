#include "tokenize/native/cutter.hpp"

#include <algorithm>
#include <cstring>

#include "index/native/error.hpp"

namespace kvatlas {
namespace {

uint8_t byte_at(std::string_view text, size_t at) { return static_cast<uint8_t>(text[at]); }

size_t find_byte(std::string_view text, size_t from, char byte) {
  if (from >= text.size()) return text.size();
  const void* found = std::memchr(text.data() + from, byte, text.size() - from);
  return found == nullptr ? text.size() : static_cast<size_t>(static_cast<const char*>(found) - text.data());
}

// Whether the character that begins at `at` has the White_Space property. REQUIRES: one begins there.
bool is_space(std::string_view text, size_t at) {
  const uint8_t lead = byte_at(text, at);
  if (lead < 0x80) return lead == ' ' || (lead >= '\t' && lead <= '\r');
  if (lead == 0xc2) return byte_at(text, at + 1) == 0x85 || byte_at(text, at + 1) == 0xa0;
  if (lead < 0xe1 || lead > 0xe3) return false;
  const uint32_t tail = static_cast<uint32_t>(byte_at(text, at + 1)) << 8 | byte_at(text, at + 2);
  if (lead == 0xe1) return tail == 0x9a80;  // U+1680
  if (lead == 0xe3) return tail == 0x8080;  // U+3000
  return (tail >= 0x8080 && tail <= 0x808a) || tail == 0x80a8 || tail == 0x80a9 || tail == 0x80af ||
         tail == 0x819f;  // U+2000 to U+200A, U+2028, U+2029, U+202F, U+205F
}

size_t begin_of_character_before(std::string_view text, size_t at) {
  do --at;
  while ((byte_at(text, at) & 0xc0) == 0x80);
  return at;
}

}  // namespace

Cutter::Cutter(std::vector<AddedToken> added_tokens, LineRule line_rule, size_t piece_bytes, WordRule word_rule)
    : line_rule_(line_rule), word_rule_(word_rule), piece_bytes_(word_rule == WordRule::none ? piece_bytes : 1) {
  if (piece_bytes == 0) throw Error(ErrorKind::input, "piece_bytes: expected at least 1, got 0");
  std::sort(added_tokens.begin(), added_tokens.end());
  for (size_t i = 0; i < added_tokens.size(); ++i) {
    const std::string& content = added_tokens[i].first;
    if (content.empty()) throw Error(ErrorKind::input, "added_tokens: expected contents of at least one character, got an empty one");
    if (i > 0 && content == added_tokens[i - 1].first)
      throw Error(ErrorKind::input, "added_tokens: expected each content once, got '" + content + "' twice");
  }
  build(added_tokens);
}

void Cutter::build(const std::vector<AddedToken>& sorted) {
  // The tokens below a node are a range of the sorted ones; a node's range waits here for its turn.
  struct Open {
    size_t begin, end, depth;
  };
  std::vector<Open> open{{0, sorted.size(), 0}};
  nodes_.emplace_back();
  for (size_t at = 0; at < nodes_.size(); ++at) {
    auto [begin, end, depth] = open[at];
    if (begin < end && sorted[begin].first.size() == depth) {  // the shortest sorts first
      nodes_[at].is_token = true;
      nodes_[at].id = sorted[begin++].second;
    }
    nodes_[at].first_child = static_cast<uint32_t>(nodes_.size());
    while (begin < end) {
      const char label = sorted[begin].first[depth];
      size_t behind = begin;
      while (behind < end && sorted[behind].first[depth] == label) ++behind;
      open.push_back({begin, behind, depth + 1});
      nodes_.emplace_back().label = static_cast<uint8_t>(label);
      ++nodes_[at].n_children;
      begin = behind;
    }
  }
  for (uint32_t child = 1; child <= nodes_[0].n_children; ++child) {
    by_first_[nodes_[child].label] = child;
    firsts_.push_back(static_cast<char>(nodes_[child].label));
  }
}

bool Cutter::match(std::string_view text, size_t at, Cut& cut) const {
  bool found = false;
  size_t end = at + 1;
  for (uint32_t node = by_first_[byte_at(text, at)]; node != 0; ++end) {
    if (nodes_[node].is_token) {
      found = true;
      cut = {at, end, true, nodes_[node].id};
    }
    if (end == text.size()) break;
    const auto first = nodes_.begin() + nodes_[node].first_child;
    const auto last = first + nodes_[node].n_children;
    const uint8_t label = byte_at(text, end);
    const auto child = std::lower_bound(first, last, label, [](const Node& one, uint8_t wanted) { return one.label < wanted; });
    node = child != last && child->label == label ? static_cast<uint32_t>(child - nodes_.begin()) : 0;
  }
  return found;
}

bool Cutter::allows_cut(std::string_view text, size_t begin, size_t at) const {
  if (is_space(text, at)) return false;
  if (line_rule_ == LineRule::before_text_not_slash) return text[at] != '/';
  if (line_rule_ != LineRule::single_lines) return true;
  return at - 1 > begin && !is_space(text, begin_of_character_before(text, at - 1));
}

size_t Cutter::piece_end(std::string_view text, size_t begin, size_t end) const {
  if (line_rule_ == LineRule::none || end - begin <= piece_bytes_) return end;
  const std::string_view stretch = text.substr(0, end);
  for (size_t at = begin + piece_bytes_ - 1;;) {  // a "\n" there ends a piece of piece_bytes
    at = find_byte(stretch, at, '\n') + 1;
    if (at >= end) return end;
    if (allows_cut(stretch, begin, at)) return at;
  }
}

Cutter::Cursor::Cursor(const Cutter& cutter, std::string_view text) : cutter_(cutter), text_(text) {
  if (cutter.firsts_.size() <= kLetters)
    for (size_t i = 0; i < cutter.firsts_.size(); ++i) letter_at_[i] = find_byte(text, 0, cutter.firsts_[i]);
  find_added();
}

// The next place from added_.end on where an added token may begin.
size_t Cutter::Cursor::next_candidate() {
  size_t from = added_.end;
  const std::string& firsts = cutter_.firsts_;
  if (firsts.size() > kLetters) {
    while (from < text_.size() && cutter_.by_first_[byte_at(text_, from)] == 0) ++from;
    return from;
  }
  size_t nearest = text_.size();
  for (size_t i = 0; i < firsts.size(); ++i) {
    if (letter_at_[i] < from) letter_at_[i] = find_byte(text_, from, firsts[i]);
    nearest = std::min(nearest, letter_at_[i]);
  }
  return nearest;
}

void Cutter::Cursor::find_added() {
  for (;;) {
    const size_t at = next_candidate();
    if (at == text_.size()) {
      added_ = {at, at, true, 0};
      return;
    }
    if (cutter_.match(text_, at, added_)) return;
    added_.end = at + 1;
  }
}

size_t Cutter::Cursor::next_word() {
  if (at_ >= line_end_) {
    line_end_ = cutter_.piece_end(text_, at_, added_.begin);
    is_ascii_ = is_ascii(text_.substr(at_, line_end_ - at_));
  }
  return is_ascii_ ? word_end(cutter_.word_rule_, text_.substr(0, line_end_), at_) : line_end_;
}

bool Cutter::Cursor::next(Cut& cut) {
  if (at_ < added_.begin) {
    const bool by_words = cutter_.word_rule_ != WordRule::none;
    cut = {at_, by_words ? next_word() : cutter_.piece_end(text_, at_, added_.begin), false, 0};
    at_ = cut.end;
    return true;
  }
  if (at_ == text_.size()) return false;
  cut = added_;
  at_ = added_.end;
  find_added();
  return true;
}

}  // namespace kvatlas
