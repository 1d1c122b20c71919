#include "index/native/reuse.hpp"

#include <algorithm>
#include <bit>
#include <numeric>

namespace kvatlas {
namespace {

constexpr uint64_t kTokensMax = uint64_t{1} << 40;  // longer than any prompt

uint64_t ceil_div(uint64_t a, uint64_t b) { return (a + b - 1) / b; }
uint64_t common_multiple(uint64_t a, uint64_t b) {
  const uint64_t factor = a / std::gcd(a, b);
  return factor > kTokensMax / b ? kTokensMax : factor * b;
}

// What a group moves as one, an engine block or a chunk: whole index blocks.
struct Unit {
  Unit(uint64_t raw_tokens, uint64_t index_block) : tokens(common_multiple(raw_tokens, index_block)), blocks(tokens / index_block) {}
  // Keys are chained, so a unit's last block stands for all of it.
  uint64_t last_block(uint64_t n) const { return (n + 1) * blocks - 1; }

  uint64_t tokens, blocks;
};

uint64_t block_size_of(const Group& group, const Prompt& prompt) {
  return group.block_size_tokens != 0 ? group.block_size_tokens : prompt.block_size_tokens;
}

// A window of unknown size is taken for the whole prompt: that errs towards less.
GroupKind kind_of(const Group& group) {
  const bool windowed = group.kind == GroupKind::sliding_window || group.kind == GroupKind::chunked_local;
  return windowed && group.window_tokens == 0 ? GroupKind::full : group.kind;
}

// Groups of one kind, window and block size: looked up together.
struct Alike {
  GroupKind kind;
  uint64_t window, block_size;
  Unit unit;
  bool drops;
  std::vector<uint32_t> members;
};

class Device {
 public:
  Device(const Worker& worker, const Prompt& prompt, const Held& held) : worker_(worker), prompt_(prompt), held_(held) {
    const bool any_draft = std::any_of(worker.groups.begin(), worker.groups.end(), [](const Group& g) { return g.is_draft; });
    for (uint32_t i = 0; i < worker.groups.size(); ++i) {
      const Group& group = worker.groups[i];
      if (group.kind != GroupKind::uncached) add(i, any_draft ? group.is_draft : worker.drops_matched_block);
    }
    std::stable_partition(alike_.begin(), alike_.end(), [](const Alike& a) { return a.kind == GroupKind::full; });
    for (const Alike& a : alike_) alignment_ = common_multiple(alignment_, a.unit.tokens);
  }

  uint64_t tokens() const {
    if (alike_.empty() || prompt_.tokens == 0) return 0;
    const uint64_t most = prompt_.tokens - (worker_.recomputes_last_block ? 1 : 0);
    // A single group is asked once, and does not look a block further to drop it.
    if (worker_.groups.size() == 1) return hit(alike_[0], most, alike_[0].drops);
    return common(most);
  }

 private:
  void add(uint32_t i, bool drops) {
    const Group& group = worker_.groups[i];
    const GroupKind kind = kind_of(group);
    const uint64_t window = kind == GroupKind::sliding_window || kind == GroupKind::chunked_local ? group.window_tokens : 0;
    const uint64_t block_size = block_size_of(group, prompt_);
    for (Alike& a : alike_) {
      if (a.kind != kind || a.window != window || a.block_size != block_size) continue;
      a.members.push_back(i);
      a.drops |= drops;
      return;
    }
    alike_.push_back({kind, window, block_size, Unit(block_size, prompt_.block_size_tokens), drops, {i}});
  }

  uint64_t prompt_blocks_tokens() const { return uint64_t{prompt_.n_blocks} * prompt_.block_size_tokens; }

  // The longest length, at most `most`, that all agree on.
  uint64_t common(uint64_t most) const {
    uint64_t length = most;
    uint64_t dropped = 0;   // bit i: alike_[i] has dropped its block at this length
    uint64_t full_hit[64];  // of full groups, found once: they only become shorter
    uint64_t known = 0;
    const bool simple = alike_.size() == 2 && alike_[0].kind == GroupKind::full;
    for (;;) {
      uint64_t current = length;
      for (size_t i = 0; i < alike_.size(); ++i) {
        const Alike& a = alike_[i];
        const uint64_t bit = uint64_t{1} << i;
        if (known & bit) {
          current = std::min(current, full_hit[i]);
          continue;
        }
        const bool drop = a.drops && (dropped & bit) == 0;
        uint64_t ask = current;
        if (drop && a.kind != GroupKind::state) ask = std::min(current + a.unit.tokens, prompt_blocks_tokens());
        const uint64_t found = hit(a, ask, drop);
        if (drop) dropped |= bit;
        else if (found < current) dropped = 0;
        current = found;
        if (a.kind == GroupKind::full) {
          full_hit[i] = found;
          known |= bit;
        }
      }
      if (current >= length) return length;
      length = current;
      if (simple) return length;
    }
  }

