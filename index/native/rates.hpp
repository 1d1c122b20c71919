// What is learned of one worker, once something has been measured (stretches.hpp): how fast it prefills and
// loads back, how far predictions for it come true, how long its requests take.
//
// A rate is tokens over seconds, both sums in which older stretches fade: so long stretches weigh more
// than short ones. kStretchesMin must have been seen, and one moves the rate by a factor of kStretchFactor
// at most. The first one of prefill is thrown away: engines compile and capture on their first requests.
//
// Thread safety: none; the book's lock.
#pragma once

#include <algorithm>
#include <cstdint>

namespace kvatlas {

// Of a rate that was learned so long ago, how much counts beside what would be assumed without: 1 when new.
inline double trust_of(double learned_s, double now_s) {
  constexpr double kHalf_s = 60;
  return kHalf_s / (kHalf_s + std::max(now_s - learned_s, 0.0));
}

class PrefillRate {
 public:
  static constexpr uint32_t kStretchesMin = 3;
  static constexpr double kStretchFactor = 4;
  static constexpr double kFade = 0.8;

  bool is_known() const { return n_ > kStretchesMin; }
  // 0: not known.
  double seconds_per_token() const { return is_known() ? seconds_sum_ / tokens_sum_ : 0; }
  double weight(double now_s) const { return is_known() ? trust_of(learned_s_, now_s) : 0; }

  void learn(double tokens, double seconds, double now_s) {
    learned_s_ = now_s;
    if (n_ == 0) {
      n_ = 1;
      return;
    }
    if (const double known = seconds_per_token(); known > 0)
      seconds = std::clamp(seconds, tokens * known / kStretchFactor, tokens * known * kStretchFactor);
    tokens_sum_ = tokens_sum_ * kFade + tokens;
    seconds_sum_ = seconds_sum_ * kFade + seconds;
    n_ = std::min(n_ + 1, kStretchesMin + 1);
  }
  // So many tokens more were done in the time of the stretch learned last.
  void add(double tokens) {
    if (n_ > 1) tokens_sum_ += tokens;
  }
  // What was measured fits in with it.
  void confirm(double now_s) { learned_s_ = now_s; }

 private:
  double tokens_sum_ = 0, seconds_sum_ = 0, learned_s_ = 0;
  uint32_t n_ = 0;  // stretches, the first one too, up to one more than are needed
};

// Of one tier. Loading may take no time beside computing: then the rate is 0 seconds per token, and known.
class LoadBackRate {
 public:
  static constexpr uint32_t kStretchesMin = 3;
  static constexpr double kLeastShare = 1.0 / 16;  // of a prefill's time, up to which a rate moves freely

  bool is_known() const { return n_ >= kStretchesMin; }
  double seconds_per_token() const { return is_known() ? seconds_sum_ / tokens_sum_ : 0; }
  double weight(double now_s) const { return is_known() ? trust_of(learned_s_, now_s) : 0; }

  // `seconds`: what was left of a stretch, below 0 where it was less than computing alone should take.
  void learn(double tokens, double seconds, double prefill_seconds_per_token, double now_s) {
    const double known = std::max(seconds_per_token(), kLeastShare * prefill_seconds_per_token);
    if (is_known()) seconds = std::min(seconds, tokens * known * PrefillRate::kStretchFactor);
    tokens_sum_ = tokens_sum_ * PrefillRate::kFade + tokens;
    // The sum is kept at 0 or more, not each stretch: what one has too much another may have too little.
    seconds_sum_ = std::max(seconds_sum_ * PrefillRate::kFade + seconds, 0.0);
    learned_s_ = now_s;
    n_ = std::min(n_ + 1, kStretchesMin);
  }

 private:
  double tokens_sum_ = 0, seconds_sum_ = 0, learned_s_ = 0;
  uint32_t n_ = 0;
};

// Share of the tokens that the index predicted, and no hint did, that were found: an average in which
// the last ten requests count most.
class Accuracy {
 public:
  static constexpr double kFirst = 0.5;  // until something is known
  static constexpr double kStep = 0.1;

  void learn(double predicted, double actual) { share_ += kStep * (std::min(actual, predicted) / predicted - share_); }
  double share() const { return share_; }

 private:
  double share_ = kFirst;
};

// Seconds from choice to completion, the same way.
class Stay {
 public:
  void learn(double seconds) { mean_s_ = mean_s_ > 0 ? mean_s_ + 0.1 * (seconds - mean_s_) : seconds; }
  double mean_s() const { return mean_s_; }  // 0: not known

 private:
  double mean_s_ = 0;
};

}  // namespace kvatlas
