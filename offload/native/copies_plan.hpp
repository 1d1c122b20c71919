// Which bytes a job moves: from block numbers and row numbers to runs of bytes.
//
// A row holds a chunk: `blocks_per_chunk` places for each tensor, one after the other, from the tensor's row_offset on:
//
//     row | tensor 0: place 0 | place 1 | ... || tensor 1: place 0 | place 1 | ... || other ranks' bytes ...
//          ^ row_offset        ^ + page_bytes     ^ row_offset
//
// A job names, group after group, blocks that follow one another in a request, and the rows of the chunks they fall
// into. The first block of a group may fall into the middle of a chunk (block_indices), and the last one too.
//
// Thread safety: immutable once made.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "offload/native/device.hpp"

namespace kvatlas {

// A tensor of KV blocks in the device's memory, and its place in every row.
struct TensorPlace {
  uint64_t address;     // of block 0
  uint64_t n_blocks;
  uint64_t stride_bytes;  // from block to block
  uint64_t page_bytes;    // of a block, padding included: from place to place in a row
  uint64_t row_offset;    // of place 0
};

// What a cache group keeps in a tensor: the first `bytes` of each of its blocks. Groups may share tensors.
struct GroupPart {
  uint32_t tensor;
  uint64_t bytes;
};

// One job's blocks. [n_groups] sizes and indices, [sum of sizes] block ids, [n_chunks] rows, group after group.
struct BlockRuns {
  std::span<const int32_t> block_ids;
  std::span<const int32_t> group_sizes;
  std::span<const int32_t> block_indices;  // which block of its request the group's first one is
  std::span<const int32_t> rows;
};

class CopyPlan {
 public:
  // `memory` has `memory_bytes / row_bytes` rows. Throws Error{input}: a tensor, part or place outside, no tensors.
  CopyPlan(uint8_t* memory, uint64_t memory_bytes, uint64_t row_bytes, uint32_t blocks_per_chunk,
           std::vector<TensorPlace> tensors, std::vector<std::vector<GroupPart>> groups);

  // The runs of bytes of one job, neighbours in a row joined, and their sum.
  // Throws Error{input}, and nothing is planned: sizes that do not agree, a block or row that does not exist.
  std::vector<Copy> runs(const BlockRuns& blocks, Direction direction, uint64_t& bytes) const;

  uint8_t* memory() const { return memory_; }
  uint64_t memory_bytes() const { return n_rows_ * row_bytes_; }
  uint64_t row_bytes() const { return row_bytes_; }

 private:
  void check(const BlockRuns& blocks) const;
  void append_part(std::vector<Copy>& out, const GroupPart& part, uint8_t* row, size_t place,
                   std::span<const int32_t> ids, Direction direction) const;
  void append_group(std::vector<Copy>& out, const std::vector<GroupPart>& group_parts, size_t skipped,
                    std::span<const int32_t> ids, std::span<const int32_t> rows, Direction direction) const;
  size_t chunks_of(const BlockRuns& blocks, size_t group) const;

  uint8_t* memory_;
  uint64_t row_bytes_;
  uint64_t n_rows_;
  uint32_t blocks_per_chunk_;
  std::vector<TensorPlace> tensors_;
  std::vector<std::vector<GroupPart>> groups_;
};

}  // namespace kvatlas