  // The longest length, at most `most`, at which these groups hit. `drop`: with one block beyond it.
  uint64_t hit(const Alike& a, uint64_t most, bool drop) const {
    switch (a.kind) {
      case GroupKind::sliding_window: return hit_window(a, most, drop);
      case GroupKind::chunked_local: return hit_chunk(a, most);
      case GroupKind::state: return hit_state(a, most);
      default: return hit_full(a, most, drop);
    }
  }

  uint64_t hit_full(const Alike& a, uint64_t most, bool drop) const {
    const uint64_t size = a.unit.tokens, end = n_units(size, most);
    uint64_t n = 0;
    while (n < end && holds(a, n)) ++n;
    if (drop && n > 0) --n;
    return aligned(n * size);
  }

  uint64_t hit_window(const Alike& a, uint64_t most, bool drop) const {
    const uint64_t size = a.unit.tokens;
    // In the engine's blocks, then in units: an index block may hold several of them.
    const uint64_t needed = ceil_div(ceil_div(a.window - 1, a.block_size) * a.block_size, size) + (drop ? 1 : 0);
    uint64_t n = n_units(size, most), run = 0;
    for (uint64_t i = n; i-- > 0;) {
      if (!holds(a, i)) {
        run = 0;
        continue;
      }
      if (run == 0 && (drop ? i : i + 1) * size % alignment_ != 0) continue;
      if (++run < needed) continue;
      return aligned((i + run - (drop ? 1 : 0)) * size);
    }
    // A run that reaches the start needs no more than it has.
    n = aligned(run * size) / size;
    return aligned((drop && n > 0 ? n - 1 : n) * size);
  }

  uint64_t hit_chunk(const Alike& a, uint64_t most) const {
    const uint64_t size = a.unit.tokens, end = n_units(size, most);
    uint64_t n = most / a.window * a.window / size;
    while (n < end && holds(a, n)) ++n;
    return aligned(std::min(n, end) * size);
  }

  uint64_t hit_state(const Alike& a, uint64_t most) const {
    const uint64_t size = a.unit.tokens;
    for (uint64_t n = n_units(size, most); n > 0; --n)
      if (n * size % alignment_ == 0 && holds(a, n - 1)) return n * size;
    return 0;
  }

  uint64_t aligned(uint64_t tokens) const { return tokens - tokens % alignment_; }
  uint64_t n_units(uint64_t size, uint64_t most) const { return std::min(most, prompt_blocks_tokens()) / size; }

  bool holds(const Alike& a, uint64_t n) const {
    const uint64_t block = a.unit.last_block(n);
    return std::all_of(a.members.begin(), a.members.end(), [&](uint32_t i) { return (held_.groups[i][block] & kDeviceTier) != 0; });
  }

  const Worker& worker_;
  const Prompt& prompt_;
  const Held& held_;
  std::vector<Alike> alike_;
  uint64_t alignment_ = 1;
};

// What lies behind the device, as its connector asks for it.
class Behind {
 public:
  Behind(const Worker& worker, const Prompt& prompt, const Held& held, uint64_t device_tokens)
      : prompt_(prompt), held_(held), begin_(device_tokens) {
    for (uint32_t i = 0; i < worker.groups.size(); ++i) {
      const Group& group = worker.groups[i];
      const GroupKind kind = kind_of(group);
      if (kind == GroupKind::uncached) continue;
      const Unit unit(block_size_of(group, prompt) * worker.chunk_blocks, prompt.block_size_tokens);
      const uint64_t needed = kind == GroupKind::full ? 0 : kind == GroupKind::state ? 1 : ceil_div(group.window_tokens, unit.tokens);
      groups_.push_back({kind, group.window_tokens, unit, unit.tokens, needed, group.is_draft, i});
      has_windows_ |= kind != GroupKind::full;
    }
    // Full groups first, then the longest window first.
    std::stable_sort(groups_.begin(), groups_.end(), [](const Asked& a, const Asked& b) {
      const bool a_full = a.kind == GroupKind::full, b_full = b.kind == GroupKind::full;
      return a_full != b_full ? a_full : a.needed > b.needed;
    });
  }

  // Tokens beyond the device's.
  uint64_t tokens() {
    uint64_t end = prompt_.tokens;
    if (has_windows_) --end;
    for (const Asked& asked : groups_)
      if (asked.kind == GroupKind::state) end -= end % asked.chunk;
    uint64_t found = 0, popped = 0;
    bool again = !groups_.empty();
    for (size_t first = 0; again;) {
      again = false;
      bool windows_asked = false;
      for (size_t i = first; i < groups_.size(); ++i) {
        const Asked& asked = groups_[i];
        const uint64_t bit = uint64_t{1} << (i & 63);
        const bool pops = asked.is_draft && (popped & bit) == 0;
        end = std::min(end, n_chunks(asked) * asked.chunk);
        if (end < begin_ + asked.chunk) return 0;
        const uint64_t hit = hit_end(asked, end, pops);
        if (hit == begin_ / asked.chunk) return 0;
        if (pops) popped |= bit;
        end = std::min(end, (hit - (pops ? 1 : 0)) * asked.chunk);
        if (end < begin_ + asked.chunk) return 0;
        if (end - begin_ < found) {
          if (!asked.is_draft) popped = 0;
          again |= windows_asked;  // windows asked before must hold at the shorter length, too
        }
        windows_asked |= asked.kind != GroupKind::full;
        found = end - begin_;
      }
      first = n_full();
    }
    return found;
  }

