#include "tokenize/native/words.hpp"

#include <array>
#include <cstring>

namespace kvatlas {
namespace {

// What an ASCII character is to the expressions.
enum Kind : uint8_t { symbol, lower, upper, digit, line_end, space };  // space: but for line ends

constexpr std::array<Kind, 128> make_kinds() {
  std::array<Kind, 128> kinds{};
  for (int c = 'a'; c <= 'z'; ++c) kinds[c] = lower;
  for (int c = 'A'; c <= 'Z'; ++c) kinds[c] = upper;
  for (int c = '0'; c <= '9'; ++c) kinds[c] = digit;
  kinds['\n'] = kinds['\r'] = line_end;
  kinds['\t'] = kinds['\v'] = kinds['\f'] = kinds[' '] = space;
  return kinds;
}

constexpr std::array<Kind, 128> kKinds = make_kinds();

class Scan {
 public:
  Scan(WordRule rule, std::string_view text) : rule_(rule), text_(text) {}

  size_t end_of_word(size_t at) const {
    if (rule_ != WordRule::by_case)
      if (const size_t end = short_form(at); end != at) return end;
    if (const size_t end = letters(at); end != at) return end;
    if (kind(at) == digit) return digits(at);
    const size_t first = text_[at] == ' ' && is(at + 1, symbol) ? at + 1 : at;
    if (kind(first) == symbol) return symbols(first);
    return white_space(at);
  }

 private:
  Kind kind(size_t at) const { return kKinds[static_cast<uint8_t>(text_[at])]; }
  bool is(size_t at, Kind wanted) const { return at < text_.size() && kind(at) == wanted; }
  bool is_letter(size_t at) const { return is(at, lower) || is(at, upper); }

  size_t run(size_t at, Kind wanted) const {
    while (is(at, wanted)) ++at;
    return at;
  }

  // `at` where none begins there.
  size_t short_form(size_t at) const {
    if (at + 1 >= text_.size() || text_[at] != '\'') return at;
    const char one = small(at + 1);
    if (one == 's' || one == 't' || one == 'm' || one == 'd') return at + 2;
    if (at + 2 >= text_.size()) return at;
    const char two = small(at + 2);
    const bool is_long = (one == 'r' && two == 'e') || (one == 'v' && two == 'e') || (one == 'l' && two == 'l');
    return is_long ? at + 3 : at;
  }

  char small(size_t at) const { return is(at, upper) ? static_cast<char>(text_[at] | 0x20) : text_[at]; }

  // Letters, perhaps with one character before them; `at` where there are none.
  size_t letters(size_t at) const {
    const size_t first = kind(at) == symbol || kind(at) == space ? at + 1 : at;
    if (!is_letter(first)) return at;
    size_t end = first;
    if (rule_ != WordRule::by_case) {
      while (is_letter(end)) ++end;
      return end;
    }
    end = run(run(first, upper), lower);
    return short_form(end);
  }

  size_t digits(size_t at) const {
    const size_t most = at + (rule_ == WordRule::one_digit ? 1 : 3);
    while (at < most && is(at, digit)) ++at;
    return at;
  }

  size_t symbols(size_t at) const {
    at = run(at, symbol);
    while (is(at, line_end) || (rule_ == WordRule::by_case && at < text_.size() && text_[at] == '/')) ++at;
    return at;
  }

  size_t white_space(size_t at) const {
    size_t end = at, behind_line_end = at;
    for (; is(end, space) || is(end, line_end); ++end)
      if (kind(end) == line_end) behind_line_end = end + 1;
    if (behind_line_end != at) return behind_line_end;
    return end == text_.size() || end - at == 1 ? end : end - 1;
  }

  const WordRule rule_;
  const std::string_view text_;
};

}  // namespace

size_t word_end(WordRule rule, std::string_view text, size_t at) { return Scan(rule, text).end_of_word(at); }

bool is_ascii(std::string_view text) {
  uint64_t seen = 0;
  size_t at = 0;
  for (; at + 8 <= text.size(); at += 8) {
    uint64_t word;
    std::memcpy(&word, text.data() + at, 8);
    seen |= word;
  }
  for (; at < text.size(); ++at) seen |= static_cast<uint8_t>(text[at]);
  return (seen & 0x8080808080808080) == 0;
}

}  // namespace kvatlas
