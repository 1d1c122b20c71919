// Bindings of content records (module_content.cpp).
#pragma once

#include <nanobind/nanobind.h>

namespace kvatlas {

void bind_content(nanobind::module_& m);

}  // namespace kvatlas
