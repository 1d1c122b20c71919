// Times a worker's prefills and loads, and learns its rates from them.
//
// An engine prefills one request after the other, and several in one step, so the time of a single request
// says little. What is measured is a busy stretch: from the moment when the first reservation came to be
// prefilled, or from the end of the stretch before, to a `prefill_done` by which at least kStretchTokens
// were computed or, once the prefill rate is known, loaded back from lower tiers. A stretch is thrown away
// where another router had work there too, or a request went without saying that its prefill was done.
//
//   computed much, loaded little    teaches the prefill rate: tokens over seconds
//   loaded as much as computed      and from one tier alone: teaches that tier's rate. What computing took at
//     or more                       the known rate is taken off the seconds; the rest is the loading's
//   else                            teaches nothing: what took the time cannot be told apart
//
// Until the prefill rate is known, every stretch of enough tokens teaches it, with loaded tokens as the
// shares of a computed one that they were taken for: a worker that always loads would else have no rate.
// Stretches that end within a millisecond were one step of the engine, and count as one.
//
// What a request loads is what the index predicted of it. Where the prediction may be wrong (doubtful
// workers, blocks that are still being computed), its stretch teaches nothing of loading.
//
// Thread safety: none; the book's lock.
#pragma once

#include <array>
#include <cstdint>

#include "index/native/rates.hpp"

namespace kvatlas {

// Tiers that blocks are loaded back from: cpu, disk, storage.
inline constexpr uint32_t kLoadTiers = 3;
inline constexpr uint32_t kFirstLoadTier = 1;  // column of the first among tiers

// What a request has a worker do before its first token.
struct PrefillWork {
  double tokens = 0;    // to prefill, those loaded counted as shares of one
  double computed = 0;  // of them without
  std::array<double, kLoadTiers> loaded{};
  bool is_sure = true;  // `computed` and `loaded` can be relied on
};

class WorkerRates {
 public:
  enum class Taught : uint8_t { nothing, prefill, loading };
  static constexpr double kStretchTokens = 1024;
  static constexpr double kCleanShare = 0.125;  // loaded per computed token, up to which loading goes unnoticed
  static constexpr double kOneStep_s = 0.001;

  // The first reservation that is to be prefilled, after none was.
  void begin(double now_s) {
    since_s_ = now_s;
    sum_ = {};
    is_spoiled_ = false;
  }
  void spoil() { is_spoiled_ = true; }

  // A reservation has been prefilled. What a stretch that it ended has taught.
  Taught done(const PrefillWork& work, double now_s) {
    sum_.tokens += work.tokens;
    sum_.computed += work.computed;
    sum_.is_sure &= work.is_sure;
    for (uint32_t tier = 0; tier < kLoadTiers; ++tier) sum_.loaded[tier] += work.loaded[tier];
    const bool has_loaded = prefill_.is_known() && loaded() >= kStretchTokens;
    if (sum_.tokens < kStretchTokens && !has_loaded) return Taught::nothing;
    const Taught taught = is_spoiled_ ? Taught::nothing : learn(now_s);
    if (taught != Taught::nothing) taught_last_ = taught;
    begin(now_s);
    return taught;
  }

  const PrefillRate& prefill() const { return prefill_; }
  const LoadBackRate& load_back(uint32_t tier) const { return load_backs_[tier]; }
  bool knows_load_back() const { return knows_load_back_; }

 private:
  double loaded() const { return sum_.loaded[0] + sum_.loaded[1] + sum_.loaded[2]; }

  Taught learn(double now_s) {
    const double seconds = now_s - since_s_;
    if (seconds < 0) return Taught::nothing;
    const bool is_clean = loaded() <= kCleanShare * sum_.computed;
    if (sum_.tokens >= kStretchTokens && (is_clean || !prefill_.is_known())) return learn_prefill(seconds, now_s);
    return sum_.is_sure ? learn_loading(seconds, now_s) : Taught::nothing;
  }

  Taught learn_prefill(double seconds, double now_s) {
    if (seconds > kOneStep_s) {
      prefill_.learn(sum_.tokens, seconds, now_s);
      return Taught::prefill;
    }
    if (taught_last_ == Taught::prefill) prefill_.add(sum_.tokens);
    return Taught::nothing;
  }

  Taught learn_loading(double seconds, double now_s) {
    if (seconds <= kOneStep_s && taught_last_ != Taught::loading) return Taught::nothing;
    for (uint32_t tier = 0; tier < kLoadTiers; ++tier) {
      const double tokens = sum_.loaded[tier], known = prefill_.seconds_per_token();
      if (tokens < kStretchTokens || tokens < loaded() || tokens < sum_.computed) continue;
      load_backs_[tier].learn(tokens, seconds - sum_.computed * known, known, now_s);
      knows_load_back_ |= load_backs_[tier].is_known();
      prefill_.confirm(now_s);
      return Taught::loading;
    }
    return Taught::nothing;
  }

  double since_s_ = 0;
  PrefillWork sum_;  // of the stretch that is under way
  PrefillRate prefill_;
  std::array<LoadBackRate, kLoadTiers> load_backs_;
  bool is_spoiled_ = false, knows_load_back_ = false;
  Taught taught_last_ = Taught::nothing;
};

}  // namespace kvatlas
