// Python bindings of snapshots, and of what is done with whole tables: loads, comparisons. No logic here.
#include "index/native/module_snapshot.hpp"

#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "index/native/bind_arrays.hpp"
#include "index/native/bind_content.hpp"
#include "index/native/content_loading.hpp"
#include "index/native/content_search.hpp"
#include "index/native/section.hpp"
#include "index/native/snapshot.hpp"

namespace nb = nanobind;

namespace kvatlas {
namespace {

using Tables = std::vector<std::shared_ptr<Table>>;

class Sections {
 public:
  Sections(std::shared_ptr<Snapshot> snapshot, uint32_t keys_max) : snapshot_(std::move(snapshot)), writer_(snapshot_->content(), keys_max) {}

  nb::bytes next() {
    std::vector<uint8_t> section;
    const bool has_one = [&] {
      nb::gil_scoped_release unlocked;
      std::lock_guard alone(mutex_);
      return writer_.next(section);
    }();
    if (!has_one) throw nb::stop_iteration();
    return bytes_of(section);
  }

 private:
  const std::shared_ptr<Snapshot> snapshot_;
  SectionWriter writer_;
  std::mutex mutex_;
};

nb::list snapshot(const Tables& tables) {
  const auto snapshots = [&] {
    nb::gil_scoped_release unlocked;
    return make_snapshots(tables);
  }();
  nb::list out;
  for (const auto& one : snapshots) out.append(one);
  return out;
}

const Content& sorted(Snapshot& snapshot) {
  nb::gil_scoped_release unlocked;
  return snapshot.content();
}

nb::list lanes_of_snapshot(Snapshot& snapshot) {
  nb::list out;
  for (uint32_t lane : sorted(snapshot).lanes) out.append(lane & kContentLane);
  return out;
}

uint64_t load_content(const Tables& tables, nb::iterable sections, nb::handle lanes) {
  const LaneNumbers numbers = lane_numbers(lanes);
  std::optional<ContentLoading> loading;
  {
    nb::gil_scoped_release unlocked;
    loading.emplace(tables);
  }
  for (nb::handle section : sections) {
    const SectionSpan content(section);
    nb::gil_scoped_release unlocked;
    loading->add(content.view(), numbers);
  }
  nb::gil_scoped_release unlocked;
  loading->finish();
  return loading->n_entries();
}

nb::list differences(Table& left, Table& right) {
  const auto found = [&] {
    nb::gil_scoped_release unlocked;
    return compare(left, right);
  }();
  nb::list out;
  for (const auto& [lane_tier, one] : found) out.append(nb::make_tuple(lane_tier >> 8, lane_tier & 0xff, one.n_left, one.n_right, one.n_both));
  return out;
}

}  // namespace

void bind_snapshot(nb::module_& m) {
  nb::class_<Sections>(m, "Sections")
      .def("__iter__", [](nb::handle self) { return nb::borrow(self); })
      .def("__next__", &Sections::next);

  nb::class_<Snapshot>(m, "Snapshot")
      .def_prop_ro("entries", [](Snapshot& snapshot) { return sorted(snapshot).entries.size(); })
      .def_prop_ro("pairs", [](Snapshot& snapshot) { return sorted(snapshot).n_pairs(); })
      .def_prop_ro("bytes", &Snapshot::bytes)
      .def_prop_ro("lanes", &lanes_of_snapshot)
      .def("sections", [](std::shared_ptr<Snapshot> snapshot, uint32_t keys_max) {
        sorted(*snapshot);
        return new Sections(std::move(snapshot), keys_max);
      },
           nb::arg("keys_max") = kSectionKeysMax, nb::rv_policy::take_ownership);

  m.def("snapshot", &snapshot, nb::arg("tables"));
  m.def("load_content", &load_content, nb::arg("tables"), nb::arg("sections"), nb::arg("lanes").none() = nb::none());
  m.def("differences", &differences, nb::arg("left"), nb::arg("right"));
}

}  // namespace kvatlas
