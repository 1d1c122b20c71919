// Python bindings of snapshots, content records and what is made of them. No logic here.
#include "index/native/module_snapshot.hpp"

#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "index/native/bind_arrays.hpp"
#include "index/native/content_loading.hpp"
#include "index/native/content_search.hpp"
#include "index/native/error.hpp"
#include "index/native/route.hpp"
#include "index/native/section.hpp"
#include "index/native/snapshot.hpp"

namespace nb = nanobind;

namespace kvatlas {
namespace {

using Tables = std::vector<std::shared_ptr<Table>>;

nb::bytes bytes_of(const std::vector<uint8_t>& bytes) { return nb::bytes(reinterpret_cast<const char*>(bytes.data()), bytes.size()); }

template <class T>
nb::object array_of_all(Dtype dtype, const std::vector<T>& numbers) {
  const NewArray out = new_array(dtype, numbers.size());
  if (!numbers.empty()) std::memcpy(out.data, numbers.data(), numbers.size() * sizeof(T));
  return out.array;
}

uint32_t lane_of(nb::handle value) {
  uint64_t lane = 0;
  if (!nb::try_cast(value, lane) || lane >= kLanesMax)
    throw Error(ErrorKind::input, "lanes: expected numbers from 0 to 65534, got " + nb::cast<std::string>(nb::repr(value)));
  return static_cast<uint32_t>(lane);
}

// None: all lanes as they are. Lanes that the mapping lacks are left out.
LaneNumbers lane_numbers(nb::handle lanes) {
  if (lanes.is_none()) return {};
  LaneNumbers numbers(65536, kNoLane);
  std::vector<bool> given(65536, false);
  nb::object items = nb::steal(PyMapping_Items(lanes.ptr()));
  if (!items.is_valid()) throw nb::python_error();
  for (nb::handle item : items) {
    const uint32_t from = lane_of(item[0]), to = lane_of(item[1]);
    if (given[to]) throw Error(ErrorKind::input, "lanes: expected each number once, got two lanes for " + std::to_string(to));
    given[to] = true;
    numbers[from] = static_cast<uint16_t>(to);
  }
  return numbers;
}

// A section's bytes and what was found in them.
class ContentView {
 public:
  explicit ContentView(nb::handle section) : bytes_(section, "section"), view_(look(bytes_)) {}

  const SectionView& view() const { return view_; }
  uint64_t n_keys() const { return view_.n_keys(); }
  uint64_t n_pairs() const { return view_.n_pairs(); }
  bool knows_tags() const { return view_.knows_tags(); }

  nb::list lanes() const { return lanes_with(0); }
  nb::list closed() const { return lanes_with(kContentClosed); }
  nb::list lossy() const { return lanes_with(kContentLossy); }
  nb::object keys() const {
    const NewArray out = new_array(Dtype::uint64, view_.n_keys());
    if (view_.n_keys() > 0) std::memcpy(out.data, view_.key_bytes(0), 8ull * view_.n_keys());
    return out.array;
  }
  nb::object tags() const {
    return by_key([](const SectionRun& run) { return run.tag; });
  }
  nb::object sets() const {
    return by_key([](const SectionRun& run) { return run.set; });
  }
  nb::object set_begins() const {
    std::vector<uint32_t> begins;
    for (uint32_t set = 0; set <= view_.n_sets(); ++set) begins.push_back(view_.set_begin(set));
    return array_of_all(Dtype::uint32, begins);
  }
  nb::object elements() const {
    std::vector<uint32_t> elements;
    for (uint32_t i = 0; i < view_.set_begin(view_.n_sets()); ++i)
      elements.push_back((view_.lane(view_.element(i) >> 8) & kContentLane) << 8 | (view_.element(i) & 0xff));
    return array_of_all(Dtype::uint32, elements);
  }

 private:
  static SectionView look(const ByteSpan& bytes) {
    nb::gil_scoped_release unlocked;
    return SectionView(bytes.data(), bytes.size());
  }
  nb::list lanes_with(uint32_t bit) const {
    nb::list out;
    for (uint32_t i = 0; i < view_.n_lanes(); ++i)
      if ((view_.lane(i) & bit) == bit) out.append(view_.lane(i) & kContentLane);
    return out;
  }
  template <class Of>
  nb::object by_key(const Of& of) const {
    const NewArray out = new_array(Dtype::uint32, view_.n_keys());
    auto* to = static_cast<uint32_t*>(out.data);
    for (uint32_t i = 0; i < view_.n_runs(); ++i) to = std::fill_n(to, view_.run(i).n_keys, of(view_.run(i)));
    return out.array;
  }

