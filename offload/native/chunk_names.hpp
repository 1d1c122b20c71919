// The rule by which a chunk's key names its file, and back.
//
//   key     = engine hash (1 .. 64 bytes), group (4 bytes, big-endian)
//   name    = 3 hex, "/", hash hex, "_g", group decimal, ".kv"       the 3 hex are the hash's first (the only, of 1 byte: 2 and "0")
//   path    = folder, "/", name                                      folder = <root>/<space>/<part>
//
// Hex is lower case, the group has no leading zeros: each key has one name, each name one key.
//
// Thread safety: immutable; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace kvatlas {

class ChunkNames {
 public:
  // Throws Error{input}: an empty folder, or one with a zero byte.
  explicit ChunkNames(std::string folder);

  const std::string& folder() const { return folder_; }

  // Writes the path of a key's file, or of the folder that it lies in. REQUIRES: kKeyBytesMin <= key_bytes <= kKeyBytesMax.
  void path(const uint8_t* key, size_t key_bytes, std::string& out) const;
  void folder_of(const uint8_t* key, size_t key_bytes, std::string& out) const;
  // A name beside the file's for while it is written: ".<name>.<writer hex>.<n>.tmp" in the same folder. `writer` has 16 bytes.
  void temporary(const uint8_t* key, size_t key_bytes, const uint8_t* writer, uint64_t n, std::string& out) const;

  // "abc/<hash>_g0.kv"
  static void append_name(const uint8_t* key, size_t key_bytes, std::string& out);
  // The key of a name, with or without its 3-hex folder. False: not a chunk file's name (`key` is then undefined).
  static bool parse(std::string_view name, std::string& key);

 private:
  std::string folder_;
};

}  // namespace kvatlas
