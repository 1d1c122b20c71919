// Reads back what mirror_snapshot.cpp wrote. Nothing in the bytes is trusted: what can be worked out
// is, and the rest is checked, so that no mirror comes about that events could not have made.
#include <algorithm>
#include <unordered_map>

#include "ingest/native/mirror.hpp"

namespace kvatlas {

// One restore; its nodes get new ids, in the order of their records.
class MirrorRestore {
 public:
  explicit MirrorRestore(Mirror& mirror) : m_(mirror) {}

  void read_head(ByteReader in);
  void read_nodes(ByteReader in);
  void finish();

 private:
  using Copies = Mirror::Copies;
  struct Ghost {
    uint32_t age;
    NodeId id;
  };

  void read_shapes(ByteReader& in);
  void read_orphan(ByteReader& in);
  void read_node(ByteReader& in);
  Copies read_copies(ByteReader& in, uint16_t bits, uint16_t gpu) const;
  void read_groups(ByteReader& in, NodeId id);
  void read_whole(ByteReader& in, Node& node);
  void read_part(ByteReader& in, NodeId id, bool salted);
  uint32_t segment(uint64_t first_key, uint64_t last_block);
  NodeId renumbered(NodeId old, const char* what) const;
  void find_by_keys();
  void join_families();
  void link_chains();
  void queue_ghosts();
  void count_residency();

