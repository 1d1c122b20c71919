// The second half of the module's bindings (module_remote.cpp).
#pragma once

#include <nanobind/nanobind.h>

namespace kvatlas {

void bind_remote(nanobind::module_& m);

}  // namespace kvatlas
