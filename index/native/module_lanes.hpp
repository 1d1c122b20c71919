// The bindings of what a writer into a server needs (module_lanes.cpp).
#pragma once

#include <nanobind/nanobind.h>

namespace kvatlas {

void bind_lanes(nanobind::module_& m);

}  // namespace kvatlas