  Mirror& m_;
  uint64_t n_expected_ = 0;
  bool closed_ = false;
  std::vector<NodeId> new_ids_;  // by old id
  std::vector<Ghost> ghosts_;
  std::unordered_map<uint64_t, uint32_t> segments_;  // by first key; two bases of one key: the last
  uint32_t last_segment_ = Mirror::kNoSegment;
};

void Mirror::restore(const std::vector<std::string_view>& parts) {
  std::lock_guard turn(mutex_);
  if (n_nodes_ > 0 || !orphans_.empty()) throw Error(ErrorKind::input, "restore: expected a mirror without content, got " + std::to_string(n_nodes_) + " blocks");
  forget_all();
  try {
    MirrorRestore restore(*this);
    if (parts.empty()) throw Error(ErrorKind::checkpoint, "mirror: expected parts, got none");
    for (size_t i = 0; i < parts.size(); ++i) {
      ByteReader in(parts[i], "mirror, part " + std::to_string(i));
      const auto kind = in.take<uint8_t>();
      in.require(kind == (i == 0 ? kHeadPart : kNodesPart), i == 0 ? "a head (72)" : "nodes (78)", kind);
      if (i == 0) restore.read_head(std::move(in));
      else restore.read_nodes(std::move(in));
    }
    restore.finish();
  } catch (...) {
    forget_all();
    note_claims();
    throw;
  }
  for (const auto& store : attached_) teach_all(*store);
  note_claims();
}

void MirrorRestore::read_head(ByteReader in) {
  const auto block = in.take<uint32_t>();
  in.require(block == m_.keyspace_.block_size(), "the keyspace's block size", block);
  const auto algorithm = in.take<uint8_t>();
  in.require(algorithm == static_cast<uint8_t>(m_.keyspace_.algorithm()), "the keyspace's algorithm", algorithm);
  n_expected_ = in.take<uint64_t>();
  in.require(n_expected_ <= kNodesMax, "at most 16777215 nodes", n_expected_);
  m_.by_engine_key_.reserve(std::min<uint64_t>(n_expected_, 1 << 22));
  read_shapes(in);
  uint64_t clears = 0;
  for (uint64_t* sum : {&m_.forgotten_maybe_gpu_, &m_.forgotten_maybe_cpu_, &m_.lost_blocks_, &m_.lost_offloaded_, &m_.lost_stored_, &m_.extras_absent_, &m_.offloaded_, &clears})
    *sum = in.take<uint64_t>();
  m_.counts_[static_cast<size_t>(Count::events_cleared)] = clears;
  const auto bits = in.take<uint8_t>();
  in.require(bits < 4, "two bits", bits);
  m_.incomplete_ = (bits & 1) != 0;
  closed_ = (bits & 2) != 0;
  const auto n_orphans = in.take<uint32_t>();
  for (uint32_t i = 0; i < n_orphans; ++i) read_orphan(in);
  in.require(in.at_end(), "the end of the head", 1);
}

void MirrorRestore::read_shapes(ByteReader& in) {
  const uint32_t block = m_.keyspace_.block_size();
  const auto n_shapes = in.take<uint8_t>();
  in.require(n_shapes <= kShapesMax, "at most 8 shapes", n_shapes);
  for (uint8_t i = 0; i < n_shapes; ++i) {
    const auto size = in.take<uint32_t>();
    const auto parts = in.take<uint8_t>();
    in.require(parts <= 1, "0 or 1", parts);
    in.require(size > 0 && size < 1u << 31 && (parts == 1 || size % block == 0), "a block size that suits the shape", size);
    m_.shape_for(size, parts == 1);
    in.require(m_.shapes_.size() == i + 1u, "a shape not named before", size);
  }
}

void MirrorRestore::read_orphan(ByteReader& in) {
  Orphan orphan;
  orphan.parent = in.take<uint64_t>();
  orphan.group = in.take<uint16_t>();
  const auto n = in.take<uint32_t>();
  orphan.hashes = in.take_vector<uint64_t>(n);
  for (uint8_t cancelled : in.take_vector<uint8_t>(n)) orphan.cancelled.push_back(cancelled != 0);
  orphan.raw = in.take_text(in.take<uint32_t>());
  // It is decoded again when its parent comes, and nothing may fail then.
  Batch& batch = m_.orphan_batch_;
  try {
    decode_event(orphan.raw, batch);
  } catch (const std::exception&) {
    batch.clear();
  }
  const bool good = batch.events.size() == 1 && batch.hashes == orphan.hashes && batch.events[0].type == EventType::stored && batch.events[0].group == orphan.group &&
                    batch.events[0].parent == orphan.parent && n > 0 && batch.events[0].tier == Tier::gpu && batch.events[0].block_size > 0 && batch.events[0].hashes.count == n &&
                    batch.events[0].tokens.count == static_cast<uint64_t>(n) * batch.events[0].block_size && (m_.groups_ >> orphan.group & 1) != 0;
  in.require(good, "a store that waits for its parent", batch.events.size());
  const Orphans::Dropped dropped = m_.orphans_.add(std::move(orphan));  // the bounds may be others now
  m_.tally(Count::orphans_dropped, dropped.orphans);
  m_.lose(Tier::gpu, dropped.blocks);
}

void MirrorRestore::read_nodes(ByteReader in) {
  while (!in.at_end()) read_node(in);
}

void MirrorRestore::read_node(ByteReader& in) {
  in.require(m_.n_nodes_ < n_expected_, "no more nodes than the head says", m_.n_nodes_);
  const auto old = in.take<NodeId>();
  const auto bits = in.take<uint16_t>();
  const auto shape = in.take<uint8_t>();
  const auto gpu = in.take<uint16_t>();
  in.require(old < kNodesMax, "a node below 16777215", old);
  in.require(bits < kBitsEnd, "known bits", bits);
  in.require((bits & kBitIndexed) != 0 ? shape < m_.shapes_.size() : shape == 0, "a shape of the head", shape);
  if (old >= new_ids_.size()) new_ids_.resize(old + 1, kNoNode);
  in.require(new_ids_[old] == kNoNode, "each node once", old);
  const NodeId id = new_ids_[old] = m_.nodes_.allocate();
  ++m_.n_nodes_;
  Node& node = m_.nodes_[id];
  node = Node{};
  node.engine_key = in.take<uint64_t>();
  node.parent = in.take<NodeId>();
  node.segment = Mirror::kNoSegment;
  node.shape = shape & 7;
  node.set(kIndexed, (bits & kBitIndexed) != 0);
  in.require((bits & kBitUnplaced) == 0 || (bits & (kBitIndexed | kBitForgotten)) == 0, "no place of an unplaced node", bits);
  if (bits & kBitUnplaced) node.key = kUnplacedKey;
  node.set(kForgotten, (bits & kBitForgotten) != 0);
  const Copies held = read_copies(in, bits, gpu);
  m_.put_copies(id, 0, held);
  in.require(held.none() || (m_.groups_ & 1) != 0, "a lane of group 0", 0);
  m_.count_copies(node, held, 1);
  if (held.mask() > 1) ++m_.n_not_gpu_;
  if (bits & kBitGroups) read_groups(in, id);
  const bool has_copies = m_.has_copies(id);
  if (bits & kBitGhost) {
    in.require(!has_copies && (bits & kBitForgotten) == 0, "a ghost without copies, not forgotten", bits);
    ghosts_.push_back({node.parent, id});
  } else if (bits & kBitForgotten) {
    in.require(held.none() && (bits & kBitGroups) == 0 && node.parent == kNoNode, "nothing of a forgotten node", bits);
  } else {
    in.require(has_copies, "copies, or a ghost", bits);
    in.require(held.gpu > 0 || node.parent == kNoNode, "a parent only while on gpu", node.parent);
  }
  const bool parts = (bits & kBitIndexed) != 0 && m_.shapes_[shape].parts;
  in.require(parts || (bits & kBitSalt) == 0, "a salt only beside parts", bits);
  if (parts) read_part(in, id, (bits & kBitSalt) != 0);
  else if (bits & kBitIndexed) read_whole(in, node);
}

Mirror::Copies MirrorRestore::read_copies(ByteReader& in, uint16_t bits, uint16_t gpu) const {
  Copies copies;
  copies.gpu = gpu;
  copies.gpu_more = (bits & kBitGpuMore) != 0;
  copies.cpu = (bits & kBitCpu) != 0;
  copies.cpu_unknown = (bits & kBitCpuUnknown) != 0;
  copies.cpu_more = (bits & kBitCpuMore) != 0;
  copies.other = (bits & kBitOther) != 0;
  copies.stale = static_cast<uint8_t>((bits & kBitGpuStale ? 1 : 0) | (bits & kBitCpuStale ? 2 : 0) | (bits & kBitOtherStale ? 16 : 0));
  in.require(gpu <= kCopiesMax, "at most 8191 copies", gpu);
  const bool good = (copies.stale & ~copies.mask()) == 0 && !(copies.cpu && copies.cpu_unknown) && (!copies.cpu_more || copies.cpu || copies.cpu_unknown);
  in.require(good, "bits that go together", bits);
  return copies;
}

void MirrorRestore::read_groups(ByteReader& in, NodeId id) {
  const auto n = in.take<uint8_t>();
  in.require(n > 0, "at least one group", n);
  for (uint8_t i = 0, last = 0; i < n; ++i) {
    const auto group = in.take<uint8_t>();
    in.require(group > last && group < 64 && (m_.groups_ >> group & 1) != 0, "groups in order, that have lanes", group);
    last = group;
    const auto bits = static_cast<uint16_t>(in.take<uint8_t>() << 1);
    const Copies held = read_copies(in, bits, in.take<uint16_t>());
    in.require(!held.none(), "copies in a group named", group);
    m_.put_copies(id, group, held);
    m_.count_copies(m_.nodes_[id], held, 1);
  }
}

// A segment of the chain by its first block's key and any block in it.
uint32_t MirrorRestore::segment(uint64_t first_key, uint64_t last_block) {
  const auto base = static_cast<uint32_t>(last_block - last_block % kSegmentBlocks);
  auto is_it = [&](uint32_t id) { return m_.segments_[id].first_key == first_key && m_.segments_[id].base == base; };
  if (last_segment_ == Mirror::kNoSegment || !is_it(last_segment_)) {
    const auto [at, is_new] = segments_.try_emplace(first_key, 0);
    if (is_new || !is_it(at->second)) at->second = m_.segments_.add(first_key, base);
    last_segment_ = at->second;
  }
  m_.segments_.retain(last_segment_);
  return last_segment_;
}

void MirrorRestore::read_whole(ByteReader& in, Node& node) {
  Shape& shape = m_.shapes_[node.shape];
  const bool is_inline = shape.is_inline();
  if (!is_inline) {
    const auto keys = in.take_vector<uint64_t>(shape.stride);
    node.key = shape.allocate();
    std::copy(keys.begin(), keys.end(), &shape.keys[node.key * shape.stride]);
    shape.segment_keys[node.key] = in.take<uint64_t>();
  } else {
    node.key = in.take<uint64_t>();
  }
  const auto last_segment_key = in.take<uint64_t>();
  const auto first_block = in.take<uint32_t>();
  const uint64_t end_block = uint64_t{first_block} + shape.stride;
  in.require(end_block * m_.keyspace_.block_size() <= 0xffffffffu, "a place below 2^32 tokens", first_block);
  if (!is_inline) shape.first_blocks[node.key] = first_block;
  node.segment = segment(last_segment_key, end_block - 1);
  node.offset = first_block % kSegmentBlocks;
}

void MirrorRestore::read_part(ByteReader& in, NodeId id, bool salted) {
  Node& node = m_.nodes_[id];
  Shape& shape = m_.shapes_[node.shape];
  const uint32_t block = m_.keyspace_.block_size();
  Part part;
  part.start_token = in.take<uint32_t>();
  part.parent = in.take<NodeId>();  // an old id until join_families()
  part.tip_key = in.take<uint64_t>();
  const uint64_t end_token = uint64_t{part.start_token} + shape.block_size;
  in.require(end_token <= 0xffffffffu, "a place below 2^32 tokens", part.start_token);
  in.require(part.start_token % block == 0 || part.parent != kNoNode, "a parent of what begins inside an index block", part.start_token);
  const uint32_t first_block = part.start_token / block;
  part.n_keys = static_cast<uint32_t>(end_token / block) - first_block;
  const auto tokens = in.take_vector<uint32_t>(shape.block_size);
  const auto keys = in.take_vector<uint64_t>(part.n_keys);
  const auto slot = shape.allocate();
  node.key = slot;
  ++m_.n_parts_;
  std::copy(tokens.begin(), tokens.end(), &shape.tokens[size_t{slot} * shape.block_size]);
  std::copy(keys.begin(), keys.end(), shape.keys.begin() + static_cast<std::ptrdiff_t>(size_t{slot} * shape.stride));
  shape.first_blocks[slot] = first_block;
  if (part.n_keys > 0) shape.segment_keys[slot] = in.take<uint64_t>();
  const uint32_t n_before = first_block + part.n_keys;
  if (n_before > 0) node.segment = segment(in.take<uint64_t>(), n_before - 1);
  shape.family[slot] = part;
  if (!salted) return;
  in.require(part.start_token == 0, "a salt at the begin of a chain", part.start_token);
  m_.part_salts_[id] = std::string(in.take_text(in.take<uint32_t>()));
}

NodeId MirrorRestore::renumbered(NodeId old, const char* what) const {
  if (old >= new_ids_.size() || new_ids_[old] == kNoNode)
    throw Error(ErrorKind::checkpoint, std::string("mirror: expected a node as ") + what + ", got " + std::to_string(old));
  return new_ids_[old];
}

void MirrorRestore::finish() {
  if (m_.n_nodes_ != n_expected_)
    throw Error(ErrorKind::checkpoint, "mirror: expected " + std::to_string(n_expected_) + " nodes, got " + std::to_string(m_.n_nodes_));
  find_by_keys();
  join_families();
  link_chains();
  for (NodeId id = 0; id < m_.nodes_.end(); ++id) {
    const Node& node = m_.nodes_[id];
    const Part* part = m_.part_of(node);
    if (node.is(kForgotten) && node.gpu_children == 0 && (part == nullptr || part->first_child == kNoNode))
      throw Error(ErrorKind::checkpoint, "mirror: expected children of a forgotten node, got none");
    if (!node.is(kForgotten) || part == nullptr) continue;
    ++m_.forgotten_parts_[node.engine_key];
    if (m_.find(node.engine_key) != kNoNode) ++m_.unlinked_parts_;
  }
  count_residency();
  queue_ghosts();
  m_.announced_closed_ = closed_ && m_.is_closed() && (m_.groups_ & 1) != 0;
}

void MirrorRestore::find_by_keys() {
  constexpr NodeId kAhead = 16;
  const NodeId end = m_.nodes_.end();
  if (!m_.counting_) m_.by_key_.reserve(end);
  for (NodeId id = 0; id < end; ++id) {
    if (id + kAhead < end) {
      m_.by_engine_key_.prefetch(m_.nodes_[id + kAhead].engine_key);
      if (!m_.counting_) m_.by_key_.prefetch(m_.nodes_[id + kAhead].key);
    }
    const Node& node = m_.nodes_[id];
    if (node.is(kForgotten)) continue;
    if (m_.find(node.engine_key) != kNoNode)
      throw Error(ErrorKind::checkpoint, "mirror: expected each engine key once, got " + std::to_string(node.engine_key) + " again");
    m_.by_engine_key_.insert(node.engine_key, id);
    m_.enter(id);
  }
}

// A child begins where its parent ends, so that families are trees.
void MirrorRestore::join_families() {
  if (m_.n_parts_ == 0) return;
  for (NodeId id = 0; id < m_.nodes_.end(); ++id) {
    Part* part = m_.part_of(m_.nodes_[id]);
    if (part == nullptr || part->parent == kNoNode) continue;
    const NodeId parent = renumbered(part->parent, "a part's parent");
    const Part* above = m_.part_of(m_.nodes_[parent]);
    const uint64_t end = above == nullptr ? 0 : uint64_t{above->start_token} + m_.shapes_[m_.nodes_[parent].shape].block_size;
    if (above == nullptr || end != part->start_token)
      throw Error(ErrorKind::checkpoint, "mirror: expected a part that begins where its parent ends, got one at token " + std::to_string(part->start_token));
    part->parent = kNoNode;
    m_.join_family(id, *part, parent);
  }
}

void MirrorRestore::link_chains() {
  for (NodeId id = 0; id < m_.nodes_.end(); ++id) {
    Node& node = m_.nodes_[id];
    if (node.gpu == 0 || node.parent == kRoot || node.parent == kNoNode) continue;
    node.parent = renumbered(node.parent, "a parent");
    ++m_.nodes_[node.parent].gpu_children;
  }
  for (NodeId id = 0; id < m_.nodes_.end(); ++id) {
    const Node& node = m_.nodes_[id];
    if (node.gpu > 0 && node.parent != kRoot && (node.parent == kNoNode || m_.nodes_[node.parent].gpu == 0)) ++m_.holes_;
  }
}

// The oldest first, with stamps from 1. More than are kept now: trimmed.
void MirrorRestore::queue_ghosts() {
  std::stable_sort(ghosts_.begin(), ghosts_.end(), [](const Ghost& a, const Ghost& b) { return a.age > b.age; });
  m_.ghost_stamp_ = 0;
  for (const Ghost& ghost : ghosts_) m_.haunt(ghost.id);
}

// Which first keys of parts are covered, and where keys are counted, how many hold each.
void MirrorRestore::count_residency() {
  if (!m_.counting_) return;
  for (NodeId id = 0; id < m_.nodes_.end(); ++id) {
    const Node& node = m_.nodes_[id];
    const Part* part = m_.part_of(node);
    if (!node.is(kIndexed) || node.is(kForgotten)) continue;
    for (uint16_t group = 0; group < m_.lanes_.size(); ++group) {
      const uint8_t held = (m_.groups_ >> group & 1) != 0 ? m_.copies(id, group).mask() : 0;
      for (uint8_t tier : {uint8_t{1}, uint8_t{2}, uint8_t{16}}) {
        if ((held & tier) == 0) continue;
        const bool covered = part != nullptr && part->n_keys > 0 && m_.first_key_covered(id, group, tier);
        if (covered) m_.emitted_[Mirror::copies_key(id, group)] |= tier;
        m_.each_key(id, part == nullptr || covered ? 0 : 1, [&](uint64_t, uint64_t key) { m_.key_counts_.enter(key, group, tier); });
      }
    }
  }
}

}  // namespace kvatlas