  // The best tier of a block that comes from there: that of its chunk, the slowest of the groups'.
  uint32_t tier_column(uint32_t block) const {
    const bool only_windows = n_full() == 0;
    uint32_t slowest = 0;
    for (const Asked& asked : groups_) {
      if (!only_windows && asked.kind != GroupKind::full) continue;
      const uint64_t chunk = uint64_t{block} * prompt_.block_size_tokens / asked.chunk;
      const uint8_t mask = chunk < n_chunks(asked) ? tiers(asked, chunk) : 0;
      if (mask != 0) slowest = std::max(slowest, static_cast<uint32_t>(std::countr_zero(mask)));
    }
    return std::clamp(slowest, 1u, kTierColumns - 1);
  }

 private:
  struct Asked {
    GroupKind kind;
    uint64_t window;
    Unit unit;
    uint64_t chunk, needed;  // a chunk's tokens; how many a hit needs, of windows
    bool is_draft;
    uint32_t group;
  };

  size_t n_full() const {
    return static_cast<size_t>(std::count_if(groups_.begin(), groups_.end(), [](const Asked& a) { return a.kind == GroupKind::full; }));
  }
  uint64_t n_chunks(const Asked& a) const { return uint64_t{prompt_.n_blocks} * prompt_.block_size_tokens / a.chunk; }

  // The number of the chunk behind the last one found, from the one that holds the device's end.
  uint64_t hit_end(const Asked& a, uint64_t end, bool pops) const {
    const uint64_t ask = pops ? std::min(end + a.chunk, n_chunks(a) * a.chunk) : end;
    const uint64_t first = begin_ / a.chunk, last = std::min(ceil_div(ask, a.chunk), n_chunks(a));
    if (a.kind == GroupKind::full) {
      uint64_t n = first;
      while (n < last && tiers(a, n) != 0) ++n;
      return n;
    }
    const uint64_t extra = pops ? 1 : 0;
    uint64_t needed = window_at(a, std::min(end, (last - extra) * a.chunk)) + extra, run = 0;
    for (uint64_t n = last; n-- > first;) {
      if (tiers(a, n) != 0) {
        ++run;
      } else {
        run = 0;
        needed = a.needed + extra;
      }
      if (run == needed) return n + run;
    }
    return first + run;
  }

  // How many chunks a hit that ends at `end` needs; more where the end lies inside of one.
  uint64_t window_at(const Asked& a, uint64_t end) const {
    if (a.kind != GroupKind::sliding_window) return a.needed;
    const uint64_t padding = (a.chunk - end % a.chunk) % a.chunk;
    return std::max(a.needed, ceil_div(a.window - 1 + padding, a.chunk));
  }

  // Files do not tell their group: where groups differ, they count for none.
  uint8_t tiers(const Asked& a, uint64_t chunk) const {
    const uint64_t block = a.unit.last_block(chunk);
    return (held_.groups[a.group][block] | (has_windows_ ? 0 : held_.stores[block])) & kOtherTiers;
  }

  const Prompt& prompt_;
  const Held& held_;
  uint64_t begin_;
  std::vector<Asked> groups_;
  bool has_windows_ = false;
};

}  // namespace

Reused reused(const Worker& worker, const Prompt& prompt, const Held& held) {
  const uint64_t device = Device(worker, prompt, held).tokens();
  Behind behind(worker, prompt, held, device);
  const uint64_t all = device + behind.tokens();
  Reused out;
  out.partial = all % prompt.block_size_tokens != 0;
  out.blocks = static_cast<uint32_t>(ceil_div(all, prompt.block_size_tokens));
  const auto n_device = static_cast<uint32_t>(device / prompt.block_size_tokens);
  out.tier_blocks[0] = n_device;
  for (uint32_t block = n_device; block < out.blocks; ++block) ++out.tier_blocks[behind.tier_column(block)];
  return out;
}

uint32_t reused_on_device(PlainRule rule, const Prompt& prompt, uint32_t n_held) {
  const uint64_t raw = rule.block_size_tokens != 0 ? rule.block_size_tokens : prompt.block_size_tokens;
  const Unit unit(raw, prompt.block_size_tokens);
  const uint64_t most = prompt.tokens - (rule.recomputes_last_block ? 1 : 0);
  uint64_t n = std::min(uint64_t{n_held} * prompt.block_size_tokens, most) / unit.tokens;
  if (n > 0 && rule.drops_matched_block) --n;
  return static_cast<uint32_t>(n * unit.blocks);
}

}  // namespace kvatlas
