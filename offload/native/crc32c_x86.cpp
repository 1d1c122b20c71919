// x86-64: compiled for any processor, run where it has the instructions.
#include "offload/native/crc32c_ways.hpp"

#if KVATLAS_CRC_X86

#include <immintrin.h>

#include <cstring>

#include "offload/native/crc32c_fold.hpp"

#define KVATLAS_TARGET(features) __attribute__((target(features)))

namespace kvatlas {
namespace {

// A buffer from here on is written past the caches: it would push out more than is read again soon.
constexpr size_t kStreamBytes = size_t{256} << 10;

template <bool kCopy>
KVATLAS_TARGET("sse4.2") uint32_t by_sse42(uint32_t state, uint8_t* to, const uint8_t* from, size_t n) {
  uint64_t wide = state;
  uint64_t word;
  for (; n >= 8; n -= 8, from += 8) {
    std::memcpy(&word, from, 8);
    if constexpr (kCopy) {
      std::memcpy(to, &word, 8);
      to += 8;
    }
    wide = _mm_crc32_u64(wide, word);
  }
  state = static_cast<uint32_t>(wide);
  for (; n > 0; --n, ++from) {
    const uint8_t byte = *from;
    if constexpr (kCopy) *to++ = byte;
    state = _mm_crc32_u8(state, byte);
  }
  return state;
}

KVATLAS_TARGET("sse4.2,pclmul") inline __m128i folded(__m128i sum, __m128i constants, __m128i next) {
  const __m128i earlier = _mm_clmulepi64_si128(sum, constants, 0x00);
  const __m128i later = _mm_clmulepi64_si128(sum, constants, 0x11);
  return _mm_xor_si128(_mm_xor_si128(earlier, later), next);
}

template <bool kCopy, bool kStream>
KVATLAS_TARGET("sse4.2,pclmul") inline __m128i taken(uint8_t* to, const uint8_t* from, size_t at) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + at));
  if constexpr (kCopy && kStream) _mm_stream_si128(reinterpret_cast<__m128i*>(to + at), bytes);
  if constexpr (kCopy && !kStream) _mm_storeu_si128(reinterpret_cast<__m128i*>(to + at), bytes);
  return bytes;
}

// REQUIRES: n >= 128; with kStream `to` is aligned to 16.
template <bool kCopy, bool kStream>
KVATLAS_TARGET("sse4.2,pclmul") uint32_t by_clmul(uint32_t state, uint8_t* to, const uint8_t* from, size_t n) {
  constexpr FoldPair kBy = fold_by(1024);
  const __m128i constants = _mm_set_epi64x(static_cast<long long>(kBy.later), static_cast<long long>(kBy.earlier));
  __m128i sums[8];
  for (size_t i = 0; i < 8; ++i) sums[i] = taken<kCopy, kStream>(to, from, 16 * i);
  sums[0] = _mm_xor_si128(sums[0], _mm_cvtsi32_si128(static_cast<int>(state)));
  size_t at = 128;
  for (; at + 128 <= n; at += 128)
    for (size_t i = 0; i < 8; ++i)
      sums[i] = folded(sums[i], constants, taken<kCopy, kStream>(to, from, at + 16 * i));
  if constexpr (kStream) _mm_sfence();
  uint8_t last[128];
  for (size_t i = 0; i < 8; ++i) _mm_storeu_si128(reinterpret_cast<__m128i*>(last + 16 * i), sums[i]);
  return by_sse42<kCopy>(by_sse42<false>(0, nullptr, last, sizeof last), kCopy ? to + at : nullptr, from + at, n - at);
}

#define KVATLAS_AVX512 KVATLAS_TARGET("sse4.2,pclmul,avx512f,avx512bw,avx512vl,vpclmulqdq")

KVATLAS_AVX512 inline __m512i folded(__m512i sum, __m512i constants, __m512i next) {
  const __m512i earlier = _mm512_clmulepi64_epi128(sum, constants, 0x00);
  const __m512i later = _mm512_clmulepi64_epi128(sum, constants, 0x11);
  return _mm512_ternarylogic_epi64(earlier, later, next, 0x96);
}

