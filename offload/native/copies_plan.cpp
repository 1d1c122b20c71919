#include "offload/native/copies_plan.hpp"

#include <algorithm>
#include <string>

#include "index/native/error.hpp"

namespace kvatlas {
namespace {

Error wrong(const std::string& where, const std::string& expected, uint64_t got) {
  return Error(ErrorKind::input, where + ": expected " + expected + ", got " + std::to_string(got));
}

std::string at(const char* name, size_t i) { return std::string(name) + "[" + std::to_string(i) + "]"; }

// Joins a run with the one before it, from the one numbered `first` on, where both of its ends go on there.
void append(std::vector<Copy>& runs, size_t first, uint8_t* to, const uint8_t* from, size_t bytes) {
  if (runs.size() > first) {
    Copy& last = runs.back();
    if (last.to + last.bytes == to && last.from + last.bytes == from) {
      last.bytes += bytes;
      return;
    }
  }
  runs.push_back({to, from, bytes});
}

// Two layers of a group in one tensor: the longer part covers both, and no byte is written twice.
void keep_one_of_each_tensor(std::vector<GroupPart>& parts) {
  std::sort(parts.begin(), parts.end(), [](const GroupPart& a, const GroupPart& b) {
    return a.tensor != b.tensor ? a.tensor < b.tensor : a.bytes > b.bytes;
  });
  const auto is_same = [](const GroupPart& a, const GroupPart& b) { return a.tensor == b.tensor; };
  parts.erase(std::unique(parts.begin(), parts.end(), is_same), parts.end());
}

void check_all_below(std::span<const int32_t> numbers, const char* name, uint64_t end) {
  for (size_t i = 0; i < numbers.size(); ++i) {
    if (numbers[i] < 0 || static_cast<uint64_t>(numbers[i]) >= end) {
      throw Error(ErrorKind::input, at(name, i) + ": expected 0 to " + std::to_string(end - 1) + ", got " +
                                        std::to_string(numbers[i]));
    }
  }
}

}  // namespace

CopyPlan::CopyPlan(uint8_t* memory, uint64_t memory_bytes, uint64_t row_bytes, uint32_t blocks_per_chunk,
                   std::vector<TensorPlace> tensors, std::vector<std::vector<GroupPart>> groups)
    : memory_(memory),
      row_bytes_(row_bytes),
      n_rows_(row_bytes == 0 ? 0 : memory_bytes / row_bytes),
      blocks_per_chunk_(blocks_per_chunk),
      tensors_(std::move(tensors)),
      groups_(std::move(groups)) {
  if (n_rows_ == 0) throw wrong("memory", "at least one row of " + std::to_string(row_bytes) + " bytes", memory_bytes);
  if (blocks_per_chunk == 0 || blocks_per_chunk > 1u << 20) throw wrong("blocks_per_chunk", "1 to 1048576", blocks_per_chunk);
  if (tensors_.empty() || groups_.empty()) throw wrong("tensors and groups", "at least one of each", 0);
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const TensorPlace& tensor = tensors_[i];
    if (tensor.address == 0) throw wrong(at("tensors", i), "an address", 0);
    if (tensor.n_blocks == 0 || tensor.n_blocks > INT32_MAX) throw wrong(at("tensors", i) + ".n_blocks", "1 to 2147483647", tensor.n_blocks);
    if (tensor.page_bytes == 0 || tensor.page_bytes > row_bytes / blocks_per_chunk) {
      throw wrong(at("page_bytes", i), "1 to what fits into a row " + std::to_string(blocks_per_chunk) + " times", tensor.page_bytes);
    }
    if (tensor.stride_bytes == 0 || tensor.stride_bytes > UINT64_MAX / tensor.n_blocks) throw wrong(at("tensors", i) + ".stride_bytes", "1 or more, within the address space", tensor.stride_bytes);
    const uint64_t in_row = tensor.page_bytes * blocks_per_chunk;
    if (tensor.row_offset > row_bytes - in_row) throw wrong(at("tensors", i) + ".row_offset", "at most " + std::to_string(row_bytes - in_row), tensor.row_offset);
  }
  for (size_t g = 0; g < groups_.size(); ++g) {
    keep_one_of_each_tensor(groups_[g]);
    for (const GroupPart& part : groups_[g]) {
      if (part.tensor >= tensors_.size()) throw wrong(at("groups", g), "a tensor below " + std::to_string(tensors_.size()), part.tensor);
      const TensorPlace& tensor = tensors_[part.tensor];
      const uint64_t most = std::min(tensor.page_bytes, tensor.stride_bytes);
      if (part.bytes == 0 || part.bytes > most) throw wrong(at("groups", g) + ".bytes", "1 to " + std::to_string(most), part.bytes);
    }
  }
}

// REQUIRES: checked, but for the number of rows.
size_t CopyPlan::chunks_of(const BlockRuns& blocks, size_t group) const {
  const uint64_t size = static_cast<uint64_t>(blocks.group_sizes[group]);
  if (size == 0) return 0;
  const uint64_t skipped = static_cast<uint64_t>(blocks.block_indices[group]) % blocks_per_chunk_;
  return (skipped + size + blocks_per_chunk_ - 1) / blocks_per_chunk_;
}

