// What is learned of one worker: how fast it prefills, how far predictions for it come true, how long
// its requests take.
//
// Prefill rate. An engine prefills one request after the other, and several in one step, so the time of
// a single request says little. What is measured is a busy stretch: from the moment when the first
// reservation came to be prefilled, or from the end of the stretch before, to a `prefill_done` by which
// at least kStretchTokens were computed. A stretch is thrown away where another router had work there
// too, or a request went without saying that its prefill was done. The first one of a worker is thrown
// away as well (engines compile and capture on their first requests), kStretchesMin must have been
// seen, and one moves the rate by a factor of kStretchFactor at most. The rate is tokens over seconds,
// both sums in which older stretches fade: so long stretches weigh more than short ones.
//
// Thread safety: none; the book's lock.
#pragma once

#include <algorithm>
#include <cstdint>

namespace kvatlas {

class PrefillRate {
 public:
  static constexpr double kStretchTokens = 1024;
  static constexpr uint32_t kStretchesMin = 3;
  static constexpr double kStretchFactor = 4;
  static constexpr double kFade = 0.8;
  static constexpr double kTrustHalf_s = 60;  // after which a measured rate counts half

  // The first reservation that is to be prefilled, after none was.
  void begin(double now_s) {
    since_s_ = now_s;
    tokens_ = 0;
    is_spoiled_ = false;
  }
  void spoil() { is_spoiled_ = true; }

  // A reservation of so many tokens has been prefilled.
  void done(double tokens, double now_s) {
    tokens_ += tokens;
    if (tokens_ < kStretchTokens) return;
    if (!is_spoiled_ && now_s > since_s_) learn(tokens_, now_s - since_s_, now_s);
    if (!is_spoiled_ && now_s == since_s_ && n_ > 1) tokens_sum_ += tokens_;  // in one step with the stretch before
    begin(now_s);
  }

  // 0: not known.
  double seconds_per_token() const { return n_ > kStretchesMin ? seconds_sum_ / tokens_sum_ : 0; }
  // How much of it counts beside what would be assumed without: 1 when new.
  double weight(double now_s) const {
    if (n_ <= kStretchesMin) return 0;
    return kTrustHalf_s / (kTrustHalf_s + std::max(now_s - learned_s_, 0.0));
  }

 private:
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

  double since_s_ = 0, tokens_ = 0;
  double tokens_sum_ = 0, seconds_sum_ = 0, learned_s_ = 0;
  uint32_t n_ = 0;  // stretches, the first one too, up to one more than are needed
  bool is_spoiled_ = false;
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
