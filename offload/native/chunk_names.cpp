#include "offload/native/chunk_names.hpp"

#include <cassert>
#include <charconv>

#include "index/native/error.hpp"
#include "offload/native/chunk_file.hpp"

namespace kvatlas {
namespace {

constexpr char kHex[] = "0123456789abcdef";
constexpr std::string_view kSuffix = ".kv";

void append_hex(std::string& out, const uint8_t* bytes, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    out.push_back(kHex[bytes[i] >> 4]);
    out.push_back(kHex[bytes[i] & 15]);
  }
}

void append_decimal(std::string& out, uint64_t number) {
  char digits[20];
  out.append(digits, std::to_chars(digits, digits + sizeof digits, number).ptr);
}

uint32_t group_of(const uint8_t* key, size_t key_bytes) {
  uint32_t group = 0;
  for (size_t i = key_bytes - kGroupBytes; i < key_bytes; ++i) group = group << 8 | key[i];
  return group;
}

void append_folder(const uint8_t* key, size_t key_bytes, std::string& out) {
  out.push_back(kHex[key[0] >> 4]);
  out.push_back(kHex[key[0] & 15]);
  out.push_back(key_bytes > kKeyBytesMin ? kHex[key[1] >> 4] : '0');
}

void append_file(const uint8_t* key, size_t key_bytes, std::string& out) {
  append_hex(out, key, key_bytes - kGroupBytes);
  out.append("_g");
  append_decimal(out, group_of(key, key_bytes));
  out.append(kSuffix);
}

int nibble(char letter) {
  if (letter >= '0' && letter <= '9') return letter - '0';
  return letter >= 'a' && letter <= 'f' ? letter - 'a' + 10 : -1;
}

bool parse_hex(std::string_view text, std::string& out) {
  if (text.empty() || text.size() % 2 != 0) return false;
  for (size_t i = 0; i < text.size(); i += 2) {
    const int high = nibble(text[i]);
    const int low = nibble(text[i + 1]);
    if (high < 0 || low < 0) return false;
    out.push_back(static_cast<char>(high << 4 | low));
  }
  return true;
}

bool parse_group(std::string_view text, std::string& out) {
  if (text.empty() || (text.size() > 1 && text[0] == '0')) return false;
  uint32_t group = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), group);
  if (error != std::errc{} || end != text.data() + text.size()) return false;
  for (int shift = 24; shift >= 0; shift -= 8) out.push_back(static_cast<char>(group >> shift));
  return true;
}

}  // namespace

ChunkNames::ChunkNames(std::string folder) : folder_(std::move(folder)) {
  if (folder_.empty() || folder_.find('\0') != std::string::npos)
    throw Error(ErrorKind::input, "folder: expected a path, got one that is empty or has a zero byte");
}

void ChunkNames::append_name(const uint8_t* key, size_t key_bytes, std::string& out) {
  assert(key_bytes >= kKeyBytesMin && key_bytes <= kKeyBytesMax);
  append_folder(key, key_bytes, out);
  out.push_back('/');
  append_file(key, key_bytes, out);
}

void ChunkNames::path(const uint8_t* key, size_t key_bytes, std::string& out) const {
  out.assign(folder_).push_back('/');
  append_name(key, key_bytes, out);
}

void ChunkNames::folder_of(const uint8_t* key, size_t key_bytes, std::string& out) const {
  out.assign(folder_).push_back('/');
  append_folder(key, key_bytes, out);
}

void ChunkNames::temporary(const uint8_t* key, size_t key_bytes, const uint8_t* writer, uint64_t n, std::string& out) const {
  folder_of(key, key_bytes, out);
  out.append("/.");
  append_file(key, key_bytes, out);
  out.push_back('.');
  append_hex(out, writer, kWriterBytes);
  out.push_back('.');
  append_decimal(out, n);
  out.append(".tmp");
}

bool ChunkNames::parse(std::string_view name, std::string& key) {
  key.clear();
  const size_t slash = name.find('/');
  const std::string_view folder = slash == std::string_view::npos ? std::string_view{} : name.substr(0, slash);
  if (slash != std::string_view::npos) name.remove_prefix(slash + 1);
  if (!name.ends_with(kSuffix)) return false;
  name.remove_suffix(kSuffix.size());
  const size_t group = name.find("_g");
  if (group == std::string_view::npos || group > 2 * (kKeyBytesMax - kGroupBytes)) return false;
  if (!parse_hex(name.substr(0, group), key) || !parse_group(name.substr(group + 2), key)) return false;
  if (slash == std::string_view::npos) return true;
  std::string expected;
  append_folder(reinterpret_cast<const uint8_t*>(key.data()), key.size(), expected);
  return folder == expected;
}

}  // namespace kvatlas
