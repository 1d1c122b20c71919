// The mirror's nodes: what engine blocks mean, how many copies lie where, what that emits.
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

uint64_t copies_key(NodeId id, uint16_t group) { return static_cast<uint64_t>(id) << 6 | group; }

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

uint64_t Mirror::first_key(NodeId id) const {
  const Node& node = nodes_[id];
  const Shape& shape = shapes_[node.shape];
  return shape.is_inline() ? node.key : shape.keys[node.key * shape.stride];
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
  Shape shape{};
  shape.block_size = block_size;
  shape.stride = block_size / keyspace_.block_size() + (parts ? 1 : 0);
  shape.parts = parts;
  shapes_.push_back(std::move(shape));
  return static_cast<int>(shapes_.size() - 1);
}

NodeId Mirror::create(uint64_t engine_key, const Tip& tip, const Batch& batch, const Event& event, uint32_t i) {
  const uint32_t block = keyspace_.block_size();
  const bool parts = tip.token % block != 0 || event.block_size % block != 0;
  BlockExtras extras;
  Peeled peeled = Peeled::ok;
  if (tip.indexed && (event.extras.count > 0 || event.cache_salt.present))
    peeled = peel(batch, event, i, {tip.node == kRoot, !parts && event.block_size == block, keyspace_}, extras);
  if (!tip.indexed) tally(Count::chain_unindexed);
  if (peeled != Peeled::ok) tally(reason_of(peeled));
  const bool indexed = tip.indexed && peeled == Peeled::ok;
  const int shape = indexed ? shape_for(event.block_size, parts) : 0;
  if (shape < 0) {
    tally(Count::block_sizes);
    return kNoNode;
  }
  const NodeId id = nodes_.allocate();
  if (id == kNoNode) {
    tally(Count::nodes_full);
    return kNoNode;
  }
  ++n_nodes_;
  Node& node = nodes_[id];
  node = Node{};
  node.engine_key = engine_key;
  node.parent = kNoNode;
  node.segment = kNoSegment;
  if (indexed) {
    node.set(kIndexed, true);
    node.shape = static_cast<uint32_t>(shape) & 7;
    const uint32_t* tokens = &batch.tokens[event.tokens.begin + static_cast<size_t>(i) * event.block_size];
    const BlockExtras* some = extras.empty() ? nullptr : &extras;
    if (parts) key_parts(id, tip, shapes_[node.shape], tokens, some);
    else key_whole(id, tip, shapes_[node.shape], tokens, some);
    if (n_keys(node) > 0) by_first_key_.insert(first_key(id), id);
  }
  by_engine_key_.insert(engine_key, id);
  return id;
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
  if (tip.node != kRoot) {
    if (Part* above = part_of(nodes_[tip.node]); above != nullptr) {
      part.parent = tip.node;
      part.next_sibling = above->first_child;
      if (above->first_child != kNoNode) part_of(nodes_[above->first_child])->previous_sibling = id;
      above->first_child = id;
    }
  }
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

Meaning Mirror::meaning_of(const Node& node) const {
  Meaning meaning{};
  if (!node.is(kIndexed)) return meaning;
  const Shape& shape = shapes_[node.shape];
  meaning.block_size = shape.block_size;
  if (shape.is_inline()) {
    meaning.first_block = segments_[node.segment].base + node.offset;
    meaning.segment_key = segments_[node.segment].first_key;
    meaning.keys = {node.key};
  } else {
    meaning.first_block = shape.first_blocks[node.key];
    meaning.segment_key = shape.segment_keys[node.key];
    const uint64_t* keys = &shape.keys[node.key * shape.stride];
    meaning.keys.assign(keys, keys + shape.stride);
  }
  return meaning;
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
  const NodeId id = nodes_.allocate();
  if (id == kNoNode) {
    tally(Count::nodes_full);
    return kNoNode;
  }
  ++n_nodes_;
  Node& node = nodes_[id];
  node = Node{};
  node.engine_key = engine_key;
  node.parent = kNoNode;
  node.segment = kNoSegment;
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
    by_first_key_.insert(first_key(id), id);
  }
  by_engine_key_.insert(engine_key, id);
  return id;
}

// ---- life and death ----

void Mirror::haunt(NodeId id) {
  Node& node = nodes_[id];
  if (node.is(kGhost)) return;
  node.set(kGhost, true);
  node.parent = ++ghost_stamp_;
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
  by_engine_key_.erase(node.engine_key, id);
  if (n_keys(node) > 0) by_first_key_.erase(first_key(id), id);
  node.set(kForgotten, true);
  node.set(kGhost, false);
  node.parent = kNoNode;
  --n_ghosts_;
  release(id);
}