template <bool kCopy, bool kStream>
KVATLAS_AVX512 inline __m512i taken_512(uint8_t* to, const uint8_t* from, size_t at) {
  const __m512i bytes = _mm512_loadu_si512(from + at);
  if constexpr (kCopy && kStream) _mm512_stream_si512(reinterpret_cast<__m512i*>(to + at), bytes);
  if constexpr (kCopy && !kStream) _mm512_storeu_si512(to + at, bytes);
  return bytes;
}

KVATLAS_AVX512 inline __m512i constants_512(FoldPair by) {
  const auto later = static_cast<long long>(by.later);
  const auto earlier = static_cast<long long>(by.earlier);
  return _mm512_set_epi64(later, earlier, later, earlier, later, earlier, later, earlier);
}

// REQUIRES: n >= 256; with kStream `to` is aligned to 64.
template <bool kCopy, bool kStream>
KVATLAS_AVX512 uint32_t by_avx512(uint32_t state, uint8_t* to, const uint8_t* from, size_t n) {
  constexpr FoldPair kBy2048 = fold_by(2048);
  constexpr FoldPair kBy512 = fold_by(512);
  const __m512i far = constants_512(kBy2048);
  __m512i a = taken_512<kCopy, kStream>(to, from, 0);
  __m512i b = taken_512<kCopy, kStream>(to, from, 64);
  __m512i c = taken_512<kCopy, kStream>(to, from, 128);
  __m512i d = taken_512<kCopy, kStream>(to, from, 192);
  a = _mm512_xor_si512(a, _mm512_zextsi128_si512(_mm_cvtsi32_si128(static_cast<int>(state))));
  size_t at = 256;
  for (; at + 256 <= n; at += 256) {
    a = folded(a, far, taken_512<kCopy, kStream>(to, from, at));
    b = folded(b, far, taken_512<kCopy, kStream>(to, from, at + 64));
    c = folded(c, far, taken_512<kCopy, kStream>(to, from, at + 128));
    d = folded(d, far, taken_512<kCopy, kStream>(to, from, at + 192));
  }
  if constexpr (kStream) _mm_sfence();
  const __m512i near = constants_512(kBy512);
  uint8_t last[64];
  _mm512_storeu_si512(last, folded(folded(folded(a, near, b), near, c), near, d));
  return by_sse42<kCopy>(by_sse42<false>(0, nullptr, last, sizeof last), kCopy ? to + at : nullptr, from + at, n - at);
}

template <size_t kAlignment>
bool streams(const uint8_t* to, size_t n) {
  return n >= kStreamBytes && reinterpret_cast<uintptr_t>(to) % kAlignment == 0;
}

}  // namespace

uint32_t crc_by_sse42(uint32_t state, uint8_t* to, const uint8_t* from, size_t n) {
  return to == nullptr ? by_sse42<false>(state, to, from, n) : by_sse42<true>(state, to, from, n);
}

uint32_t crc_by_clmul(uint32_t state, uint8_t* to, const uint8_t* from, size_t n) {
  if (n < 512) return crc_by_sse42(state, to, from, n);
  if (to == nullptr) return by_clmul<false, false>(state, to, from, n);
  return streams<16>(to, n) ? by_clmul<true, true>(state, to, from, n) : by_clmul<true, false>(state, to, from, n);
}

uint32_t crc_by_avx512(uint32_t state, uint8_t* to, const uint8_t* from, size_t n) {
  if (n < 512) return crc_by_sse42(state, to, from, n);
  if (to == nullptr) return by_avx512<false, false>(state, to, from, n);
  return streams<64>(to, n) ? by_avx512<true, true>(state, to, from, n) : by_avx512<true, false>(state, to, from, n);
}

bool has_sse42() { return __builtin_cpu_supports("sse4.2") != 0; }
bool has_clmul() { return has_sse42() && __builtin_cpu_supports("pclmul") != 0; }
bool has_avx512() {
  return has_clmul() && __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
         __builtin_cpu_supports("avx512vl") != 0 && __builtin_cpu_supports("vpclmulqdq") != 0;
}

}  // namespace kvatlas

#endif
