// Python bindings of Lookups. No logic here.
//
// A lookup keeps the GIL: it takes less than giving it away does.
#include <chrono>
#include <string>

#include "index/native/error.hpp"
#include "offload/native/bind_offload.hpp"
#include "offload/native/lookups.hpp"

namespace nb = nanobind;

namespace kvatlas {
namespace {

// As time.monotonic() has it.
double monotonic_s() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

template <class Clock>
Lookups::State state_of(Lookups& lookups, nb::handle key, Clock now_s) {
  if (!PyBytes_Check(key.ptr())) throw Error(ErrorKind::input, std::string("key: expected bytes, got ") + Py_TYPE(key.ptr())->tp_name);
  return lookups.look_up(reinterpret_cast<const uint8_t*>(PyBytes_AS_STRING(key.ptr())), static_cast<size_t>(PyBytes_GET_SIZE(key.ptr())), now_s);
}

// A function (key, anything) -> one of three objects, without a frame of Python's.
nb::object answering(nb::object self, nb::object present, nb::object absent, nb::object asked) {
  Lookups* const lookups = nb::inst_ptr<Lookups>(self);
  return nb::cpp_function([self, lookups, present, absent, asked](nb::handle key, nb::handle) {
    switch (state_of(*lookups, key, monotonic_s)) {
      case Lookups::State::present: return present;
      case Lookups::State::asked: return asked;
      default: return absent;
    }
  }, nb::arg("key"), nb::arg("req_context").none());
}

nb::object trial_key(const Lookups& lookups) {
  const std::string& key = lookups.trial_key();
  if (key.empty()) return nb::none();
  return nb::bytes(key.data(), key.size());
}

void set_trial_key(Lookups& lookups, nb::handle key) {
  const bool is_none = key.is_none();
  if (!is_none && !PyBytes_Check(key.ptr())) throw Error(ErrorKind::input, std::string("trial_key: expected bytes or None, got ") + Py_TYPE(key.ptr())->tp_name);
  const nb::bytes bytes = is_none ? nb::bytes("", 0) : nb::borrow<nb::bytes>(key);
  lookups.set_trial_key(reinterpret_cast<const uint8_t*>(bytes.c_str()), bytes.size());
}

}  // namespace

void bind_lookups(nb::module_& m) {
  nb::class_<LookupCounts>(m, "LookupCounts")
      .def_ro("present", &LookupCounts::present)
      .def_ro("absent", &LookupCounts::absent)
      .def_ro("asked", &LookupCounts::asked)
      .def_ro("down", &LookupCounts::down)
      .def_ro("foreign", &LookupCounts::foreign);
  nb::class_<Lookups>(m, "Lookups")
      .def(nb::init<Catalogue&>(), nb::arg("catalogue"), nb::keep_alive<1, 2>())
      .def("look_up", [](Lookups& self, nb::handle key, double now_s) { return static_cast<int>(state_of(self, key, [now_s] { return now_s; })); }, nb::arg("key"), nb::arg("now_s"))
      .def("answering", &answering, nb::kw_only(), nb::arg("present"), nb::arg("absent"), nb::arg("asked"))
      .def_prop_rw("is_down", &Lookups::is_down, &Lookups::set_down)
      .def_prop_rw("trial_key", &trial_key, &set_trial_key, nb::for_setter(nb::arg("key").none()))
      .def_prop_ro("counts", [](const Lookups& self) { return self.counts(); });
}

}  // namespace kvatlas
