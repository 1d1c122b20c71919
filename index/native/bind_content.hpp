// Content records and numbers of lanes, as Python gives them.
//
// Thread safety: needs the GIL; the view of a section may be read without it.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>

#include "index/native/bind_arrays.hpp"
#include "index/native/section.hpp"

namespace kvatlas {

// Throws Error{input} for what is no lane.
uint32_t lane_of(nanobind::handle value);

// None: all lanes as they are. Lanes that the mapping lacks are left out. Throws Error{input} where two get one number.
LaneNumbers lane_numbers(nanobind::handle lanes);

// A section's bytes, borrowed, and what was found in them. Throws Error{dump} as SectionView.
class SectionSpan {
 public:
  explicit SectionSpan(nanobind::handle section) : bytes_(section, "section"), view_(look(bytes_)) {}

  const SectionView& view() const { return view_; }

 private:
  static SectionView look(const ByteSpan& bytes) {
    nanobind::gil_scoped_release unlocked;
    return SectionView(bytes.data(), bytes.size());
  }

  const ByteSpan bytes_;
  const SectionView view_;
};

}  // namespace kvatlas
