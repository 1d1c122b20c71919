// Python bindings of Slots and Catalogue. No logic here.
//
// The questions about one key keep the GIL: they take less than giving it away does.
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <string>
#include <vector>

#include "index/native/bind_arrays.hpp"
#include "index/native/error.hpp"
#include "offload/native/bind_offload.hpp"
#include "offload/native/catalogue.hpp"
#include "offload/native/slots.hpp"

namespace nb = nanobind;

namespace kvatlas {
namespace {

// Slot numbers: a one-dimensional array of int32, borrowed.
class SlotNumbers {
 public:
  explicit SlotNumbers(nb::handle slots) {
    if (!PyObject_CheckBuffer(slots.ptr()) || PyObject_GetBuffer(slots.ptr(), &view_, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) != 0) {
      PyErr_Clear();
      throw Error(ErrorKind::input, std::string("slots: expected a contiguous int32 array, got ") + Py_TYPE(slots.ptr())->tp_name);
    }
    const std::string format = view_.format == nullptr ? "B" : view_.format;
    if (view_.ndim == 1 && view_.itemsize == 4 && (format == "i" || format == "l")) return;
    const int ndim = view_.ndim;
    PyBuffer_Release(&view_);
    throw Error(ErrorKind::input, "slots: expected one dimension of int32, got " + std::to_string(ndim) + " of format '" + format + "'");
  }
  SlotNumbers(const SlotNumbers&) = delete;
  ~SlotNumbers() { PyBuffer_Release(&view_); }
  const int32_t* data() const { return static_cast<const int32_t*>(view_.buf); }
  size_t size() const { return static_cast<size_t>(view_.len) / 4; }

 private:
  Py_buffer view_{};
};

nb::object array_of_slots(std::vector<int32_t>&& numbers) {
  auto* kept = new std::vector<int32_t>(std::move(numbers));
  nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<int32_t>*>(p); });
  return nb::cast(nb::ndarray<nb::numpy, int32_t, nb::ndim<1>>(kept->data(), {kept->size()}, owner));
}

const uint8_t* one_key(nb::bytes key, uint32_t key_bytes) {
  if (key.size() != key_bytes)
    throw Error(ErrorKind::input, "key: expected " + std::to_string(key_bytes) + " bytes, got " + std::to_string(key.size()));
  return reinterpret_cast<const uint8_t*>(key.c_str());
}

// Packed keys, borrowed.
class Keys {
 public:
  Keys(nb::handle keys, uint32_t key_bytes) : span_(keys, "keys"), n_(span_.size() / key_bytes) {
    if (span_.size() % key_bytes != 0)
      throw Error(ErrorKind::input, "keys: expected a multiple of " + std::to_string(key_bytes) + " bytes, got " + std::to_string(span_.size()));
  }
  const uint8_t* data() const { return span_.data(); }
  size_t size() const { return n_; }

 private:
  ByteSpan span_;
  size_t n_;
};

nb::object fill(Slots& slots, nb::handle keys) {
  const Keys packed(keys, slots.key_bytes());
  std::vector<int32_t> taken(packed.size());
  std::string evicted;
  bool has_room = false;
  {
    nb::gil_scoped_release unlocked;
    has_room = slots.fill(packed.data(), packed.size(), taken.data(), evicted);
  }
  if (!has_room) return nb::none();
  return nb::make_tuple(array_of_slots(std::move(taken)), nb::bytes(evicted.data(), evicted.size()));
}

nb::object pin(Slots& slots, nb::handle keys) {
  const Keys packed(keys, slots.key_bytes());
  std::vector<int32_t> pinned(packed.size());
  {
    nb::gil_scoped_release unlocked;
    slots.pin(packed.data(), packed.size(), pinned.data());
  }
  return array_of_slots(std::move(pinned));
}

nb::bytes take_asked(Catalogue& catalogue, size_t most) {
  std::string keys;
  {
    nb::gil_scoped_release unlocked;
    catalogue.take_asked(most, keys);
  }
  return nb::bytes(keys.data(), keys.size());
}

void set(Catalogue& catalogue, nb::handle keys, int state, double now_s) {
  const auto known = static_cast<Catalogue::State>(state);
  if (known != Catalogue::State::present && known != Catalogue::State::absent)
    throw Error(ErrorKind::input, "state: expected PRESENT or ABSENT, got " + std::to_string(state));
  const Keys packed(keys, catalogue.key_bytes());
  nb::gil_scoped_release unlocked;
  catalogue.set(packed.data(), packed.size(), known, now_s);
}

nb::list present_of(Catalogue& catalogue, nb::sequence keys, double now_s) {
  nb::list present;
  for (const nb::handle key : keys) {
    if (!PyBytes_Check(key.ptr())) throw Error(ErrorKind::input, std::string("keys: expected bytes, got ") + Py_TYPE(key.ptr())->tp_name);
    if (PyBytes_GET_SIZE(key.ptr()) != catalogue.key_bytes()) continue;
    if (catalogue.is_present(reinterpret_cast<const uint8_t*>(PyBytes_AS_STRING(key.ptr())), now_s)) present.append(key);
  }
  return present;
}

