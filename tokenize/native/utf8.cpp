#include "tokenize/native/utf8.hpp"

#include <algorithm>
#include <cstdio>
#include <string>

#include "index/native/error.hpp"

namespace kvatlas {
namespace {

bool is_surrogate(uint32_t c) { return (c & ~uint32_t{0x7ff}) == 0xd800; }

template <class Character>
[[noreturn]] void refuse_surrogate(const Character* characters, const char* name) {
  size_t at = 0;
  while (!is_surrogate(characters[at])) ++at;
  char code[8];
  std::snprintf(code, sizeof code, "%04X", static_cast<unsigned>(characters[at]));
  throw Error(ErrorKind::input, std::string(name) + "[" + std::to_string(at) + "]: expected text that UTF-8 can encode, got the lone surrogate U+" + code);
}

// Most text is ASCII nearly throughout, whatever its width: such runs are seen and narrowed at once.
constexpr size_t kRun = 32;

template <class Character>
bool is_ascii_run(const Character* characters) {
  Character all = 0;
  for (size_t j = 0; j < kRun; ++j) all |= characters[j];  // vectorized
  return all < 0x80;
}

template <class Character>
size_t count(const Character* characters, size_t n, const char* name) {
  size_t bytes = n;
  bool has_surrogate = false;
  for (size_t i = 0; i < n;) {
    if (i + kRun <= n && is_ascii_run(characters + i)) {
      i += kRun;
      continue;
    }
    for (const size_t end = std::min(i + kRun, n); i < end; ++i) {
      const uint32_t c = characters[i];
      bytes += (c >= 0x80) + (c >= 0x800) + (c >= 0x10000);
      has_surrogate |= is_surrogate(c);
    }
  }
  if (has_surrogate) refuse_surrogate(characters, name);
  return bytes;
}

char* write_one(uint32_t c, char* out) {
  auto put = [&out](uint32_t byte) { *out++ = static_cast<char>(byte); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xc0 | c >> 6);
    put(0x80 | (c & 0x3f));
  } else if (c < 0x10000) {
    put(0xe0 | c >> 12);
    put(0x80 | (c >> 6 & 0x3f));
    put(0x80 | (c & 0x3f));
  } else {
    put(0xf0 | c >> 18);
    put(0x80 | (c >> 12 & 0x3f));
    put(0x80 | (c >> 6 & 0x3f));
    put(0x80 | (c & 0x3f));
  }
  return out;
}

template <class Character>
void write(const Character* characters, size_t n, char* out) {
  for (size_t i = 0; i < n;) {
    if (i + kRun <= n && is_ascii_run(characters + i)) {
      for (size_t j = 0; j < kRun; ++j) out[j] = static_cast<char>(characters[i + j]);
      out += kRun;
      i += kRun;
      continue;
    }
    for (const size_t end = std::min(i + kRun, n); i < end; ++i) out = write_one(characters[i], out);
  }
}

}  // namespace

size_t utf8_bytes(const void* characters, size_t n, int width, const char* name) {
  if (width == 1) return count(static_cast<const uint8_t*>(characters), n, name);
  if (width == 2) return count(static_cast<const uint16_t*>(characters), n, name);
  return count(static_cast<const uint32_t*>(characters), n, name);
}

void write_utf8(const void* characters, size_t n, int width, char* out) {
  if (width == 1) write(static_cast<const uint8_t*>(characters), n, out);
  else if (width == 2) write(static_cast<const uint16_t*>(characters), n, out);
  else write(static_cast<const uint32_t*>(characters), n, out);
}

}  // namespace kvatlas