void CopyPlan::check(const BlockRuns& blocks) const {
  if (blocks.group_sizes.size() != groups_.size()) throw wrong("group_sizes", std::to_string(groups_.size()) + " numbers", blocks.group_sizes.size());
  if (blocks.block_indices.size() != groups_.size()) throw wrong("block_indices", std::to_string(groups_.size()) + " numbers", blocks.block_indices.size());
  check_all_below(blocks.group_sizes, "group_sizes", uint64_t{INT32_MAX} + 1);
  check_all_below(blocks.block_indices, "block_indices", uint64_t{INT32_MAX} + 1);
  check_all_below(blocks.rows, "rows", n_rows_);
  uint64_t n_blocks = 0, n_chunks = 0;
  for (size_t g = 0; g < groups_.size(); ++g) {
    const uint64_t size = static_cast<uint64_t>(blocks.group_sizes[g]);
    n_chunks += chunks_of(blocks, g);
    if (n_blocks + size > blocks.block_ids.size()) throw wrong("block_ids", "as many as group_sizes add up to", blocks.block_ids.size());
    const std::span<const int32_t> ids = blocks.block_ids.subspan(n_blocks, size);
    uint64_t known = UINT64_MAX;
    for (const GroupPart& part : groups_[g]) known = std::min(known, tensors_[part.tensor].n_blocks);
    check_all_below(ids, "block_ids", known);
    n_blocks += size;
  }
  if (n_blocks != blocks.block_ids.size()) throw wrong("block_ids", std::to_string(n_blocks) + ", as group_sizes add up to", blocks.block_ids.size());
  if (n_chunks != blocks.rows.size()) throw wrong("rows", std::to_string(n_chunks) + ", one a chunk", blocks.rows.size());
}

// Of one chunk and one part: `ids` lie at `place` and after it.
void CopyPlan::append_part(std::vector<Copy>& out, const GroupPart& part, uint8_t* row, size_t place,
                           std::span<const int32_t> ids, Direction direction) const {
  const TensorPlace& tensor = tensors_[part.tensor];
  const size_t first = out.size();
  uint8_t* here = row + tensor.row_offset + place * tensor.page_bytes;
  for (const int32_t block : ids) {
    auto* there = reinterpret_cast<uint8_t*>(tensor.address + static_cast<uint64_t>(block) * tensor.stride_bytes);
    if (direction == Direction::store) append(out, first, here, there, part.bytes);
    else append(out, first, there, here, part.bytes);
    here += tensor.page_bytes;
  }
}

void CopyPlan::append_group(std::vector<Copy>& out, const std::vector<GroupPart>& group_parts, size_t skipped,
                            std::span<const int32_t> ids, std::span<const int32_t> rows, Direction direction) const {
  const auto append_one = [&](const GroupPart& part, size_t chunk) {
    const size_t begin = chunk == 0 ? 0 : chunk * blocks_per_chunk_ - skipped;
    const size_t end = std::min(ids.size(), (chunk + 1) * blocks_per_chunk_ - skipped);
    uint8_t* row = memory_ + static_cast<uint64_t>(rows[chunk]) * row_bytes_;
    append_part(out, part, row, chunk == 0 ? skipped : 0, ids.subspan(begin, end - begin), direction);
  };
  // The source in its order, as far as it has one: rows are, blocks of one tensor at least lie together.
  if (direction == Direction::store) {
    for (const GroupPart& part : group_parts) {
      for (size_t chunk = 0; chunk < rows.size(); ++chunk) append_one(part, chunk);
    }
  } else {
    for (size_t chunk = 0; chunk < rows.size(); ++chunk) {
      for (const GroupPart& part : group_parts) append_one(part, chunk);
    }
  }
}

std::vector<Copy> CopyPlan::runs(const BlockRuns& blocks, Direction direction, uint64_t& bytes) const {
  check(blocks);
  std::vector<Copy> out;
  size_t n_pieces = 0;
  for (size_t g = 0; g < groups_.size(); ++g) n_pieces += static_cast<size_t>(blocks.group_sizes[g]) * groups_[g].size();
  out.reserve(n_pieces);
  bytes = 0;
  size_t next_block = 0, next_row = 0;
  for (size_t g = 0; g < groups_.size(); ++g) {
    const size_t size = static_cast<size_t>(blocks.group_sizes[g]), n_chunks = chunks_of(blocks, g);
    const size_t skipped = static_cast<size_t>(blocks.block_indices[g]) % blocks_per_chunk_;
    append_group(out, groups_[g], skipped, blocks.block_ids.subspan(next_block, size), blocks.rows.subspan(next_row, n_chunks), direction);
    for (const GroupPart& part : groups_[g]) bytes += size * part.bytes;
    next_block += size;
    next_row += n_chunks;
  }
  return out;
}

}  // namespace kvatlas