  const ByteSpan bytes_;
  const SectionView view_;
};

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

nb::bytes renamed(nb::handle section, nb::handle lanes) {
  const ContentView content(section);
  const LaneNumbers numbers = lane_numbers(lanes);
  const std::vector<uint8_t> bytes = [&] {
    nb::gil_scoped_release unlocked;
    return renamed_section(content.view(), numbers);
  }();
  return bytes_of(bytes);
}

nb::list deltas_of(nb::handle section, nb::handle lanes, uint32_t n_shards) {
  if (n_shards < 1 || n_shards > kShardsMax) throw Error(ErrorKind::input, "n_shards: expected 1 to 1024, got " + std::to_string(n_shards));
  const ContentView content(section);
  const LaneNumbers numbers = lane_numbers(lanes);
  const auto deltas = [&] {
    nb::gil_scoped_release unlocked;
    return deltas_of_section(content.view(), numbers, n_shards);
  }();
  nb::list out;
  for (const auto& delta : deltas) out.append(bytes_of(delta));
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
    const ContentView content(section);
    nb::gil_scoped_release unlocked;
    loading->add(content.view(), numbers);
  }
  nb::gil_scoped_release unlocked;
  loading->finish();
  return loading->n_entries();
}

// Arrays as buffers of the right width, borrowed.
std::vector<uint32_t> words_of(nb::handle array) {
  const TokenSpan span(array);
  return {span.data(), span.data() + span.size()};
}

Error unfit(const std::string& what) { return Error(ErrorKind::input, what); }

Content content_from(nb::handle lanes, nb::handle closed, nb::handle lossy, const KeySpan& keys, const std::vector<uint32_t>& tags,
                     const std::vector<uint32_t>& sets, const std::vector<uint32_t>& set_sizes, std::vector<uint32_t> elements) {
  Content content;
  std::vector<uint32_t> words(65536, ~0u);
  for (nb::handle lane : nb::borrow<nb::iterable>(lanes)) words[lane_of(lane)] = lane_of(lane);
  auto mark = [&](nb::handle marked, uint32_t bit) {
    for (nb::handle lane : nb::borrow<nb::iterable>(marked))
      if (words[lane_of(lane)] != ~0u) words[lane_of(lane)] |= bit;
  };
  mark(closed, kContentClosed);
  mark(lossy, kContentLossy);
  uint64_t n_elements = 0;
  for (uint32_t size : set_sizes) {
    n_elements += size;
    if (size == 0 || n_elements > elements.size()) throw unfit("set_sizes: expected sizes of at least 1, " + std::to_string(elements.size()) + " together");
    content.set_begins.push_back(static_cast<uint32_t>(n_elements));
  }
  if (n_elements != elements.size()) throw unfit("elements: expected " + std::to_string(n_elements) + " as set_sizes say, got " + std::to_string(elements.size()));
  for (size_t set = 0; set < set_sizes.size(); ++set) {
    const auto begin = elements.begin() + content.set_begins[set], end = elements.begin() + content.set_begins[set + 1];
    std::sort(begin, end);
    for (auto at = begin; at != end; ++at)
      if (*at >> 24 != 0 || words[*at >> 8] == ~0u || (*at & 0xff) == 0 || (*at & 0xff) >= 1u << kTiers || (at != begin && at[-1] >> 8 == *at >> 8))
        throw unfit("elements: expected lane << 8 | tier bits of lanes that `lanes` names, each once in a set, got " + std::to_string(*at));
  }
  for (uint32_t word : words)
    if (word != ~0u) content.lanes.push_back(word);
  content.elements = std::move(elements);
  if (tags.size() != keys.size() || sets.size() != keys.size())
    throw unfit("tags, sets: expected one for each of " + std::to_string(keys.size()) + " keys, got " + std::to_string(tags.size()) + " and " + std::to_string(sets.size()));
  content.entries.reserve(keys.size());
  for (size_t i = 0; i < keys.size(); ++i) {
    if (sets[i] >= set_sizes.size()) throw unfit("sets: expected numbers below " + std::to_string(set_sizes.size()) + ", got " + std::to_string(sets[i]));
    content.entries.push_back({keys.data()[i], static_cast<uint64_t>(tags[i]) << 32 | sets[i]});
  }
  return content;
}

nb::list sections_of(nb::handle lanes, nb::handle keys, nb::handle tags, nb::handle sets, nb::handle set_sizes, nb::handle elements, nb::handle closed,
                     nb::handle lossy, uint32_t keys_max) {
  const KeySpan span(keys, "keys");
  const bool knows_tags = !tags.is_none();
  Content content = content_from(lanes, closed, lossy, span, knows_tags ? words_of(tags) : std::vector<uint32_t>(span.size()), words_of(sets),
                                 words_of(set_sizes), words_of(elements));
  content.knows_tags = knows_tags;
  std::vector<std::vector<uint8_t>> sections(1);
  {
    nb::gil_scoped_release unlocked;
    content.sort();
    for (SectionWriter writer(content, keys_max); writer.next(sections.back());) sections.emplace_back();
  }
  sections.pop_back();
  nb::list out;
  for (const auto& section : sections) out.append(bytes_of(section));
  return out;
}

nb::tuple search(nb::handle section, nb::handle tiers_of_lane, nb::handle keys, uint64_t n_max) {
  const ContentView content(section);
  std::vector<uint8_t> tiers(65536, 0);
  nb::object items = nb::steal(PyMapping_Items(tiers_of_lane.ptr()));
  if (!items.is_valid()) throw nb::python_error();
  for (nb::handle item : items) tiers[lane_of(item[0])] = nb::cast<uint8_t>(item[1]);
  std::optional<std::vector<uint64_t>> wanted;
  if (!keys.is_none()) {
    const KeySpan span(keys, "keys");
    wanted.emplace(span.data(), span.data() + span.size());
    std::sort(wanted->begin(), wanted->end());
  }
  std::vector<Holding> found;
  const uint64_t n = [&] {
    nb::gil_scoped_release unlocked;
    return search_section(content.view(), tiers, wanted ? &*wanted : nullptr, n_max, found);
  }();
  nb::list out;
  for (const Holding& one : found) out.append(nb::make_tuple(one.key, one.tag, one.lane, one.tiers));
  return nb::make_tuple(n, out);
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

  nb::class_<ContentView>(m, "ContentView")
      .def_prop_ro("entries", &ContentView::n_keys)
      .def_prop_ro("pairs", &ContentView::n_pairs)
      .def_prop_ro("knows_tags", &ContentView::knows_tags)
      .def_prop_ro("lanes", &ContentView::lanes)
      .def_prop_ro("closed", &ContentView::closed)
      .def_prop_ro("lossy", &ContentView::lossy)
      .def_prop_ro("keys", &ContentView::keys)
      .def_prop_ro("tags", &ContentView::tags)
      .def_prop_ro("sets", &ContentView::sets)
      .def_prop_ro("set_begins", &ContentView::set_begins)
      .def_prop_ro("elements", &ContentView::elements);

  m.def("snapshot", &snapshot, nb::arg("tables"));
  m.def("content_of", [](nb::handle section) { return new ContentView(section); }, nb::arg("section").none(), nb::rv_policy::take_ownership);
  m.def("renamed", &renamed, nb::arg("section").none(), nb::arg("lanes"));
  m.def("deltas_of", &deltas_of, nb::arg("section").none(), nb::arg("lanes").none() = nb::none(), nb::arg("n_shards") = 1);
  m.def("load_content", &load_content, nb::arg("tables"), nb::arg("sections"), nb::arg("lanes").none() = nb::none());
  m.def("sections_of", &sections_of, nb::arg("lanes"), nb::arg("keys").none(), nb::arg("tags").none(), nb::arg("sets").none(), nb::arg("set_sizes").none(),
        nb::arg("elements").none(), nb::arg("closed") = nb::tuple(), nb::arg("lossy") = nb::tuple(), nb::arg("keys_max") = kSectionKeysMax);
  m.def("search_section", &search, nb::arg("section").none(), nb::arg("tiers_of_lane"), nb::arg("keys").none() = nb::none(), nb::arg("n_max") = 1000);
  m.def("differences", &differences, nb::arg("left"), nb::arg("right"));
}

}  // namespace kvatlas
