// The bindings of load books and choices (module_choosing.cpp).
#pragma once

#include <nanobind/nanobind.h>

namespace kvatlas {

void bind_choosing(nanobind::module_& m);

}  // namespace kvatlas
