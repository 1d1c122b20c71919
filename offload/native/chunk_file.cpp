#include "offload/native/chunk_file.hpp"

#include <algorithm>
#include <bit>
#include <cassert>

#include "offload/native/crc32c.hpp"

namespace kvatlas {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers are copied as they lie");

constexpr char kMagic[8] = {'K', 'V', 'C', 'H', 'U', 'N', 'K', '\n'};

// Where the fields lie.
constexpr size_t kAtVersion = 8;
constexpr size_t kAtHeadBytes = 12;
constexpr size_t kAtPayloadBytes = 16;
constexpr size_t kAtBlocks = 24;
constexpr size_t kAtValidBlocks = 28;
constexpr size_t kAtFingerprint = 32;
constexpr size_t kAtWriter = 48;
constexpr size_t kAtWritten = 64;
constexpr size_t kAtPayloadCrc = 72;
constexpr size_t kAtKeyBytes = 76;
constexpr size_t kAtKey = 80;
constexpr size_t kAtZeros = kAtKey + kKeyFieldBytes;
constexpr size_t kAtHeadCrc = kHeadBytes - 4;

template <class T>
T get(const uint8_t* page, size_t at) {
  T value;
  std::memcpy(&value, page + at, sizeof value);
  return value;
}

template <class T>
void put(uint8_t* page, size_t at, T value) {
  std::memcpy(page + at, &value, sizeof value);
}

bool is_zero(const uint8_t* from, const uint8_t* to) {
  return std::all_of(from, to, [](uint8_t byte) { return byte == 0; });
}

HeadFault fault_of_fields(const ChunkHead& head) {
  if (head.payload_bytes == 0 || head.payload_bytes > kPayloadBytesMax) return HeadFault::payload_bytes;
  if (head.valid_blocks == 0 || head.valid_blocks > head.blocks) return HeadFault::blocks;
  if (head.key_bytes < kKeyBytesMin || head.key_bytes > kKeyBytesMax) return HeadFault::key_bytes;
  if (!is_zero(head.key + head.key_bytes, head.key + kKeyFieldBytes)) return HeadFault::reserved;
  return HeadFault::none;
}

}  // namespace

const char* text_of(HeadFault fault) {
  switch (fault) {
    case HeadFault::none: return "nothing is wrong";
    case HeadFault::magic: return "does not begin as a chunk file";
    case HeadFault::version: return "is of another version of the format";
    case HeadFault::checksum: return "its head's checksum is wrong";
    case HeadFault::head_bytes: return "its head is of another size";
    case HeadFault::payload_bytes: return "its payload's size is out of range";
    case HeadFault::blocks: return "its numbers of blocks are out of range";
    case HeadFault::key_bytes: return "its key's length is out of range";
    case HeadFault::reserved: return "what must be zero is not";
    case HeadFault::fingerprint: return "it belongs to another space, or to another part";
    case HeadFault::key: return "it holds another key";
    case HeadFault::size: return "its size is not the one expected";
    case HeadFault::payload: return "its payload's checksum is wrong";
  }
  return "unknown";
}

void encode_head(const ChunkHead& head, uint8_t out[kHeadBytes]) {
  assert(fault_of_fields(head) == HeadFault::none);
  std::memset(out, 0, kHeadBytes);
  std::memcpy(out, kMagic, sizeof kMagic);
  put(out, kAtVersion, kFormatVersion);
  put(out, kAtHeadBytes, static_cast<uint32_t>(kHeadBytes));
  put(out, kAtPayloadBytes, head.payload_bytes);
  put(out, kAtBlocks, head.blocks);
  put(out, kAtValidBlocks, head.valid_blocks);
  std::memcpy(out + kAtFingerprint, head.fingerprint, kFingerprintBytes);
  std::memcpy(out + kAtWriter, head.writer, kWriterBytes);
  put(out, kAtWritten, head.written_ms);
  put(out, kAtPayloadCrc, head.payload_crc32c);
  put(out, kAtKeyBytes, head.key_bytes);
  std::memcpy(out + kAtKey, head.key, kKeyFieldBytes);
  put(out, kAtHeadCrc, crc32c(0, out, kAtHeadCrc));
}

HeadFault decode_head(const uint8_t in[kHeadBytes], ChunkHead& head) {
  if (std::memcmp(in, kMagic, sizeof kMagic) != 0) return HeadFault::magic;
  // Before the checksum: another version may keep it elsewhere.
  if (get<uint32_t>(in, kAtVersion) != kFormatVersion) return HeadFault::version;
  if (get<uint32_t>(in, kAtHeadCrc) != crc32c(0, in, kAtHeadCrc)) return HeadFault::checksum;
  if (get<uint32_t>(in, kAtHeadBytes) != kHeadBytes) return HeadFault::head_bytes;
  head.payload_bytes = get<uint64_t>(in, kAtPayloadBytes);
  head.blocks = get<uint32_t>(in, kAtBlocks);
  head.valid_blocks = get<uint32_t>(in, kAtValidBlocks);
  std::memcpy(head.fingerprint, in + kAtFingerprint, kFingerprintBytes);
  std::memcpy(head.writer, in + kAtWriter, kWriterBytes);
  head.written_ms = get<int64_t>(in, kAtWritten);
  head.payload_crc32c = get<uint32_t>(in, kAtPayloadCrc);
  head.key_bytes = get<uint32_t>(in, kAtKeyBytes);
  std::memcpy(head.key, in + kAtKey, kKeyFieldBytes);
  const HeadFault fault = fault_of_fields(head);
  if (fault != HeadFault::none) return fault;
  return is_zero(in + kAtZeros, in + kAtHeadCrc) ? HeadFault::none : HeadFault::reserved;
}

HeadFault check_head(const ChunkHead& head, const uint8_t* key, size_t key_bytes, const uint8_t* fingerprint, uint64_t payload_bytes) {
  if (std::memcmp(head.fingerprint, fingerprint, kFingerprintBytes) != 0) return HeadFault::fingerprint;
  if (head.key_bytes != key_bytes || std::memcmp(head.key, key, key_bytes) != 0) return HeadFault::key;
  return head.payload_bytes == payload_bytes ? HeadFault::none : HeadFault::size;
}

}  // namespace kvatlas
