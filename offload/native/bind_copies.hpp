// What the bindings of Copier and of DirectFiles share. Logic-free.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <optional>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

#include "offload/native/copies_plan.hpp"

namespace kvatlas {

// A contiguous buffer of int32 in one dimension, borrowed. Throws Error{input}.
class Numbers {
 public:
  Numbers(nanobind::handle numbers, const char* name);
  Numbers(const Numbers&) = delete;
  ~Numbers() { PyBuffer_Release(&view_); }

  std::span<const int32_t> span() const { return {static_cast<const int32_t*>(view_.buf), static_cast<size_t>(view_.len) / 4}; }

 private:
  Py_buffer view_{};
};

using PlainTensor = std::tuple<uint64_t, uint64_t, uint64_t, uint64_t>;  // address, n_blocks, stride_bytes, row_offset
using PlainGroup = std::vector<std::pair<uint32_t, uint64_t>>;           // (tensor, bytes of a block)

// `page_bytes` without a value: strides. Throws Error{input}.
std::vector<TensorPlace> places_of(const std::vector<PlainTensor>& tensors, const std::optional<std::vector<uint64_t>>& page_bytes);
std::vector<std::vector<GroupPart>> parts_of(const std::vector<PlainGroup>& groups);

void bind_direct_files(nanobind::module_& m);  // bind_direct.cpp

}  // namespace kvatlas
