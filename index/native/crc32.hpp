// CRC-32 as zlib's crc32 computes it (polynomial 0xEDB88320), eight bytes a step.
//
// Source: Kounavis and Berry, "A Systematic Approach to Building High Performance Software-based CRC Generators" (2005).
// Thread safety: plain functions.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace kvatlas {

using Crc32Tables = std::array<std::array<uint32_t, 256>, 8>;

constexpr Crc32Tables crc32_tables() {
  Crc32Tables tables{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ (value & 1 ? 0xedb88320u : 0);
    tables[0][i] = value;
  }
  for (size_t t = 1; t < 8; ++t)
    for (uint32_t i = 0; i < 256; ++i) tables[t][i] = (tables[t - 1][i] >> 8) ^ tables[0][tables[t - 1][i] & 0xff];
  return tables;
}

inline constexpr Crc32Tables kCrc32Tables = crc32_tables();

// Of `bytes` behind those whose value is `before`; 0 for none.
inline uint32_t crc32(const uint8_t* bytes, size_t n, uint32_t before = 0) {
  static_assert(std::endian::native == std::endian::little);
  const Crc32Tables& t = kCrc32Tables;
  uint32_t value = ~before;
  for (; n >= 8; bytes += 8, n -= 8) {
    uint64_t word;
    std::memcpy(&word, bytes, sizeof word);
    word ^= value;
    value = t[7][word & 0xff] ^ t[6][word >> 8 & 0xff] ^ t[5][word >> 16 & 0xff] ^ t[4][word >> 24 & 0xff] ^
            t[3][word >> 32 & 0xff] ^ t[2][word >> 40 & 0xff] ^ t[1][word >> 48 & 0xff] ^ t[0][word >> 56];
  }
  for (; n > 0; ++bytes, --n) value = (value >> 8) ^ t[0][(value ^ *bytes) & 0xff];
  return ~value;
}

}  // namespace kvatlas
