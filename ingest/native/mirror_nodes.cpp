// The mirror's nodes: what engine blocks mean in block keys, and how long that is remembered.
#include <algorithm>
#include <cstring>

#include "index/native/match.hpp"
#include "ingest/native/extras.hpp"
#include "ingest/native/mirror.hpp"

namespace kvatlas {
namespace {

Count reason_of(Peeled peeled) {
  switch (peeled) {
    case Peeled::opaque: return Count::extras_opaque;
    case Peeled::ambiguous: return Count::extras_ambiguous;
    case Peeled::unsupported: return Count::extras_unsupported;
    case Peeled::without_offset: return Count::extras_without_offset;
    default: return Count::extras_misaligned;
  }
}

}  // namespace

// ---- meaning ----

const Part* Mirror::part_of(const Node& node) const {
  return node.is(kIndexed) && shapes_[node.shape].parts ? &shapes_[node.shape].family[node.key] : nullptr;
}
Part* Mirror::part_of(const Node& node) { return const_cast<Part*>(std::as_const(*this).part_of(node)); }

uint32_t Mirror::n_keys(const Node& node) const {
  if (!node.is(kIndexed)) return 0;
  const Shape& shape = shapes_[node.shape];
  return shape.parts ? shape.family[node.key].n_keys : shape.stride;
}

uint32_t Mirror::n_forgotten_parts(uint64_t engine_key) const {
  if (forgotten_parts_.empty()) return 0;
  const auto found = forgotten_parts_.find(engine_key);
  return found == forgotten_parts_.end() ? 0 : found->second;
}

Mirror::Tip Mirror::tip_of(NodeId id) const {
  const Node& node = nodes_[id];
  Tip tip;
  tip.node = id;
  tip.indexed = node.is(kIndexed);
  if (!tip.indexed) return tip;
  const Shape& shape = shapes_[node.shape];
  const uint32_t block = keyspace_.block_size();
  tip.segment = node.segment;
  if (shape.parts) {
    const Part& part = shape.family[node.key];
    tip.key = part.tip_key;
    tip.token = part.start_token + shape.block_size;
    tip.next_block = tip.token / block;
    return tip;
  }
  if (shape.is_inline()) {
    tip.key = node.key;
    tip.next_block = segments_[node.segment].base + node.offset + 1;
  } else {
    tip.key = shape.keys[node.key * shape.stride + shape.stride - 1];
    tip.next_block = shape.first_blocks[node.key] + shape.stride;
  }
  tip.token = tip.next_block * block;
  return tip;
}

int Mirror::shape_for(uint32_t block_size, bool parts) {
  for (size_t i = 0; i < shapes_.size(); ++i)
    if (shapes_[i].block_size == block_size && shapes_[i].parts == parts) return static_cast<int>(i);
  if (shapes_.size() == kShapesMax) return -1;
  if (!counting_ && (parts || block_size != keyspace_.block_size())) begin_counting();
  Shape shape{};
  shape.block_size = block_size;
  shape.stride = block_size / keyspace_.block_size() + (parts ? 1 : 0);
  shape.parts = parts;
  shapes_.push_back(std::move(shape));
  return static_cast<int>(shapes_.size() - 1);
}

// A node that means nothing yet and is not found by anything.
NodeId Mirror::new_node(uint64_t engine_key) {
  const NodeId id = nodes_.allocate();
  if (id == kNoNode) {
    tally(Count::nodes_full);
    return kNoNode;
  }
  keep(id);
  ++n_nodes_;
  unlinked_parts_ += n_forgotten_parts(engine_key);
  Node& node = nodes_[id];
  node = Node{};
  node.engine_key = engine_key;
  node.parent = kNoNode;
  node.segment = kNoSegment;
  node.epoch = node_epoch();
  return id;
}

NodeId Mirror::create(uint64_t engine_key, const Tip& tip, const Batch& batch, const Event& event, uint32_t i) {
  BlockExtras extras;
  const std::optional<int> shape = shape_at(tip, batch, event, i, extras);
  if (!shape) return kNoNode;
  const NodeId id = new_node(engine_key);
  if (id == kNoNode) return kNoNode;
  key_node(id, *shape, tip, &batch.tokens[event.tokens.begin + static_cast<size_t>(i) * event.block_size], extras);
  by_engine_key_.insert(engine_key, id);
  return id;
}

// The shape of the event's i-th block behind `tip`; kUnindexed when it cannot have block keys, nothing
// when there is no room for its shape. Either is counted.
std::optional<int> Mirror::shape_at(const Tip& tip, const Batch& batch, const Event& event, uint32_t i, BlockExtras& extras) {
  const uint32_t block = keyspace_.block_size();
  const bool parts = tip.token % block != 0 || event.block_size % block != 0;
  Peeled peeled = Peeled::ok;
  if (tip.indexed && (event.extras.count > 0 || event.cache_salt.present))
    peeled = peel(batch, event, i, {tip.node == kRoot, !parts && event.block_size == block, keyspace_}, extras);
  if (!tip.indexed) tally(Count::chain_unindexed);
  if (peeled != Peeled::ok) tally(reason_of(peeled));
  if (!tip.indexed || peeled != Peeled::ok) return kUnindexed;
  const int shape = shape_for(event.block_size, parts);
  if (shape >= 0) return shape;
  tally(Count::block_sizes);
  return std::nullopt;
}

void Mirror::key_node(NodeId id, int shape, const Tip& tip, const uint32_t* tokens, const BlockExtras& extras) {
  if (shape == kUnindexed) return;
  Node& node = nodes_[id];
  node.set(kIndexed, true);
  node.shape = static_cast<uint32_t>(shape) & 7;
  const BlockExtras* some = extras.empty() ? nullptr : &extras;
  if (shapes_[node.shape].parts) key_parts(id, tip, shapes_[node.shape], tokens, some);
  else key_whole(id, tip, shapes_[node.shape], tokens, some);
  if (!counting_) by_key_.prefetch(node.key);
  if (engine_keys_) tell_engine_key(id, false);
}

// The second half of create(): found by its block key from now on. Whether it is the only one.
bool Mirror::enter(NodeId id) {
  const Node& node = nodes_[id];
  return node.is(kIndexed) && !counting_ && by_key_.insert(node.key, id);
}

void Mirror::key_whole(NodeId id, const Tip& tip, Shape& shape, const uint32_t* tokens, const BlockExtras* extras) {
  Node& node = nodes_[id];
  uint64_t key = tip.key, boundary_key = 0;
  uint32_t boundary = ~0u;
  const bool is_inline = shape.is_inline();
  if (!is_inline) node.key = shape.allocate();
  for (uint32_t k = 0; k < shape.stride; ++k) {
    key = keyspace_.next(key, tokens + static_cast<size_t>(k) * keyspace_.block_size(), k == 0 ? extras : nullptr);
    const uint32_t number = tip.next_block + k;
    if (number % kSegmentBlocks == 0) boundary = number, boundary_key = key;
    if (is_inline) node.key = key;
    else shape.keys[node.key * shape.stride + k] = key;
  }
  node.segment = boundary == ~0u ? tip.segment : segments_.add(boundary_key, boundary);
  segments_.retain(node.segment);
  node.offset = tip.next_block % kSegmentBlocks;
  if (!is_inline) {
    shape.first_blocks[node.key] = tip.next_block;
    shape.segment_keys[node.key] = tip.next_block % kSegmentBlocks == 0 ? shape.keys[node.key * shape.stride] : segments_[tip.segment].first_key;
  }
}

void Mirror::key_parts(NodeId id, const Tip& tip, Shape& shape, const uint32_t* tokens, const BlockExtras* extras) {
  const uint32_t block = keyspace_.block_size();
  const uint32_t slot = shape.allocate();
  Node& node = nodes_[id];
  node.key = slot;
  ++n_parts_;
  announce_open();
  Part part;
  part.start_token = tip.token;
  part.tip_key = tip.key;
  std::memcpy(&shape.tokens[static_cast<size_t>(slot) * shape.block_size], tokens, shape.block_size * sizeof(uint32_t));
  if (tip.node == kRoot && extras != nullptr && extras->has_salt) part_salts_[id] = std::string(extras->salt);
  join_family(id, part, tip.node);
  shape.family[slot] = part;
  const uint32_t end = tip.token + shape.block_size;
  std::vector<uint32_t> words(block);
  uint32_t boundary = ~0u;
  uint64_t boundary_key = 0;
  for (uint32_t number = tip.next_block; (number + 1) * static_cast<uint64_t>(block) <= end; ++number) {
    NodeId first = id;
    gather(id, number * block, (number + 1) * block, words.data(), &first);
    BlockExtras salted;
    const auto salt = number == 0 ? part_salts_.find(first) : part_salts_.end();
    if (salt != part_salts_.end()) salted.has_salt = true, salted.salt = salt->second;
    part.tip_key = keyspace_.next(part.tip_key, words.data(), salted.has_salt ? &salted : nullptr);
    if (number % kSegmentBlocks == 0) boundary = number, boundary_key = part.tip_key;
    shape.keys[static_cast<size_t>(slot) * shape.stride + part.n_keys++] = part.tip_key;
  }
  shape.family[slot].tip_key = part.tip_key;
  shape.family[slot].n_keys = part.n_keys;
  node.segment = boundary == ~0u ? tip.segment : segments_.add(boundary_key, boundary);
  if (node.segment != kNoSegment) segments_.retain(node.segment);
  shape.first_blocks[slot] = tip.next_block;
  if (part.n_keys > 0)
    shape.segment_keys[slot] = tip.next_block % kSegmentBlocks == 0 ? shape.keys[static_cast<size_t>(slot) * shape.stride] : segments_[tip.segment].first_key;
}

void Mirror::join_family(NodeId id, Part& part, NodeId parent) {
  Part* above = parent == kRoot ? nullptr : part_of(nodes_[parent]);
  if (above == nullptr) return;  // an index block ends where the parent ends
  part.parent = parent;
  part.next_sibling = above->first_child;
  if (above->first_child != kNoNode) part_of(nodes_[above->first_child])->previous_sibling = id;
  above->first_child = id;
}

void Mirror::leave_family(Part& part) {
  if (part.previous_sibling != kNoNode) part_of(nodes_[part.previous_sibling])->next_sibling = part.next_sibling;
  else if (part.parent != kNoNode) part_of(nodes_[part.parent])->first_child = part.next_sibling;
  if (part.next_sibling != kNoNode) part_of(nodes_[part.next_sibling])->previous_sibling = part.previous_sibling;
  part.parent = part.next_sibling = part.previous_sibling = kNoNode;
}

// A known block whose parent was forgotten and has come again as another node.
void Mirror::relink(NodeId id, NodeId parent) {
  Part* part = part_of(nodes_[id]);
  if (part == nullptr || part->parent == kNoNode || part->parent == parent || parent == kRoot) return;
  const NodeId forgotten = part->parent;
  if (!nodes_[forgotten].is(kForgotten)) return;
  // Only what means the same: a server may say anything, and a family must stay a tree.
  const Part* above = part_of(nodes_[parent]);
  const Part* before = part_of(nodes_[forgotten]);
  if (above == nullptr || nodes_[parent].shape != nodes_[forgotten].shape || above->start_token != before->start_token ||
      above->tip_key != before->tip_key || nodes_[parent].engine_key != nodes_[forgotten].engine_key)
    return;
  keep(id);
  leave_family(*part);
  join_family(id, *part, parent);
  release(forgotten);
  const uint32_t end_token = part->start_token + shapes_[nodes_[id].shape].block_size;
  for (uint16_t group = 0; group < lanes_.size(); ++group)
    for (uint8_t tier : {uint8_t{1}, uint8_t{2}, uint8_t{16}})
      if (groups_ >> group & 1) emit_family(id, group, tier, end_token);
}

// The tokens [begin, end) of the chain that ends in `id`; *first: the node in which they begin.
bool Mirror::gather(NodeId id, uint32_t begin_token, uint32_t end_token, uint32_t* out, NodeId* first) const {
  for (NodeId at = id; at != kNoNode;) {
    const Node& node = nodes_[at];
    const Part* part = part_of(node);
    if (part == nullptr) return false;
    const Shape& shape = shapes_[node.shape];
    const uint32_t from = std::max(begin_token, part->start_token);
    const uint32_t to = std::min(end_token, part->start_token + shape.block_size);
    if (from < to) std::memcpy(out + (from - begin_token), &shape.tokens[node.key * shape.block_size + (from - part->start_token)], (to - from) * sizeof(uint32_t));
    *first = at;
    if (part->start_token <= begin_token) return true;
    at = part->parent;
  }
  return false;
}

NodeId Mirror::resolve(uint64_t engine_key) {
  const NodeId id = find(engine_key);
  if (id != kNoNode) return id;
  for (const auto& store : attached_)
    if (const auto meaning = store->find(engine_key)) return create_known(engine_key, *meaning);
  return kNoNode;
}

NodeId Mirror::create_known(uint64_t engine_key, const Meaning& meaning) {
  const int shape_number = meaning.keys.empty() ? 0 : shape_for(meaning.block_size, false);
  if (shape_number < 0) {
    tally(Count::block_sizes);
    return kNoNode;
  }
  const NodeId id = new_node(engine_key);
  if (id == kNoNode) return kNoNode;
  Node& node = nodes_[id];
  if (!meaning.keys.empty()) {
    node.set(kIndexed, true);
    node.shape = static_cast<uint32_t>(shape_number) & 7;
    Shape& shape = shapes_[node.shape];
    const uint32_t last = meaning.first_block + shape.stride - 1, base = last - last % kSegmentBlocks;
    node.segment = segments_.add(base <= meaning.first_block - meaning.first_block % kSegmentBlocks ? meaning.segment_key : meaning.keys[base - meaning.first_block], base);
    segments_.retain(node.segment);
    node.offset = meaning.first_block % kSegmentBlocks;
    if (shape.is_inline()) {
      node.key = meaning.keys[0];
    } else {
      node.key = shape.allocate();
      std::copy(meaning.keys.begin(), meaning.keys.end(), shape.keys.begin() + static_cast<std::ptrdiff_t>(node.key * shape.stride));
      shape.first_blocks[node.key] = meaning.first_block;
      shape.segment_keys[node.key] = meaning.segment_key;
    }
  }
  by_engine_key_.insert(engine_key, id);
  enter(id);
  if (engine_keys_) tell_engine_key(id, false);
  return id;
}

// ---- life and death ----

void Mirror::haunt(NodeId id) {
  Node& node = nodes_[id];
  if (node.is(kGhost)) return;
  keep(id);
  node.set(kGhost, true);
  ghost_stamp_ = ghost_stamp_ + 1 == kFree ? 0 : ghost_stamp_ + 1;
  node.parent = ghost_stamp_;
  ghost_queue_.emplace_back(id, ghost_stamp_);
  ++n_ghosts_;
  trim_ghosts();
}

void Mirror::trim_ghosts() {
  auto is_current = [this](const std::pair<NodeId, uint32_t>& entry) {
    const Node& node = nodes_[entry.first];
    return node.is(kGhost) && !node.is(kForgotten) && node.parent == entry.second;
  };
  while (n_ghosts_ > limits_.ghosts_max) {
    const auto oldest = ghost_queue_.front();
    ghost_queue_.pop_front();
    if (is_current(oldest)) forget(oldest.first);
  }
  if (ghost_queue_.size() > 2 * n_ghosts_ + 64) std::erase_if(ghost_queue_, [&](const auto& entry) { return !is_current(entry); });
}

void Mirror::forget(NodeId id) {
  Node& node = nodes_[id];
  keep(id);
  bury_doubts(id);
  if (engine_keys_) tell_engine_key(id, true);
  unlinked_parts_ -= n_forgotten_parts(node.engine_key);
  by_engine_key_.erase(node.engine_key, id);
  if (node.is(kIndexed) && !counting_) by_key_.erase(node.key, id);
  node.set(kForgotten, true);
  node.set(kGhost, false);
  node.parent = kNoNode;
  --n_ghosts_;
  if (part_of(node) != nullptr) ++forgotten_parts_[node.engine_key];
  release(id);
}

void Mirror::release(NodeId id) {
  while (id != kNoNode) {
    Node& node = nodes_[id];
    Part* part = part_of(node);
    if (!node.is(kForgotten) || node.gpu_children > 0 || (part != nullptr && part->first_child != kNoNode)) return;
    keep(id);
    NodeId above = kNoNode;
    if (part != nullptr) {
      above = part->parent;
      leave_family(*part);
      --n_parts_;
      part_salts_.erase(id);
      if (find(node.engine_key) != kNoNode) --unlinked_parts_;
      if (--forgotten_parts_[node.engine_key] == 0) forgotten_parts_.erase(node.engine_key);
      for (uint16_t group = 0; group < lanes_.size(); ++group)
        if (groups_ >> group & 1) emitted_.erase(copies_key(id, group));
      *part = Part{};
    }
    if (node.is(kIndexed)) {
      if (!shapes_[node.shape].is_inline()) shapes_[node.shape].free.push_back(static_cast<uint32_t>(node.key));
      if (node.segment != kNoSegment) segments_.release(node.segment);
    }
    node = Node{};
    node.parent = kFree;
    nodes_.release(id);
    --n_nodes_;
    id = above;
  }
}

}  // namespace kvatlas