void Mirror::release(NodeId id) {
  while (id != kNoNode) {
    Node& node = nodes_[id];
    Part* part = part_of(node);
    if (!node.is(kForgotten) || node.gpu_children > 0 || (part != nullptr && part->first_child != kNoNode)) return;
    NodeId above = kNoNode;
    if (part != nullptr) {
      above = part->parent;
      if (part->previous_sibling != kNoNode) part_of(nodes_[part->previous_sibling])->next_sibling = part->next_sibling;
      else if (above != kNoNode) part_of(nodes_[above])->first_child = part->next_sibling;
      if (part->next_sibling != kNoNode) part_of(nodes_[part->next_sibling])->previous_sibling = part->previous_sibling;
      --n_parts_;
      part_salts_.erase(id);
      for (uint16_t group = 0; group < lanes_.size(); ++group)
        if (groups_ >> group & 1) emitted_.erase(copies_key(id, group));
      *part = Part{};
    }
    if (node.is(kIndexed)) {
      if (!shapes_[node.shape].is_inline()) shapes_[node.shape].free.push_back(static_cast<uint32_t>(node.key));
      if (node.segment != kNoSegment) segments_.release(node.segment);
    }
    node = Node{};
    nodes_.release(id);
    --n_nodes_;
    id = above;
  }
}

// ---- copies ----

Mirror::Copies Mirror::copies(NodeId id, uint16_t group) const {
  if (group == 0) {
    const Node& node = nodes_[id];
    return {node.gpu, node.is(kGpuUnknown), node.is(kCpu), node.is(kCpuUnknown), node.is(kOther)};
  }
  const auto found = group_copies_.find(copies_key(id, group));
  return found == group_copies_.end() ? Copies{} : found->second;
}

void Mirror::put_copies(NodeId id, uint16_t group, const Copies& now) {
  if (group == 0) {
    Node& node = nodes_[id];
    node.gpu = now.gpu & kCopiesMax;
    node.set(kGpuUnknown, now.gpu_unknown);
    node.set(kCpu, now.cpu);
    node.set(kCpuUnknown, now.cpu_unknown);
    node.set(kOther, now.other);
  } else if (now.none()) {
    group_copies_.erase(copies_key(id, group));
  } else {
    group_copies_[copies_key(id, group)] = now;
  }
}

// Whether any tier of any group holds it. A cpu copy nobody knows of does not count.
bool Mirror::has_copies(NodeId id) const {
  const Node& node = nodes_[id];
  if (node.gpu > 0 || node.is(kCpu) || node.is(kOther)) return true;
  if (group_copies_.empty()) return false;
  for (uint16_t group = 1; group < lanes_.size(); ++group)
    if ((groups_ >> group & 1) != 0 && copies(id, group).mask() != 0) return true;
  return false;
}

// Every change of copies goes through here. `parent`: the node's place in its chain, where the
// event tells it (kRoot, a node) or kNoNode.
void Mirror::change(NodeId id, uint16_t group, const Copies& before, const Copies& now, NodeId parent) {
  Node& node = nodes_[id];
  if (node.is(kGhost) && now.mask() != 0) {
    node.set(kGhost, false);
    node.parent = kNoNode;
    --n_ghosts_;
  }
  const uint8_t was = before.mask(), is = now.mask();
  held_gpu_ += static_cast<uint64_t>((is & 1) - (was & 1));
  held_cpu_ += static_cast<uint64_t>((is >> 1 & 1) - (was >> 1 & 1));
  if (group == 0) {
    n_not_gpu_ += static_cast<uint64_t>((is > 1) - (was > 1));
    put_copies(id, group, now);
    if ((is & 1) > (was & 1)) link(id, parent);
    if ((is & 1) < (was & 1)) unlink(id);
    if (!is_closed()) announce_open();
  } else {
    put_copies(id, group, now);
  }
  for (uint8_t tier : {uint8_t{1}, uint8_t{2}, uint8_t{16}})
    if ((was ^ is) & tier) emit(id, group, tier, (is & tier) != 0);
  if (is == 0 && !node.is(kGhost) && !has_copies(id)) haunt(id);
}

// The node has come to be held on gpu: its place in the chain counts for closedness.
void Mirror::link(NodeId id, NodeId parent) {
  Node& node = nodes_[id];
  node.parent = parent;
  holes_ -= node.gpu_children;
  if (parent == kRoot) return;
  if (parent == kNoNode) {
    ++holes_;
    return;
  }
  Node& above = nodes_[parent];
  ++above.gpu_children;
  if (above.gpu == 0) ++holes_;
}

void Mirror::unlink(NodeId id) {
  Node& node = nodes_[id];
  const NodeId parent = node.parent;
  node.parent = kNoNode;
  holes_ += node.gpu_children;
  if (parent == kRoot) return;
  if (parent == kNoNode) {
    --holes_;
    return;
  }
  Node& above = nodes_[parent];
  --above.gpu_children;
  if (above.gpu == 0) --holes_;
  if (above.is(kForgotten)) release(parent);
}

// ---- deltas ----

void Mirror::announce_open() {
  if (!announced_closed_) return;
  announced_closed_ = false;
  mark(DeltaOp::open, lanes_[0]);
}

