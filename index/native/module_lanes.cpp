// Python bindings of what a writer into a server needs. No logic here.
#include "index/native/module_lanes.hpp"

#include <vector>

#include "index/native/bind_arrays.hpp"
#include "index/native/remote_lanes.hpp"

namespace nb = nanobind;

namespace kvatlas {
namespace {

nb::bytes renamed(nb::handle delta, nb::handle lanes, bool removals_only) {
  const ByteSpan span(delta, "delta");
  const TokenSpan to(lanes);
  const std::vector<uint8_t> bytes = [&] {
    nb::gil_scoped_release unlocked;
    return rename_lanes(span.data(), span.size(), {to.data(), to.size()}, removals_only ? Kept::removals : Kept::all);
  }();
  return bytes_of(bytes);
}

}  // namespace

void bind_lanes(nb::module_& m) {
  m.def("rename_lanes", &renamed, nb::arg("delta").none(), nb::arg("lanes"), nb::arg("removals_only") = false);
}

}  // namespace kvatlas
