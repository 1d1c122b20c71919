// The ways to compute a CRC-32C (private to crc32c*.cpp).
//
// All take and return the register's state: a CRC is the state inverted, and so is what a computation begins with.
// `to` null: nothing is copied. Thread safety: any thread.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__x86_64__)
#define KVATLAS_CRC_X86 1
#elif defined(__aarch64__)
#define KVATLAS_CRC_ARM 1
#endif

namespace kvatlas {

using CrcStep = uint32_t (*)(uint32_t state, uint8_t* to, const uint8_t* from, size_t n);

uint32_t crc_by_table(uint32_t state, uint8_t* to, const uint8_t* from, size_t n);

// REQUIRES: the processor has what each is made of.
#if KVATLAS_CRC_X86
uint32_t crc_by_sse42(uint32_t state, uint8_t* to, const uint8_t* from, size_t n);
uint32_t crc_by_clmul(uint32_t state, uint8_t* to, const uint8_t* from, size_t n);
uint32_t crc_by_avx512(uint32_t state, uint8_t* to, const uint8_t* from, size_t n);
bool has_sse42();
bool has_clmul();
bool has_avx512();
#elif KVATLAS_CRC_ARM
uint32_t crc_by_arm(uint32_t state, uint8_t* to, const uint8_t* from, size_t n);
bool has_arm_crc();
#endif

}  // namespace kvatlas
