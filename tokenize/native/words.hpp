// Where a split by one of three regular expressions ends its matches, in ASCII text.
//
//     They're 12 of 345\n\n  (x)      one_digit: They|'re| |1|2| of| |3|4|5|\n\n| | (|x|)
//
// The expressions, tried at each place from left to right; S stands for (?i:'s|'t|'re|'ve|'m|'ll|'d):
//
//     one_digit     S | [^\r\n\p{L}\p{N}]?\p{L}+ | \p{N}      | ?[^\s\p{L}\p{N}]+[\r\n]*  | E     Qwen2, Qwen3
//     three_digits  S | [^\r\n\p{L}\p{N}]?\p{L}+ | \p{N}{1,3} | ?[^\s\p{L}\p{N}]+[\r\n]*  | E     Llama 3
//     by_case       [^\r\n\p{L}\p{N}]?[A-Z]*[a-z]+S? | [^\r\n\p{L}\p{N}]?[A-Z]+S?
//                       | \p{N}{1,3} | ?[^\s\p{L}\p{N}]+[\r\n/]* | E                              o200k (gpt-oss)
//     E             \s*[\r\n]+ | \s+(?!\S) | \s+
//
// tokenize/segments/words.py has the argument why a match encoded alone gives what it gives in place.
//
// Thread safety: plain functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace kvatlas {

enum class WordRule : uint8_t { none, one_digit, three_digits, by_case };

// The end of the match that begins at `at`; it lies in (at, text.size()]. The text's end counts as one.
// REQUIRES: at < text.size(); text[at...] is ASCII; a rule that is not none.
size_t word_end(WordRule rule, std::string_view text, size_t at);

bool is_ascii(std::string_view text);

}  // namespace kvatlas
