// What each bind_*.cpp of this folder adds to the module. Logic-free: see the headers that they include.
#pragma once

#include <nanobind/nanobind.h>

namespace kvatlas {

void bind_files(nanobind::module_& m);   // bind_files.cpp: checksums, names and heads of chunk files
void bind_engine(nanobind::module_& m);  // bind_engine.cpp: the I/O engine
void bind_slots(nanobind::module_& m);   // bind_slots.cpp: which key lies in which slot of pinned memory, what a store is known to have
void bind_lookups(nanobind::module_& m);  // bind_lookups.cpp: what lookups are answered with
void bind_copies(nanobind::module_& m);  // bind_copies.cpp: copies between device memory and slots

}  // namespace kvatlas
