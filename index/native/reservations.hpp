// Requests that have been sent to workers and are not done, by id, by worker and by when they were last
// mentioned.
//
// One pool of nodes, in three structures: a map by id, a list over all in the order of mention (its head
// is the first to expire), and for each worker one list of those to be prefilled and one of the others,
// in the order of choice.
//
// Thread safety: none; the book's lock. Every operation takes constant time.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "index/native/stretches.hpp"

namespace kvatlas {

inline constexpr uint32_t kNone = ~0u;

struct Reservation {
  std::string request_id;
  uint32_t slot = kNone;
  bool is_prefilling = false;
  bool counts_decode = true;
  bool is_by_index = true;       // cached_tokens is what the index says, and no hint
  int64_t prefill_tokens = 0;    // that were to be prefilled when it was chosen, loaded ones as shares of one
  int64_t computed_tokens = 0;   // of them without those loaded
  std::array<int64_t, kLoadTiers> loaded_tokens{};
  bool is_sure = false;          // computed and loaded can be relied on
  int64_t decode_tokens = 0;     // that it counts as held now
  int64_t prompt_tokens = 0, cached_tokens = 0;
  int64_t output_tokens = 0;     // expected, or produced where that is more
  double chosen_s = 0;
  std::optional<double> prefilled_s;
  double mentioned_s = 0;
  uint32_t older = kNone, newer = kNone;  // by mention
  uint32_t before = kNone, after = kNone; // of the same worker and state
};

// Of one worker and state.
struct Line {
  uint32_t first = kNone, last = kNone;
};

class Reservations {
 public:
  explicit Reservations(uint32_t most) : most_(most) {}
  Reservations(const Reservations&) = delete;

  size_t size() const { return by_id_.size(); }
  bool is_full() const { return by_id_.size() >= most_; }

  // kNone: no such request.
  uint32_t find(std::string_view request_id) const;
  Reservation& operator[](uint32_t node) { return nodes_[node]; }
  const Reservation& operator[](uint32_t node) const { return nodes_[node]; }

  // REQUIRES: not full, the id is not there.
  uint32_t add(Reservation reservation, Line& line);
  void mention(uint32_t node, double now_s);
  void move(uint32_t node, Line& from, Line& to);
  Reservation take(uint32_t node, Line& line);
  // The one mentioned longest ago, or kNone.
  uint32_t oldest() const { return oldest_; }

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
  };
  void append(uint32_t node, Line& line);
  void unlink(uint32_t node, Line& line);
  void append_mention(uint32_t node);
  void unlink_mention(uint32_t node);

  uint32_t most_;
  std::vector<Reservation> nodes_;
  std::vector<uint32_t> free_;
  std::unordered_map<std::string, uint32_t, Hash, std::equal_to<>> by_id_;
  uint32_t oldest_ = kNone, newest_ = kNone;
};

}  // namespace kvatlas
