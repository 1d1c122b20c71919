// Bindings of snapshots and content records (module_snapshot.cpp).
#pragma once

#include <nanobind/nanobind.h>

namespace kvatlas {

void bind_snapshot(nanobind::module_& m);

}  // namespace kvatlas
