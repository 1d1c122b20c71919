// What the segments of one bucket are called on a server: {space:bucket}:s:xxxxxxxx, the tag in hexadecimal digits.
// Source: docs/remote_format.md, keys.
//
// Thread safety: plain data.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kvatlas {

class SegmentNames {
 public:
  SegmentNames(const std::string& space, uint32_t bucket) : name_("{" + space + ":" + std::to_string(bucket) + "}:s:00000000") {}

  // Valid until the next call.
  const std::string& of(uint32_t tag) {
    for (size_t i = 0; i < 8; ++i) name_[name_.size() - 1 - i] = "0123456789abcdef"[tag >> 4 * i & 15];
    return name_;
  }

  // The names as arguments of a command are on the wire: $length, the name.
  // Source: RESP2, https://redis.io/docs/latest/develop/reference/protocol-spec/
  std::string arguments(const std::vector<uint32_t>& tags) {
    const std::string head = std::string(1, '$').append(std::to_string(name_.size())).append("\r\n");
    std::string out;
    out.reserve(tags.size() * (head.size() + name_.size() + 2));
    for (const uint32_t tag : tags) out.append(head).append(of(tag)).append("\r\n");
    return out;
  }

 private:
  std::string name_;
};

}  // namespace kvatlas
