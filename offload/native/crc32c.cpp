#include "offload/native/crc32c.hpp"

#include <array>
#include <cassert>
#include <cstring>

#include "offload/native/crc32c_fold.hpp"
#include "offload/native/crc32c_ways.hpp"

namespace kvatlas {
namespace {

// tables[k][b]: the state of byte b followed by k zero bytes.
using Tables = std::array<std::array<uint32_t, 256>, 8>;

constexpr Tables make_tables() {
  Tables tables{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t state = byte;
    for (int bit = 0; bit < 8; ++bit) state = (state >> 1) ^ ((state & 1) != 0 ? kCrcPolynomial : 0);
    tables[0][byte] = state;
  }
  for (size_t k = 1; k < 8; ++k)
    for (size_t byte = 0; byte < 256; ++byte)
      tables[k][byte] = (tables[k - 1][byte] >> 8) ^ tables[0][tables[k - 1][byte] & 255];
  return tables;
}

constexpr Tables kTables = make_tables();

CrcStep step_of(CrcWay way) {
  switch (way) {
    case CrcWay::table: return &crc_by_table;
#if KVATLAS_CRC_X86
    case CrcWay::sse42: return has_sse42() ? &crc_by_sse42 : nullptr;
    case CrcWay::clmul: return has_clmul() ? &crc_by_clmul : nullptr;
    case CrcWay::avx512: return has_avx512() ? &crc_by_avx512 : nullptr;
#elif KVATLAS_CRC_ARM
    case CrcWay::arm: return has_arm_crc() ? &crc_by_arm : nullptr;
#endif
    default: return nullptr;
  }
}

CrcWay best_way() {
  CrcWay best = CrcWay::table;
  for (const CrcWay way : kCrcWays)
    if (available(way)) best = way;
  return best;
}

CrcStep best_step() {
  static const CrcStep step = step_of(crc_way());
  return step;
}

}  // namespace

uint32_t crc_by_table(uint32_t state, uint8_t* to, const uint8_t* from, size_t n) {
  uint64_t word;
  for (; n >= 8; n -= 8, from += 8) {
    std::memcpy(&word, from, 8);
    if (to != nullptr) {
      std::memcpy(to, &word, 8);
      to += 8;
    }
    word ^= state;
    state = 0;
    for (size_t k = 0; k < 8; ++k) state ^= kTables[7 - k][word >> (8 * k) & 255];
  }
  for (; n > 0; --n, ++from) {
    const uint8_t byte = *from;
    if (to != nullptr) *to++ = byte;
    state = (state >> 8) ^ kTables[0][(state ^ byte) & 255];
  }
  return state;
}

const char* name_of(CrcWay way) {
  constexpr const char* kNames[] = {"table", "sse42", "clmul", "avx512", "arm"};
  return kNames[static_cast<size_t>(way)];
}

bool available(CrcWay way) { return step_of(way) != nullptr; }

CrcWay crc_way() {
  static const CrcWay way = best_way();
  return way;
}

uint32_t crc32c(uint32_t crc, const void* data, size_t n) {
  return ~best_step()(~crc, nullptr, static_cast<const uint8_t*>(data), n);
}

uint32_t copy_crc32c(void* to, const void* from, size_t n) {
  return ~best_step()(~uint32_t{0}, static_cast<uint8_t*>(to), static_cast<const uint8_t*>(from), n);
}

uint32_t crc32c_by(CrcWay way, uint32_t crc, const void* data, size_t n) {
  const CrcStep step = step_of(way);
  assert(step != nullptr);
  return ~step(~crc, nullptr, static_cast<const uint8_t*>(data), n);
}

uint32_t copy_crc32c_by(CrcWay way, void* to, const void* from, size_t n) {
  const CrcStep step = step_of(way);
  assert(step != nullptr);
  return ~step(~uint32_t{0}, static_cast<uint8_t*>(to), static_cast<const uint8_t*>(from), n);
}

}  // namespace kvatlas
