// Constants for folding, computed (private to crc32c*.cpp).
//
// Bits are reflected: in a 128-bit register bit i stands for x^(127-i), the low half is the earlier one. A product of two
// reflected 64-bit numbers comes out one bit short, that is multiplied by x; so the constant that moves the later half by d bits is
// x^(d-1) mod P, that for the earlier half x^(d+63) mod P, each as a reflected 64-bit number (its 32 bits on top).
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvatlas {

inline constexpr uint32_t kCrcPolynomial = 0x82f63b78;  // reflected: bit 31-k is the coefficient of x^k; x^32 is understood

constexpr uint64_t fold_constant(unsigned exponent) {
  uint32_t power = 0x80000000;  // x^0
  for (unsigned i = 0; i < exponent; ++i) power = (power >> 1) ^ ((power & 1) != 0 ? kCrcPolynomial : 0);
  return static_cast<uint64_t>(power) << 32;
}

// What moves 128 bits by `bits`.
struct FoldPair {
  uint64_t earlier, later;
};
constexpr FoldPair fold_by(unsigned bits) { return {fold_constant(bits + 63), fold_constant(bits - 1)}; }

}  // namespace kvatlas
