#include "index/native/bind_content.hpp"

#include <string>
#include <vector>

#include "index/native/error.hpp"
#include "index/native/generation.hpp"

namespace nb = nanobind;

namespace kvatlas {

uint32_t lane_of(nb::handle value) {
  uint64_t lane = 0;
  if (!nb::try_cast(value, lane) || lane >= kLanesMax)
    throw Error(ErrorKind::input, "lanes: expected numbers from 0 to 65534, got " + nb::cast<std::string>(nb::repr(value)));
  return static_cast<uint32_t>(lane);
}

LaneNumbers lane_numbers(nb::handle lanes) {
  if (lanes.is_none()) return {};
  LaneNumbers numbers(65536, kNoLane);
  std::vector<bool> given(65536, false);
  nb::object items = nb::steal(PyMapping_Items(lanes.ptr()));
  if (!items.is_valid()) throw nb::python_error();
  for (nb::handle item : items) {
    const uint32_t from = lane_of(item[0]), to = lane_of(item[1]);
    if (given[to]) throw Error(ErrorKind::input, "lanes: expected each number once, got two lanes for " + std::to_string(to));
    given[to] = true;
    numbers[from] = static_cast<uint16_t>(to);
  }
  return numbers;
}

}  // namespace kvatlas
