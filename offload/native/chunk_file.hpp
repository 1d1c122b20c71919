// The head of a chunk file: one page that says whose bytes follow, how many, and their checksum.
//
// A file is head (4096 bytes) + payload + zeros up to a multiple of 4096, and nothing else. docs/offload_format.md has the
// grammar. Numbers are little-endian:
//
//   at   0  magic "KVCHUNK\n"     16 payload_bytes u64    32 fingerprint 16 B    72 payload_crc32c u32    208 zeros
//        8  version u32 = 1       24 blocks u32           48 writer 16 B         76 key_bytes u32         4092 CRC-32C of
//       12  head_bytes u32        28 valid_blocks u32     64 written_ms i64      80 key, zeros to 128 B        0 .. 4091
//
// A reader trusts nothing that is not exactly so: decode_head refuses what it does not know, check_head what is not
// expected. Neither reads beyond the page.
//
// Thread safety: all functions may be called from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace kvatlas {

inline constexpr size_t kPageBytes = 4096;  // of files: alignment of O_DIRECT, and the unit of size
inline constexpr size_t kHeadBytes = kPageBytes;
inline constexpr uint32_t kFormatVersion = 1;
inline constexpr size_t kFingerprintBytes = 16;
inline constexpr size_t kWriterBytes = 16;
inline constexpr size_t kGroupBytes = 4;      // of a key: its group, big-endian, behind the engine's hash
inline constexpr size_t kKeyBytesMin = 1 + kGroupBytes;
inline constexpr size_t kKeyBytesMax = 64 + kGroupBytes;  // so that names stay below 255 characters
inline constexpr size_t kKeyFieldBytes = 128;
inline constexpr uint64_t kPayloadBytesMax = uint64_t{1} << 40;

struct ChunkHead {
  uint64_t payload_bytes = 0;   // 1 .. kPayloadBytesMax
  uint32_t blocks = 1;          // that a whole chunk has
  uint32_t valid_blocks = 1;    // 1 .. blocks: how many of them, from the first, hold data
  uint8_t fingerprint[kFingerprintBytes] = {};  // of the space and the part (offload/layout/fingerprint.py)
  uint8_t writer[kWriterBytes] = {};            // who wrote it: random for each engine
  int64_t written_ms = 0;       // since 1970, by the writer's clock: for people, nothing is decided by it
  uint32_t payload_crc32c = 0;
  uint32_t key_bytes = 0;       // kKeyBytesMin .. kKeyBytesMax
  uint8_t key[kKeyFieldBytes] = {};  // zeros behind key_bytes
};

// What is wrong with a file, in the order in which it is looked for; text_of has the words.
enum class HeadFault : uint8_t {
  none,
  magic,        // another file
  version,      // a later format, or an earlier one
  checksum,     // the head's own
  head_bytes,   // what follows is only looked at when the checksum holds: a writer's mistake
  payload_bytes,
  blocks,
  key_bytes,
  reserved,     // not zero
  fingerprint,  // check_head: of another space
  key,          // check_head: another chunk
  size,         // check_head: another payload_bytes than the reader's rows; or a file of the wrong size
  payload       // for who reads the payload: its checksum
};
inline constexpr size_t kHeadFaults = static_cast<size_t>(HeadFault::payload) + 1;
const char* text_of(HeadFault fault);

// Bytes of a file with so many bytes of payload.
constexpr uint64_t file_bytes(uint64_t payload_bytes) {
  return kHeadBytes + (payload_bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
}

// Fills a page. REQUIRES: the fields are in their ranges (an assertion).
void encode_head(const ChunkHead& head, uint8_t out[kHeadBytes]);

// Reads a page; `head` is whole only when `none` is returned.
HeadFault decode_head(const uint8_t in[kHeadBytes], ChunkHead& head);

// What a reader expects. `fingerprint` has 16 bytes.
HeadFault check_head(const ChunkHead& head, const uint8_t* key, size_t key_bytes, const uint8_t* fingerprint, uint64_t payload_bytes);

}  // namespace kvatlas