void answer(Catalogue& catalogue, nb::handle keys, nb::handle outcomes, double now_s) {
  const Keys packed(keys, catalogue.key_bytes());
  const ByteSpan each(outcomes, "outcomes");
  if (each.size() != packed.size())
    throw Error(ErrorKind::input, "outcomes: expected " + std::to_string(packed.size()) + " bytes, got " + std::to_string(each.size()));
  nb::gil_scoped_release unlocked;
  catalogue.answer(packed.data(), each.data(), packed.size(), now_s);
}

template <class Owner, void (Owner::*method)(const uint8_t*, size_t)>
void with_keys(Owner& owner, nb::handle keys) {
  const Keys packed(keys, owner.key_bytes());
  nb::gil_scoped_release unlocked;
  (owner.*method)(packed.data(), packed.size());
}

template <void (Slots::*method)(const int32_t*, size_t)>
void with_slots(Slots& slots, nb::handle given) {
  const SlotNumbers numbers(given);
  nb::gil_scoped_release unlocked;
  (slots.*method)(numbers.data(), numbers.size());
}

void bind_slot_class(nb::module_& m) {
  nb::class_<SlotStatistics>(m, "SlotStatistics")
      .def_ro("slots", &SlotStatistics::slots)
      .def_ro("free", &SlotStatistics::free)
      .def_ro("filling", &SlotStatistics::filling)
      .def_ro("ready", &SlotStatistics::ready)
      .def_ro("pinned", &SlotStatistics::pinned)
      .def_ro("filled", &SlotStatistics::filled)
      .def_ro("evicted", &SlotStatistics::evicted)
      .def_ro("dropped", &SlotStatistics::dropped)
      .def_ro("refused", &SlotStatistics::refused);
  nb::class_<Slots> slots(m, "Slots");
  slots.def(nb::init<int64_t, int64_t>(), nb::arg("n_slots"), nb::arg("key_bytes"))
      .def("find", [](const Slots& self, nb::bytes key) { return self.find(one_key(key, self.key_bytes())); }, nb::arg("key"))
      .def("fill", &fill, nb::arg("keys"))
      .def("ready", &with_slots<&Slots::ready>, nb::arg("slots"))
      .def("drop", &with_slots<&Slots::drop>, nb::arg("slots"))
      .def("pin", &pin, nb::arg("keys"))
      .def("unpin", &with_keys<Slots, &Slots::unpin>, nb::arg("keys"))
      .def("touch", &with_keys<Slots, &Slots::touch>, nb::arg("keys"))
      .def("clear", &Slots::clear, nb::call_guard<nb::gil_scoped_release>())
      .def("statistics", &Slots::statistics);
  slots.attr("ABSENT") = Slots::kAbsent;
  slots.attr("FILLING") = Slots::kFilling;
}

void bind_catalogue_class(nb::module_& m) {
  nb::class_<CatalogueStatistics>(m, "CatalogueStatistics")
      .def_ro("entries_max", &CatalogueStatistics::entries_max)
      .def_ro("present", &CatalogueStatistics::present)
      .def_ro("absent", &CatalogueStatistics::absent)
      .def_ro("asked", &CatalogueStatistics::asked)
      .def_ro("waiting", &CatalogueStatistics::waiting)
      .def_ro("evicted", &CatalogueStatistics::evicted)
      .def_ro("expired", &CatalogueStatistics::expired)
      .def_ro("refused", &CatalogueStatistics::refused);
  nb::class_<Catalogue> catalogue(m, "Catalogue");
  catalogue.def(nb::init<int64_t, int64_t, double>(), nb::arg("entries_max"), nb::arg("key_bytes"), nb::arg("absent_s"))
      .def("find", [](Catalogue& self, nb::bytes key, double now_s) { return static_cast<int>(self.find(one_key(key, self.key_bytes()), now_s)); },
           nb::arg("key"), nb::arg("now_s"))
      .def("present_of", &present_of, nb::arg("keys"), nb::arg("now_s"))
      .def("ask", [](Catalogue& self, nb::bytes key) { return self.ask(one_key(key, self.key_bytes())); }, nb::arg("key"))
      .def("take_asked", &take_asked, nb::arg("most"))
      .def("set", &set, nb::arg("keys"), nb::arg("state"), nb::arg("now_s"))
      .def("answer", &answer, nb::arg("keys"), nb::arg("outcomes"), nb::arg("now_s"))
      .def("forget", &with_keys<Catalogue, &Catalogue::forget>, nb::arg("keys"))
      .def("statistics", &Catalogue::statistics);
  catalogue.attr("UNKNOWN") = static_cast<int>(Catalogue::State::unknown);
  catalogue.attr("PRESENT") = static_cast<int>(Catalogue::State::present);
  catalogue.attr("ABSENT") = static_cast<int>(Catalogue::State::absent);
  catalogue.attr("ASKED") = static_cast<int>(Catalogue::State::asked);
}

}  // namespace

void bind_slots(nb::module_& m) {
  bind_slot_class(m);
  bind_catalogue_class(m);
}

}  // namespace kvatlas
