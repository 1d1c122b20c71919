// What engine keys mean in block keys, told to whoever keeps that beside the index (docs/llmd_format.md).
#include <vector>

#include "ingest/native/mirror.hpp"

namespace kvatlas {

void Mirror::set_engine_keys(std::shared_ptr<DeltaLog> log) {
  std::lock_guard turn(mutex_);
  engine_keys_ = std::move(log);
  tell_all_engine_keys(false);
}

void Mirror::tell_engine_keys() {
  std::lock_guard turn(mutex_);
  tell_all_engine_keys(false);
}

void Mirror::tell_all_engine_keys(bool gone) {
  if (!engine_keys_) return;
  for (NodeId id = 0; id < nodes_.end(); ++id)
    if (nodes_[id].is_found()) tell_engine_key(id, gone);
}

// REQUIRES: engine_keys_.
void Mirror::tell_engine_key(NodeId id, bool gone) {
  const Node& node = nodes_[id];
  if (!node.is(kIndexed)) return;
  std::vector<uint64_t> record{node.engine_key, 0};
  each_key(id, 0, [&](uint64_t, uint64_t key) { record.push_back(key); });
  if (record.size() == 2) return;  // no block ends in it
  record[1] = (record.size() - 2) | (gone ? kEngineKeyGone : 0);
  engine_keys_->append(reinterpret_cast<const uint8_t*>(record.data()), 8 * record.size());
}

}  // namespace kvatlas
