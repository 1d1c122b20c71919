#include "index/native/module_budget.hpp"

#include <nanobind/stl/vector.h>

#include "index/native/budget_cut.hpp"
#include "index/native/error.hpp"

namespace nb = nanobind;

namespace kvatlas {
namespace {

// What of `contents` (bucket, entries, set units) is left behind, found `step` buckets at a time.
std::vector<uint32_t> coldest(Heat& heat, const std::vector<std::vector<uint32_t>>& contents, double entry_bytes, double set_unit_bytes,
                              double bytes_to_drop, uint64_t step) {
  Contents live(heat.n_buckets());
  for (const auto& of : contents) {
    if (of.size() != 3 || of[0] >= heat.n_buckets() || step == 0)
      throw Error(ErrorKind::input, "contents: expected (bucket, entries, set units) and a step of at least 1");
    live.entries[of[0]] = of[1];
    live.charge_sets(of[0], 16ull * of[2]);
  }
  BudgetCut cut(heat, {.entry_bytes = entry_bytes, .set_unit_bytes = set_unit_bytes, .bytes_to_drop = bytes_to_drop});
  while (!cut.step(live, step)) {}
  std::vector<uint32_t> cold;
  for (uint32_t bucket = 0; bucket < heat.n_buckets(); ++bucket)
    if (cut.is_cold(bucket)) cold.push_back(bucket);
  return cold;
}

}  // namespace

void bind_budget(nb::module_& m) {
  nb::class_<Heat>(m, "Heat")
      .def(nb::init<uint64_t>(), nb::arg("budget_bytes"))
      .def_prop_ro("n_buckets", &Heat::n_buckets)
      .def("bucket_of", &Heat::bucket_of, nb::arg("tag"))
      .def("apply", &Heat::pass, nb::arg("n_keys"))
      .def("added", [](Heat& heat, uint32_t tag) { heat.added(heat.bucket_of(tag)); }, nb::arg("tag"))
      .def("looked_up", [](Heat& heat, uint32_t tag) { heat.looked_up(heat.bucket_of(tag)); }, nb::arg("tag"))
      .def("use_of",
           [](const Heat& heat, uint32_t tag) {
             const Heat::Use use = heat.use_of(heat.bucket_of(tag));
             return nb::make_tuple(use.age_ticks, use.lookups);
           },
           nb::arg("tag"))
      .def("coldest", &coldest, nb::arg("contents"), nb::arg("entry_bytes"), nb::arg("set_unit_bytes"), nb::arg("bytes_to_drop"), nb::arg("step"));
}

}  // namespace kvatlas
