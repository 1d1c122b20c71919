// Binds what the byte budget goes by, for tests beside a plain model.
#pragma once

#include <nanobind/nanobind.h>

namespace kvatlas {

void bind_budget(nanobind::module_& m);

}  // namespace kvatlas
