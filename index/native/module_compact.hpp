// Bindings of what the remote index packs and unpacks (module_compact.cpp).
#pragma once

#include <nanobind/nanobind.h>

namespace kvatlas {

void bind_compact(nanobind::module_& m);

}  // namespace kvatlas
