// A fast 64-bit checksum of a batch's bytes: tells one batch from another, not a forged one.
//
// Four lanes of 64 bits, each folded with a 128-bit product per 32 bytes; about 10 GB/s.
// Thread safety: plain functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace kvatlas {

inline uint64_t checksum(const uint8_t* bytes, size_t n) {
  __extension__ typedef unsigned __int128 uint128;
  constexpr uint64_t kOdd[4] = {0x9e3779b97f4a7c15ULL, 0xbf58476d1ce4e5b9ULL, 0x94d049bb133111ebULL, 0xd6e8feb86659fd93ULL};
  const auto fold = [](uint64_t a, uint64_t b) {
    const uint128 product = static_cast<uint128>(a) * b;
    return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  };
  const auto take = [&](uint64_t* lanes, const uint8_t* chunk) {
    for (int i = 0; i < 4; ++i) {
      uint64_t word;
      std::memcpy(&word, chunk + 8 * i, sizeof word);
      lanes[i] = fold(lanes[i] ^ word, kOdd[i]) + word;  // the sum keeps a word that folds to nothing
    }
  };
  uint64_t lanes[4] = {n ^ kOdd[1], kOdd[2], kOdd[3], kOdd[0]};
  size_t at = 0;
  for (; at + 32 <= n; at += 32) take(lanes, bytes + at);
  if (at < n) {
    uint8_t last[32] = {};
    std::memcpy(last, bytes + at, n - at);
    take(lanes, last);
  }
  return fold(fold(lanes[0], kOdd[3] ^ lanes[1]) ^ lanes[2], fold(lanes[3], kOdd[0]) ^ kOdd[2]) ^ lanes[1];
}

}  // namespace kvatlas
