// Python bindings of offload/native; _native.pyi describes them. Each bind_*.cpp adds its own. No logic here.
#include <nanobind/nanobind.h>

#include "offload/native/bind_offload.hpp"

NB_MODULE(_native, m) {
  // Threads that still wait when the interpreter ends hold what they wait for: no leak of a program.
  nanobind::set_leak_warnings(false);
  nanobind::module_::import_("kvatlas.index._native");  // turns Error into kvatlas.index.errors
  m.doc() = "Native core of offloading: chunk files, the I/O engine, device copies, the slots of pinned memory.";
  kvatlas::bind_files(m);
  kvatlas::bind_engine(m);
  kvatlas::bind_slots(m);
  kvatlas::bind_lookups(m);
  kvatlas::bind_copies(m);
}