void Mirror::put(DeltaOp op, uint8_t tiers, uint32_t lane, uint64_t segment_key, uint64_t key) {
  if (segment_key != shard_segment_) {
    shard_ = shard_of(segment_key, static_cast<uint32_t>(out_.size()));
    shard_segment_ = segment_key;
  }
  out_[shard_].put(op, tiers, lane, segment_key, key);
}

void Mirror::mark(DeltaOp op, uint32_t lane) {
  for (DeltaWriter& out : out_) out.mark(op, lane);
}

void Mirror::emit(NodeId id, uint16_t group, uint8_t tier, bool on) {
  const Node& node = nodes_[id];
  if (!node.is(kIndexed)) return;
  if (const Part* part = part_of(node); part != nullptr) {
    if (!shared(id, group, tier)) emit_keys(id, group, tier, on, 1);
    emit_family(id, group, tier, part->start_token + shapes_[node.shape].block_size);
  } else if (!shared(id, group, tier)) {
    emit_keys(id, group, tier, on, 0);
  }
}

// Whether another engine key that means the same holds it in the same lane and tier.
bool Mirror::shared(NodeId id, uint16_t group, uint8_t tier) const {
  const Node& node = nodes_[id];
  if (n_keys(node) == 0) return false;
  return by_first_key_.find(first_key(id), [&](NodeId other) {
    return other != id && nodes_[other].shape == node.shape && (copies(other, group).mask() & tier) != 0;
  }) != kNoNode;
}

void Mirror::emit_keys(NodeId id, uint16_t group, uint8_t tier, bool on, uint32_t begin) {
  const Node& node = nodes_[id];
  const Shape& shape = shapes_[node.shape];
  const DeltaOp op = on ? DeltaOp::add : DeltaOp::remove;
  if (shape.is_inline()) {
    if (begin == 0) put(op, tier, lanes_[group], segments_[node.segment].first_key, node.key);
    return;
  }
  const uint64_t* keys = &shape.keys[node.key * shape.stride];
  uint64_t segment_key = shape.segment_keys[node.key];
  for (uint32_t i = 0; i < n_keys(node); ++i) {
    if (i > 0 && (shape.first_blocks[node.key] + i) % kSegmentBlocks == 0) segment_key = keys[i];
    if (i >= begin) put(op, tier, lanes_[group], segment_key, keys[i]);
  }
}

// Parts: re-decides the first key of the node and of its descendants that begin before end_token.
void Mirror::emit_family(NodeId id, uint16_t group, uint8_t tier, uint32_t end_token) {
  std::vector<NodeId> pending{id};
  const uint32_t block = keyspace_.block_size();
  while (!pending.empty()) {
    const NodeId at = pending.back();
    pending.pop_back();
    const Node& node = nodes_[at];
    const Part& part = *part_of(node);
    if (at != id && part.start_token / block * block >= end_token) continue;  // lies behind
    if (part.n_keys > 0) {
      uint8_t& emitted = emitted_[copies_key(at, group)];
      const bool on = first_key_covered(at, group, tier);
      if (on != ((emitted & tier) != 0)) {
        emitted = static_cast<uint8_t>(on ? emitted | tier : emitted & ~tier);
        const bool elsewhere = by_first_key_.find(first_key(at), [&](NodeId other) {
          const auto found = emitted_.find(copies_key(other, group));
          return other != at && found != emitted_.end() && (found->second & tier) != 0;
        }) != kNoNode;
        const Shape& shape = shapes_[node.shape];
        if (!elsewhere) put(on ? DeltaOp::add : DeltaOp::remove, tier, lanes_[group], shape.segment_keys[node.key], shape.keys[node.key * shape.stride]);
      }
      if (emitted == 0) emitted_.erase(copies_key(at, group));
    }
    for (NodeId child = part.first_child; child != kNoNode; child = part_of(nodes_[child])->next_sibling) pending.push_back(child);
  }
}

// Whether all engine blocks under the node's first index block are held.
bool Mirror::first_key_covered(NodeId id, uint16_t group, uint8_t tier) const {
  const uint32_t begin_token = shapes_[nodes_[id].shape].first_blocks[nodes_[id].key] * keyspace_.block_size();
  for (NodeId at = id; at != kNoNode;) {
    if ((copies(at, group).mask() & tier) == 0) return false;
    const Part* part = part_of(nodes_[at]);
    if (part->start_token <= begin_token) return true;
    at = part->parent;
  }
  return false;
}

void Mirror::emit_meaning(const Meaning& meaning, const std::vector<bool>& which, DeltaOp op, uint8_t tiers, uint32_t lane) {
  uint64_t segment_key = meaning.segment_key;
  for (size_t i = 0; i < meaning.keys.size(); ++i) {
    if (i > 0 && (meaning.first_block + i) % kSegmentBlocks == 0) segment_key = meaning.keys[i];
    if (which[i]) put(op, tiers, lane, segment_key, meaning.keys[i]);
  }
}

}  // namespace kvatlas
