#include "index/native/keys.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "index/native/error.hpp"

namespace kvatlas {
namespace {

static_assert(std::endian::native == std::endian::little, "tokens are read as little-endian words");

__extension__ typedef unsigned __int128 uint128;

inline uint64_t fold(uint64_t a, uint64_t b) {
  const uint128 product = static_cast<uint128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

inline uint64_t load64(const void* bytes) {
  uint64_t word;
  std::memcpy(&word, bytes, sizeof word);
  return word;
}

void append_le(std::string& out, uint64_t value, int n_bytes) {
  for (int i = 0; i < n_bytes; ++i) out.push_back(static_cast<char>(value >> (8 * i)));
}

void append_tagged(std::string& out, char tag, std::string_view bytes) {
  out.push_back(tag);
  append_le(out, bytes.size(), 4);
  out.append(bytes);
}

bool before(const BlockExtras::Item& a, const BlockExtras::Item& b) {
  return a.offset != b.offset ? a.offset < b.offset : a.id < b.id;
}

// Items in the one order both sides use; most blocks have at most one.
std::vector<BlockExtras::Item> ordered(const std::vector<BlockExtras::Item>& items) {
  std::vector<BlockExtras::Item> sorted = items;
  std::sort(sorted.begin(), sorted.end(), before);
  return sorted;
}

std::string encode_extras(const BlockExtras& extras) {
  std::string out;
  for (const auto& item : ordered(extras.items)) {
    append_tagged(out, 'm', item.id);
    append_le(out, static_cast<uint64_t>(item.offset), 8);
  }
  if (extras.has_salt) append_tagged(out, 's', extras.salt);
  for (std::string_view digest : extras.embeddings) append_tagged(out, 'e', digest);
  return out;
}

// FNV-1a fed with canonical CBOR (RFC 8949 4.2: definite lengths, shortest integers).
class CborFnv {
 public:
  void byte(uint8_t b) { hash_ = (hash_ ^ b) * 0x100000001b3ULL; }
  void head(uint8_t major, uint64_t n) {
    const uint8_t top = static_cast<uint8_t>(major << 5);
    if (n < 24) return byte(static_cast<uint8_t>(top | n));
    const int width = n <= 0xff ? 1 : n <= 0xffff ? 2 : n <= 0xffffffffULL ? 4 : 8;
    byte(static_cast<uint8_t>(top | (24 + std::countr_zero(static_cast<unsigned>(width)))));
    for (int i = width - 1; i >= 0; --i) byte(static_cast<uint8_t>(n >> (8 * i)));
  }
  void uint(uint64_t n) { head(0, n); }
  void array(uint64_t n) { head(4, n); }
  void map(uint64_t n) { head(5, n); }
  void null() { byte(0xf6); }
  void text(std::string_view s) {
    head(3, s.size());
    raw(s);
  }
  void raw(std::string_view s) {
    for (char c : s) byte(static_cast<uint8_t>(c));
  }
  uint64_t value() const { return hash_; }

 private:
  uint64_t hash_ = 0xcbf29ce484222325ULL;
};

uint32_t checked_block_size(uint32_t block_size) {
  if (block_size < 1 || block_size > kBlockSizeMax)
    throw Error(ErrorKind::input, "block_size: expected 1 to 4096 tokens, got " +
                                      std::to_string(block_size));
  return block_size;
}

}  // namespace

Keyspace::Keyspace(const std::array<uint64_t, 16>& secrets, uint32_t block_size)
    : algorithm_(Algorithm::fold64), block_size_(checked_block_size(block_size)),
      secrets_(secrets) {}

Keyspace::Keyspace(std::string hash_seed, std::string model, uint32_t block_size)
    : algorithm_(Algorithm::fnv64a_cbor), block_size_(checked_block_size(block_size)),
      model_(std::move(model)) {
  CborFnv fnv;
  fnv.raw(hash_seed);
  fnv_seed_ = fnv.value();
}

uint64_t Keyspace::root(std::string_view lora) const {
  const auto& s = secrets_;
  if (algorithm_ == Algorithm::fold64) {
    if (lora.empty()) return s[14];
    std::string tagged(1, 'l');
    tagged.append(lora);
    return fold(s[14] ^ s[10], fold_bytes(tagged) ^ s[11]);
  }
  CborFnv fnv;
  fnv.array(3);
  fnv.uint(fnv_seed_);
  fnv.null();
  fnv.text(lora.empty() ? std::string_view(model_) : lora);
  return fnv.value();
}

uint64_t Keyspace::digest(const uint32_t* tokens) const {
  const auto& s = secrets_;
  auto stripe = [&s](const uint32_t* t) {
    const auto pair = [&](int j) { return fold(load64(t + 4 * j) ^ s[2 * j], load64(t + 4 * j + 2) ^ s[2 * j + 1]); };
    return pair(0) + pair(1) + pair(2) + pair(3);
  };
  uint64_t sum = 0;
  for (uint32_t begin = 0; begin < block_size_; begin += 16) {
    uint64_t part;
    if (begin + 16 <= block_size_) {
      part = stripe(tokens + begin);
    } else {
      uint32_t padded[16] = {};
      std::memcpy(padded, tokens + begin, (block_size_ - begin) * sizeof(uint32_t));
      part = stripe(padded);
    }
    sum = begin == 0 ? part : fold(sum ^ s[12], part ^ s[13]);
  }
  return sum;
}

uint64_t Keyspace::fold_next(uint64_t parent, const uint32_t* tokens) const {
  return fold(parent ^ secrets_[8], digest(tokens) ^ secrets_[9]);
}

uint64_t Keyspace::fold_bytes(std::string_view bytes) const {
  const auto& s = secrets_;
  uint64_t hash = fold(bytes.size() ^ s[8], s[12]);
  for (size_t begin = 0; begin < bytes.size(); begin += 16) {
    char chunk[16] = {};
    std::memcpy(chunk, bytes.data() + begin, std::min<size_t>(16, bytes.size() - begin));
    hash = fold(hash ^ load64(chunk) ^ s[12], load64(chunk + 8) ^ s[13]);
  }
  return hash;
}

uint64_t Keyspace::fnv_next(uint64_t parent, const uint32_t* tokens,
                            const BlockExtras* extras) const {
  CborFnv fnv;
  fnv.array(3);
  fnv.uint(parent);
  fnv.array(block_size_);
  for (uint32_t i = 0; i < block_size_; ++i) fnv.uint(tokens[i]);
  if (extras == nullptr || extras->items.empty()) {
    fnv.null();
  } else {
    fnv.array(extras->items.size());
    for (const auto& item : ordered(extras->items)) {
      fnv.map(1);
      fnv.text("Hash");
      fnv.text(item.id);
    }
  }
  return fnv.value();
}

uint64_t Keyspace::next(uint64_t parent, const uint32_t* tokens, const BlockExtras* extras) const {
  if (algorithm_ == Algorithm::fnv64a_cbor) return fnv_next(parent, tokens, extras);
  uint64_t key = fold_next(parent, tokens);
  if (extras != nullptr && !extras->empty())
    key = fold(key ^ secrets_[10], fold_bytes(encode_extras(*extras)) ^ secrets_[11]);
  return key == 0 ? 1 : key;
}

void Keyspace::chain(uint64_t parent, const uint32_t* tokens, size_t n_blocks,
                     uint64_t* keys) const {
  for (size_t i = 0; i < n_blocks; ++i)
    keys[i] = parent = next(parent, tokens + i * block_size_, nullptr);
}

void Keyspace::chain(uint64_t parent, const uint32_t* tokens, size_t n_blocks,
                     const std::vector<Feature>& features, std::string_view salt, bool has_salt,
                     uint64_t* keys) const {
  if (features.empty() && !has_salt) return chain(parent, tokens, n_blocks, keys);
  std::vector<const Feature*> by_offset;
  for (const Feature& feature : features) by_offset.push_back(&feature);
  std::sort(by_offset.begin(), by_offset.end(),
            [](const Feature* a, const Feature* b) { return a->offset < b->offset; });
  BlockExtras extras;
  std::vector<const Feature*> open;  // items that may still overlap the current block
  size_t upcoming = 0;
  for (size_t i = 0; i < n_blocks; ++i) {
    const int64_t begin = static_cast<int64_t>(i) * block_size_;
    const int64_t end = begin + block_size_;
    while (upcoming < by_offset.size() && by_offset[upcoming]->offset < end)
      open.push_back(by_offset[upcoming++]);
    std::erase_if(open, [&](const Feature* f) { return f->offset + f->length <= begin; });
    extras.clear();
    for (const Feature* f : open) extras.items.push_back({f->id, f->offset - begin});
    extras.has_salt = has_salt && i == 0;
    extras.salt = salt;
    keys[i] = parent = next(parent, tokens + i * block_size_, &extras);
  }
}

}  // namespace kvatlas
