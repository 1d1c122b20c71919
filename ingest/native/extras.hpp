// What an event says about one block besides its tokens, peeled from the wire's untagged list.
//
// Source: vLLM's order of extra keys (LoRA name, multimodal items, cache salt, embeddings).
#pragma once

#include <limits>

#include "index/native/keys.hpp"
#include "ingest/native/decode.hpp"

namespace kvatlas {

enum class Peeled : uint8_t { ok, opaque, ambiguous, unsupported, without_offset, misaligned };

struct PeelRules {
  bool first;    // the block begins its chain
  bool aligned;  // it is exactly one index block
  const Keyspace& keyspace;
};

// The extras of the event's i-th block into `out` (cleared first), or why it cannot be keyed.
inline Peeled peel(const Batch& batch, const Event& event, uint32_t i, const PeelRules& rules, BlockExtras& out) {
  out.clear();
  uint32_t n_salts = 0, n_bare = 0;
  if (rules.first && event.cache_salt.present && !event.cache_salt.value.empty()) {
    out.salt = event.cache_salt.value;
    ++n_salts;
  }
  bool opaque = false;
  const Span list = event.extras.count == 0 ? Span{} : batch.block_extras[event.extras.begin + i];
  for (uint32_t e = 0; e < list.count; ++e) {
    const ExtraKey& key = batch.extra_keys[list.begin + e];
    switch (key.form) {
      case ExtraKey::Form::opaque: opaque = true; break;
      case ExtraKey::Form::pair: out.items.push_back({key.value, key.offset}); break;
      case ExtraKey::Form::bytes: out.embeddings.push_back(key.value); break;
      case ExtraKey::Form::text:
        if (e == 0 && event.lora_name.present && key.value == event.lora_name.value) break;
        if (rules.first && key.value.empty()) break;  // an empty salt is none, as for the reader
        if (rules.first) {
          out.salt = key.value;
          ++n_salts;
        } else {  // a multimodal identifier of an older release, kept in the order of the wire
          out.items.push_back({key.value, std::numeric_limits<int64_t>::min() + n_bare++});
        }
        break;
    }
  }
  out.has_salt = n_salts == 1;
  if (opaque) return Peeled::opaque;
  if (n_salts > 1) return Peeled::ambiguous;
  if (!rules.keyspace.can_key(out)) return Peeled::unsupported;
  if (n_bare > 0 && rules.keyspace.algorithm() == Keyspace::Algorithm::fold64) return Peeled::without_offset;
  if ((!out.items.empty() || !out.embeddings.empty()) && !rules.aligned) return Peeled::misaligned;
  return Peeled::ok;
}

}  // namespace kvatlas
