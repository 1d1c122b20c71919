// UTF-8 of text as Python keeps it: 1, 2 or 4 bytes a character, whichever the widest one needs.
//
// Thread safety: plain functions.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvatlas {

// Bytes that the characters need. `width`: bytes a character, 1 (Latin-1), 2 or 4.
// Throws Error{input} for a surrogate, with its place in `name`; a str can hold one, UTF-8 cannot.
size_t utf8_bytes(const void* characters, size_t n, int width, const char* name);

// Writes them to out, which has room for utf8_bytes(). REQUIRES: that did not throw.
void write_utf8(const void* characters, size_t n, int width, char* out);

}  // namespace kvatlas
