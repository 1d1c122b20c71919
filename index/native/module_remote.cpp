// Python bindings of what shards, writers and readers in different processes use. No logic here.
#include "index/native/module_remote.hpp"

#include <nanobind/stl/string.h>

#include <memory>
#include <string>
#include <vector>

#include "index/native/bind_arrays.hpp"
#include "index/native/control.hpp"
#include "index/native/error.hpp"
#include "index/native/excerpt.hpp"
#include "index/native/route.hpp"

namespace nb = nanobind;

namespace kvatlas {
namespace {

// Bytes only: what is planned must still be there when it is split.
nb::list route(nb::bytes delta, uint32_t n_shards) {
  const ByteSpan span(delta, "delta");
  nb::list out;
  std::vector<uint8_t*> buffers;
  const Route plan = [&] {
    nb::gil_scoped_release unlocked;
    return Route(span.data(), span.size(), n_shards);
  }();
  for (uint32_t shard = 0; shard < plan.n_shards(); ++shard) {
    nb::object bytes = nb::steal(PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(plan.bytes_of(shard))));
    if (!bytes.is_valid()) throw nb::python_error();
    buffers.push_back(reinterpret_cast<uint8_t*>(PyBytes_AS_STRING(bytes.ptr())));
    out.append(bytes);
  }
  nb::gil_scoped_release unlocked;
  plan.split(span.data(), span.size(), buffers);
  return out;
}

nb::list lanes(nb::handle delta) {
  const ByteSpan span(delta, "delta");
  const std::vector<uint32_t> named = [&] {
    nb::gil_scoped_release unlocked;
    return lanes_of(span.data(), span.size());
  }();
  nb::list out;
  for (uint32_t lane : named) out.append(lane);
  return out;
}

nb::bytes excerpt(Source& source, nb::handle keys) {
  const KeySpan span(keys, "keys");
  const std::vector<uint8_t> bytes = [&] {
    nb::gil_scoped_release unlocked;
    return excerpt_of(source, span.data(), span.size());
  }();
  return nb::bytes(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

void make_excerpt(Excerpt* self, nb::sequence keys_parts, nb::sequence excerpts) {
  if (nb::len(keys_parts) != nb::len(excerpts))
    throw Error(ErrorKind::input, "excerpts: expected " + std::to_string(nb::len(keys_parts)) + ", one for each part of the keys, got " + std::to_string(nb::len(excerpts)));
  std::vector<std::unique_ptr<KeySpan>> keys;
  std::vector<std::unique_ptr<ByteSpan>> bytes;
  for (nb::handle part : keys_parts) keys.push_back(std::make_unique<KeySpan>(part, "keys_parts"));
  for (nb::handle part : excerpts) bytes.push_back(std::make_unique<ByteSpan>(part, "excerpts"));
  std::vector<Excerpt::Part> parts;
  for (size_t i = 0; i < keys.size() && i < bytes.size(); ++i)
    parts.push_back({keys[i]->data(), keys[i]->size(), bytes[i]->data(), bytes[i]->size()});
  nb::gil_scoped_release unlocked;
  new (self) Excerpt(parts);
}

}  // namespace

void bind_remote(nb::module_& m) {
  nb::class_<Excerpt, Source>(m, "Excerpt")
      .def("__init__", &make_excerpt, nb::arg("keys_parts"), nb::arg("excerpts"))
      .def("take_touched", [](Excerpt& excerpt) { return array_of(excerpt.take_touched()); })
      .def_prop_ro("whole", &Excerpt::whole);

  m.def("excerpt", &excerpt, nb::arg("source"), nb::arg("keys").none());
  m.def("lanes_of", &lanes, nb::arg("delta").none());
  m.def("route", &route, nb::arg("delta"), nb::arg("n_shards"));
  m.def("remove_dead_tables", [](const std::string& folder, const std::string& prefix) {
    nb::gil_scoped_release unlocked;
    return remove_dead_tables(folder, prefix);
  }, nb::arg("folder"), nb::arg("prefix"));
}

}  // namespace kvatlas
