// CRC-32C (Castagnoli; RFC 3720, B.4): the checksum of chunk files.
//
// How: the processor's CRC instruction and carry-less products where it has them, chosen once at run time; a table where
// not. Long buffers are folded: the polynomial is linear, so 256 bytes can stand for the 256 before them once multiplied
// by x^2048 (Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ"; constants computed, crc32c_fold.hpp).
//
// Thread safety: all functions may be called from any thread.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvatlas {

// The CRC of what `crc` stood for followed by `n` bytes: crc32c(crc32c(0, a), b) is that of a then b; of nothing it is 0.
uint32_t crc32c(uint32_t crc, const void* data, size_t n);

// Copies n bytes and returns their CRC, in one pass over memory. The CRC is that of the bytes written, also when `from`
// changes meanwhile. REQUIRES: the two do not overlap.
uint32_t copy_crc32c(void* to, const void* from, size_t n);

// One way to compute it, for tests and benchmarks: each gives the same.
enum class CrcWay : uint8_t {
  table,   // any processor
  sse42,   // x86-64: the crc32 instruction
  clmul,   // x86-64: PCLMULQDQ, 128 bits at a time
  avx512,  // x86-64: VPCLMULQDQ, 512 bits at a time
  arm      // aarch64: the crc32c instructions
};
inline constexpr CrcWay kCrcWays[] = {CrcWay::table, CrcWay::sse42, CrcWay::clmul, CrcWay::avx512, CrcWay::arm};
const char* name_of(CrcWay way);
bool available(CrcWay way);  // on this processor
CrcWay crc_way();            // the one that crc32c and copy_crc32c use

// As the two above, in a given way. REQUIRES: available(way).
uint32_t crc32c_by(CrcWay way, uint32_t crc, const void* data, size_t n);
uint32_t copy_crc32c_by(CrcWay way, void* to, const void* from, size_t n);

}  // namespace kvatlas
