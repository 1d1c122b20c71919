// The bindings of routing history (module_history.cpp).
#pragma once

#include <nanobind/nanobind.h>

namespace kvatlas {

void bind_history(nanobind::module_& m);

}  // namespace kvatlas
