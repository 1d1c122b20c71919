// The names of a table's files (private to control.cpp and table_files.cpp).
//
// Thread safety: plain functions.
#pragma once

#include <string>

namespace kvatlas {

// `name` without its dot and digits where it is a generation's, else empty.
inline std::string base_of_generation(const std::string& name) {
  const size_t dot = name.find_last_not_of("0123456789");
  if (dot == std::string::npos || dot == 0 || dot + 1 == name.size() || name[dot] != '.') return {};
  return name.substr(0, dot);
}

// Removes the generations beside this control file. REQUIRES: its lock is held.
void remove_generations(const std::string& control_path);

}  // namespace kvatlas
