// A seeded 64-bit hash of a text, by folded 128-bit products of 8-byte words (as wyhash and fold64 do).
//
// Four independent lanes of 16 bytes each hide a multiplication's latency: about 12 bytes a cycle.
// It is no proof of equality: who looks a text up compares it. The seed is private, so that nobody
// can send texts that fall into one slot.
//
// Thread safety: immutable.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace kvatlas {

class TextHash {
 public:
  explicit TextHash(uint64_t seed) {
    for (uint64_t& secret : secrets_) {  // splitmix64
      seed += 0x9e3779b97f4a7c15;
      uint64_t z = (seed ^ (seed >> 30)) * 0xbf58476d1ce4e5b9;
      z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
      secret = z ^ (z >> 31);
    }
  }

  uint64_t operator()(std::string_view text) const {
    const auto& s = secrets_;
    const char* at = text.data();
    size_t left = text.size();
    uint64_t hash = s[0];
    if (left >= 64) {
      uint64_t lane1 = s[1], lane2 = s[2], lane3 = s[3];
      for (; left >= 64; at += 64, left -= 64) {
        hash = fold(hash ^ load(at), s[4] ^ load(at + 8));
        lane1 = fold(lane1 ^ load(at + 16), s[5] ^ load(at + 24));
        lane2 = fold(lane2 ^ load(at + 32), s[6] ^ load(at + 40));
        lane3 = fold(lane3 ^ load(at + 48), s[7] ^ load(at + 56));
      }
      hash = fold(hash ^ lane1, s[4] ^ lane2) ^ lane3;
    }
    for (; left >= 16; at += 16, left -= 16) hash = fold(hash ^ load(at), s[4] ^ load(at + 8));
    if (left > 0) {
      char padded[16] = {};
      std::memcpy(padded, at, left);
      hash = fold(hash ^ load(padded), s[5] ^ load(padded + 8));
    }
    return fold(hash ^ s[6], s[7] ^ text.size());
  }

 private:
  __extension__ typedef unsigned __int128 uint128;

  static uint64_t fold(uint64_t a, uint64_t b) {
    const uint128 product = static_cast<uint128>(a) * b;
    return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  }
  static uint64_t load(const char* bytes) {
    uint64_t word;
    std::memcpy(&word, bytes, sizeof word);
    return word;
  }

  std::array<uint64_t, 8> secrets_;
};

}  // namespace kvatlas
