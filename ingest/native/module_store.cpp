// Python bindings of a store; _native.pyi describes them. No logic here.
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <tuple>

#include "ingest/native/store.hpp"

namespace nb = nanobind;
using namespace kvatlas;

namespace {

// Engine key, parent (0: none), block size in tokens, first block, segment key, block keys.
using PlainLesson = std::tuple<uint64_t, uint64_t, uint32_t, uint32_t, uint64_t, std::vector<uint64_t>>;

nb::list list_of(const std::vector<Bytes>& deltas) {
  nb::list out;
  for (const Bytes& delta : deltas) out.append(nb::bytes(delta.data(), delta.size()));
  return out;
}

nb::list list_of(const ResidencyChanges& changes) {
  nb::list out;
  for (const ResidencyChange& change : changes) out.append(nb::make_tuple(change.segment_key, change.key, change.on));
  return out;
}

nb::list teach(Store& store, const std::vector<PlainLesson>& plain) {
  std::vector<Lesson> lessons;
  for (const auto& [engine_key, parent, block_size, first_block, segment_key, keys] : plain)
    lessons.push_back({engine_key, parent, true, block_size, first_block, segment_key, keys.data(), static_cast<uint32_t>(keys.size())});
  ResidencyChanges changes;
  store.teach(lessons, changes);
  return list_of(changes);
}

nb::tuple hold(Store& store, uint64_t engine_key, uint16_t group, uint32_t chunk_blocks, double time_s, uint64_t owner) {
  static constexpr const char* kNames[] = {"now", "before", "waits", "stale", "no_room"};
  if (group > 63) throw Error(ErrorKind::input, "group: expected 0 to 63, got " + std::to_string(group));
  ResidencyChanges changes;
  const Store::Held held = store.hold(engine_key, group, chunk_blocks, time_s, owner, changes);
  return nb::make_tuple(kNames[static_cast<size_t>(held)], list_of(changes));
}

nb::tuple release(Store& store, const std::vector<uint64_t>& engine_keys, uint16_t group, double time_s) {
  if (group > 63) throw Error(ErrorKind::input, "group: expected 0 to 63, got " + std::to_string(group));
  ResidencyChanges changes;
  const Store::Released released = store.release(engine_keys.data(), static_cast<uint32_t>(engine_keys.size()), group, time_s, changes);
  return nb::make_tuple(released.removed, released.unknown, list_of(changes));
}

nb::dict statistics(const Store& store) {
  const Store::Statistics s = store.statistics();
  nb::dict out;
  out["blocks"] = s.blocks;
  out["known"] = s.known;
  out["files"] = s.files;
  out["waiting"] = s.waiting;
  out["bytes"] = s.bytes;
  out["placed_late"] = s.placed_late;
  out["stale"] = s.stale;
  out["forgotten"] = s.forgotten;
  out["refused"] = s.refused;
  out["swept"] = s.swept;
  out["waiting_dropped"] = s.waiting_dropped;
  return out;
}

}  // namespace

void bind_store(nb::module_& m) {
  nb::class_<Store>(m, "Store")
      .def(nb::init<uint32_t, uint64_t, uint64_t>(), nb::arg("lane"), nb::arg("blocks_max") = uint64_t{1} << 20,
           nb::arg("known_max") = uint64_t{1} << 20)
      .def_prop_ro("lane", &Store::lane)
      .def("clear", &Store::clear)
      .def("forget_meanings", &Store::forget_meanings)
      .def("retire", &Store::retire)
      .def("need_groups",
           [](Store& store, uint64_t groups, uint32_t n_shards, uint8_t tiers) {
             ResidencyChanges changes;
             store.need_groups(groups, changes);
             return list_of(store.deltas(changes, n_shards, tiers));
           },
           nb::arg("groups"), nb::arg("n_shards"), nb::arg("tiers"))
      .def("__len__", &Store::size)
      .def("statistics", &statistics)
      .def("save",
           [](const Store& store, uint32_t index_block_tokens) {
             Bytes saved;
             {
               nb::gil_scoped_release unlocked;
               saved = store.save(index_block_tokens);
             }
             return nb::bytes(saved.data(), saved.size());
           },
           nb::arg("index_block_tokens"))
      .def("load",
           [](Store& store, nb::bytes saved, uint32_t index_block_tokens) {
             const std::string_view view(saved.c_str(), saved.size());
             nb::gil_scoped_release unlocked;
             store.load(view, index_block_tokens);
           },
           nb::arg("saved"), nb::arg("index_block_tokens"))
      .def("content", [](const Store& store, uint32_t n_shards, uint8_t tiers) { return list_of(store.content(n_shards, tiers)); },
           nb::arg("n_shards"), nb::arg("tiers"))
      .def("keys",
           [](const Store& store) {
             nb::set keys;
             store.each_resident([&](uint64_t, uint64_t key) { keys.add(nb::int_(key)); });
             return keys;
           })
      .def("teach", &teach, nb::arg("lessons"))
      .def("hold", &hold, nb::arg("engine_key"), nb::arg("group") = 0, nb::arg("chunk_blocks") = 1, nb::arg("time_s") = Store::kNoTime, nb::arg("owner") = 0)
      .def("release", &release, nb::arg("engine_keys"), nb::arg("group") = 0, nb::arg("time_s") = Store::kNoTime)
      .def("begin_inventory", &Store::begin_inventory, nb::arg("owner"), nb::arg("time_s") = Store::kNoTime)
      .def("end_inventory",
           [](Store& store, uint64_t owner) {
             ResidencyChanges changes;
             const uint64_t n_gone = store.end_inventory(owner, changes);
             return nb::make_tuple(n_gone, list_of(changes));
           },
           nb::arg("owner"))
      .def("cancel_inventory", &Store::cancel_inventory, nb::arg("owner"));
}
