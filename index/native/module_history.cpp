// Python bindings of routing history. No logic here.
//
// The GIL is kept: a call takes a microsecond or two, and giving it up and taking it again costs more.
#include "index/native/module_history.hpp"

#include <cstring>
#include <string>
#include <vector>

#include "index/native/bind_arrays.hpp"
#include "index/native/error.hpp"
#include "index/native/history.hpp"

namespace nb = nanobind;

namespace kvatlas {
namespace {

uint32_t slot_number(int64_t slot) {
  if (slot < 0 || slot >= History::kSlotsMax) throw Error(ErrorKind::input, "slot: expected a number from 0 to 65535, got " + std::to_string(slot));
  return static_cast<uint32_t>(slot);
}

void make_history(History* self, int64_t blocks_max) {
  if (blocks_max < 0 || blocks_max > int64_t{1} << 32) throw Error(ErrorKind::input, "blocks_max: expected 0 to 4294967296, got " + std::to_string(blocks_max));
  new (self) History(static_cast<uint64_t>(blocks_max));
}

uint64_t note(History& history, int64_t slot, nb::handle keys, double now_s, double until_s) {
  const KeySpan span(keys, "keys");
  return history.note(slot_number(slot), span.data(), span.size(), now_s, until_s);
}

nb::object hints(History& history, nb::handle keys, nb::handle slots, double now_s, float tokens_per_block) {
  const KeySpan span(keys, "keys");
  const TokenSpan numbers(slots);  // uint32 as token ids are
  thread_local std::vector<float> found;
  if (!history.hints(span.data(), span.size(), numbers.data(), numbers.size(), now_s, tokens_per_block, found)) return nb::none();
  const NewArray out = new_array(Dtype::float32, found.size());
  std::memcpy(out.data, found.data(), found.size() * sizeof(float));
  return out.array;
}

void drop(History& history, int64_t slot, nb::handle keys, uint64_t note) {
  const KeySpan span(keys, "keys");
  history.drop(slot_number(slot), span.data(), span.size(), note);
}

void set_limit(History& history, int64_t slot, int64_t blocks) {
  if (blocks < 0) throw Error(ErrorKind::input, "blocks: expected at least 0, got " + std::to_string(blocks));
  history.set_limit(slot_number(slot), static_cast<uint64_t>(blocks));
}

nb::dict statistics(const History& history) {
  const HistoryStatistics s = history.statistics();
  nb::dict out;
  out["blocks"] = s.blocks;
  out["blocks_max"] = s.blocks_max;
  out["nodes"] = s.nodes;
  out["claims"] = s.claims;
  out["notes"] = s.notes;
  out["evicted_blocks"] = s.evicted_blocks;
  out["expired_blocks"] = s.expired_blocks;
  out["dropped_blocks"] = s.dropped_blocks;
  out["refused_notes"] = s.refused_notes;
  return out;
}

}  // namespace

void bind_history(nb::module_& m) {
  nb::class_<History>(m, "History")
      .def("__init__", &make_history, nb::arg("blocks_max"))
      .def("note", &note, nb::arg("slot"), nb::arg("keys").none(), nb::arg("now_s"), nb::arg("until_s"))
      .def("hints", &hints, nb::arg("keys").none(), nb::arg("slots").none(), nb::arg("now_s"), nb::arg("tokens_per_block") = 1.0f)
      .def("drop", &drop, nb::arg("slot"), nb::arg("keys").none(), nb::arg("note"))
      .def("set_limit", &set_limit, nb::arg("slot"), nb::arg("blocks"))
      .def("forget", [](History& history, int64_t slot) { history.forget(slot_number(slot)); }, nb::arg("slot"))
      .def("statistics", &statistics);
}

}  // namespace kvatlas
