#include "ingest/native/nodes.hpp"

namespace kvatlas {

uint32_t Shape::allocate() {
  if (!free.empty()) {
    const uint32_t slot = free.back();
    free.pop_back();
    return slot;
  }
  const auto slot = static_cast<uint32_t>(segment_keys.size());
  keys.resize(keys.size() + stride);
  segment_keys.push_back(0);
  first_blocks.push_back(0);
  if (parts) {
    tokens.resize(tokens.size() + block_size);
    family.emplace_back();
  }
  return slot;
}

uint64_t Shape::bytes() const {
  return keys.capacity() * sizeof(uint64_t) + segment_keys.capacity() * sizeof(uint64_t) +
         first_blocks.capacity() * sizeof(uint32_t) + tokens.capacity() * sizeof(uint32_t) +
         family.capacity() * sizeof(Part) + free.capacity() * sizeof(uint32_t);
}

uint32_t Segments::add(uint64_t first_key, uint32_t base) {
  if (free_.empty()) {
    all_.push_back({first_key, base, 0});
    return static_cast<uint32_t>(all_.size() - 1);
  }
  const uint32_t id = free_.back();
  free_.pop_back();
  all_[id] = {first_key, base, 0};
  return id;
}

NodeId NodePool::allocate() {
  if (!free_.empty()) {
    const NodeId id = free_.back();
    free_.pop_back();
    return id;
  }
  if (end_ == kNodesMax) return kNoNode;
  if (end_ >> kChunkBits == chunks_.size()) chunks_.push_back(std::make_unique<Node[]>(size_t{1} << kChunkBits));
  return end_++;
}

}  // namespace kvatlas
