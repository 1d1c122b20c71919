// A piece of text and its token ids, in one allocation:
//
//     | Piece, 32 bytes | ids: n_tokens * 4 bytes | text: n_bytes |
//
// Text and ids never change. A piece lives as long as a memo or a plan refers to it, so that what a
// plan has found stays, whatever the memo drops meanwhile.
//
// Thread safety: text, ids and references from any thread; the memo's members under its shard's lock.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
#include <new>
#include <string_view>
#include <utility>

namespace kvatlas {

class PieceRef;

class Piece {
 public:
  // Throws std::bad_alloc. REQUIRES: text and n_tokens below 2^32.
  static PieceRef make(uint64_t hash, std::string_view text, const uint32_t* ids, size_t n_tokens);
  Piece(const Piece&) = delete;

  // Bytes that the heap takes for such a piece, its own word and rounding included.
  static size_t cost_bytes(size_t n_bytes, size_t n_tokens) {
    return (sizeof(Piece) + n_tokens * sizeof(uint32_t) + n_bytes + sizeof(void*) + 15) & ~size_t{15};
  }
  size_t cost_bytes() const { return cost_bytes(n_bytes_, n_tokens_); }

  uint64_t hash() const { return hash_; }
  uint32_t n_tokens() const { return n_tokens_; }
  const uint32_t* ids() const { return reinterpret_cast<const uint32_t*>(this + 1); }
  std::string_view text() const { return {reinterpret_cast<const char*>(ids() + n_tokens_), n_bytes_}; }

 private:
  friend class PieceRef;
  friend class MemoShard;

  Piece(uint64_t hash, uint32_t n_bytes, uint32_t n_tokens) : hash_(hash), n_bytes_(n_bytes), n_tokens_(n_tokens) {}

  const uint64_t hash_;
  Piece* next_ = nullptr;  // the memo's: after it in its queue
  std::atomic<uint32_t> references_{1};
  const uint32_t n_bytes_;
  const uint32_t n_tokens_;
  uint8_t uses_ = 0;  // the memo's: since it came into its queue
};

static_assert(sizeof(Piece) == 32 || sizeof(void*) != 8);

// Shared ownership of a piece.
class PieceRef {
 public:
  PieceRef() = default;
  PieceRef(const PieceRef& other) : piece_(other.piece_) {
    if (piece_ != nullptr) piece_->references_.fetch_add(1, std::memory_order_relaxed);
  }
  PieceRef(PieceRef&& other) noexcept : piece_(std::exchange(other.piece_, nullptr)) {}
  PieceRef& operator=(PieceRef other) noexcept {
    std::swap(piece_, other.piece_);
    return *this;
  }
  ~PieceRef() {
    if (piece_ == nullptr || piece_->references_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    piece_->~Piece();
    ::operator delete(piece_);
  }

  // Takes over a reference, and gives one away: what a memo's table holds are bare pointers.
  static PieceRef adopt(Piece* piece) { return PieceRef(piece); }
  Piece* release() { return std::exchange(piece_, nullptr); }
  static PieceRef share(Piece* piece) {
    piece->references_.fetch_add(1, std::memory_order_relaxed);
    return PieceRef(piece);
  }

  const Piece* operator->() const { return piece_; }
  explicit operator bool() const { return piece_ != nullptr; }

 private:
  friend class Piece;
  explicit PieceRef(Piece* piece) : piece_(piece) {}

  Piece* piece_ = nullptr;
};

inline PieceRef Piece::make(uint64_t hash, std::string_view text, const uint32_t* ids, size_t n_tokens) {
  void* memory = ::operator new(sizeof(Piece) + n_tokens * sizeof(uint32_t) + text.size());
  PieceRef piece(::new (memory) Piece(hash, static_cast<uint32_t>(text.size()), static_cast<uint32_t>(n_tokens)));
  char* payload = static_cast<char*>(memory) + sizeof(Piece);
  if (n_tokens > 0) std::memcpy(payload, ids, n_tokens * sizeof(uint32_t));
  if (!text.empty()) std::memcpy(payload + n_tokens * sizeof(uint32_t), text.data(), text.size());
  return piece;
}

}  // namespace kvatlas
