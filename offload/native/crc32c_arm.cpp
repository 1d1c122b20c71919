// aarch64: the CRC instructions, which every processor of ARMv8.1 has and nearly all of ARMv8.0.
#include "offload/native/crc32c_ways.hpp"

#if KVATLAS_CRC_ARM

#include <arm_acle.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif

#include <cstring>

#if defined(__clang__)
#define KVATLAS_TARGET_CRC __attribute__((target("crc")))
#else
#define KVATLAS_TARGET_CRC __attribute__((target("+crc")))
#endif

namespace kvatlas {
namespace {

template <bool kCopy>
KVATLAS_TARGET_CRC uint32_t by_arm(uint32_t state, uint8_t* to, const uint8_t* from, size_t n) {
  uint64_t word;
  for (; n >= 8; n -= 8, from += 8) {
    std::memcpy(&word, from, 8);
    if constexpr (kCopy) {
      std::memcpy(to, &word, 8);
      to += 8;
    }
    state = __crc32cd(state, word);
  }
  for (; n > 0; --n, ++from) {
    const uint8_t byte = *from;
    if constexpr (kCopy) *to++ = byte;
    state = __crc32cb(state, byte);
  }
  return state;
}

}  // namespace

uint32_t crc_by_arm(uint32_t state, uint8_t* to, const uint8_t* from, size_t n) {
  return to == nullptr ? by_arm<false>(state, to, from, n) : by_arm<true>(state, to, from, n);
}

bool has_arm_crc() {
#if defined(__linux__)
  constexpr unsigned long kHwcapCrc32 = 1ul << 7;
  return (getauxval(AT_HWCAP) & kHwcapCrc32) != 0;
#else
  return true;  // macOS: every processor
#endif
}

}  // namespace kvatlas

#endif
