// Python bindings of content records, read, made and searched. No logic here.
#include "index/native/module_content.hpp"

#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "index/native/bind_arrays.hpp"
#include "index/native/bind_content.hpp"
#include "index/native/content_arrays.hpp"
#include "index/native/content_search.hpp"
#include "index/native/error.hpp"
#include "index/native/route.hpp"
#include "index/native/section.hpp"

namespace nb = nanobind;

namespace kvatlas {
namespace {

// What a section says, as Python's objects.
class ContentView {
 public:
  explicit ContentView(nb::handle section) : section_(section), view_(section_.view()) {}

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
    return array_of(begins);
  }
  nb::object elements() const {
    std::vector<uint32_t> elements;
    for (uint32_t i = 0; i < view_.set_begin(view_.n_sets()); ++i)
      elements.push_back((view_.lane(view_.element(i) >> 8) & kContentLane) << 8 | (view_.element(i) & 0xff));
    return array_of(elements);
  }

 private:
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

  const SectionSpan section_;
  const SectionView& view_;
};

nb::bytes renamed(nb::handle section, nb::handle lanes) {
  const SectionSpan content(section);
  const LaneNumbers numbers = lane_numbers(lanes);
  const std::vector<uint8_t> bytes = [&] {
    nb::gil_scoped_release unlocked;
    return renamed_section(content.view(), numbers);
  }();
  return bytes_of(bytes);
}

nb::list deltas_of(nb::handle section, nb::handle lanes, uint32_t n_shards) {
  if (n_shards < 1 || n_shards > kShardsMax) throw Error(ErrorKind::input, "n_shards: expected 1 to 1024, got " + std::to_string(n_shards));
  const SectionSpan content(section);
  const LaneNumbers numbers = lane_numbers(lanes);
  const auto deltas = [&] {
    nb::gil_scoped_release unlocked;
    return deltas_of_section(content.view(), numbers, n_shards);
  }();
  nb::list out;
  for (const auto& delta : deltas) out.append(bytes_of(delta));
  return out;
}

// Arrays as buffers of the right width, borrowed.
std::vector<uint32_t> words_of(nb::handle array) {
  const TokenSpan span(array);
  return {span.data(), span.data() + span.size()};
}

// Lanes with their bits; marks of lanes that are not named are left out.
std::vector<uint32_t> lane_words(nb::handle lanes, nb::handle closed, nb::handle lossy) {
  std::vector<uint32_t> word_of(kContentLane + 1, ~0u);
  for (nb::handle lane : nb::borrow<nb::iterable>(lanes)) word_of[lane_of(lane)] = lane_of(lane);
  for (const auto& [marked, bit] : {std::pair{closed, kContentClosed}, std::pair{lossy, kContentLossy}})
    for (nb::handle lane : nb::borrow<nb::iterable>(marked))
      if (uint32_t& word = word_of[lane_of(lane)]; word != ~0u) word |= bit;
  std::erase(word_of, ~0u);
  return word_of;
}

nb::list sections_of(nb::handle lanes, nb::handle keys, nb::handle tags, nb::handle sets, nb::handle set_sizes, nb::handle elements, nb::handle closed,
                     nb::handle lossy, uint32_t keys_max) {
  const KeySpan span(keys, "keys");
  ContentArrays arrays;
  arrays.lanes = lane_words(lanes, closed, lossy);
  arrays.keys = span.data();
  arrays.n_keys = span.size();
  arrays.knows_tags = !tags.is_none();
  arrays.tags = arrays.knows_tags ? words_of(tags) : std::vector<uint32_t>(span.size());
  arrays.sets = words_of(sets);
  arrays.set_sizes = words_of(set_sizes);
  arrays.elements = words_of(elements);
  std::vector<std::vector<uint8_t>> sections(1);
  {
    nb::gil_scoped_release unlocked;
    Content content = content_of(std::move(arrays));
    content.sort();
    for (SectionWriter writer(content, keys_max); writer.next(sections.back());) sections.emplace_back();
  }
  sections.pop_back();
  nb::list out;
  for (const auto& section : sections) out.append(bytes_of(section));
  return out;
}

nb::tuple search(nb::handle section, nb::handle tiers_of_lane, nb::handle keys, uint64_t n_max) {
  const SectionSpan content(section);
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

}  // namespace

void bind_content(nb::module_& m) {
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

  m.def("content_of", [](nb::handle section) { return new ContentView(section); }, nb::arg("section").none(), nb::rv_policy::take_ownership);
  m.def("renamed", &renamed, nb::arg("section").none(), nb::arg("lanes"));
  m.def("deltas_of", &deltas_of, nb::arg("section").none(), nb::arg("lanes").none() = nb::none(), nb::arg("n_shards") = 1);
  m.def("sections_of", &sections_of, nb::arg("lanes"), nb::arg("keys").none(), nb::arg("tags").none(), nb::arg("sets").none(), nb::arg("set_sizes").none(),
        nb::arg("elements").none(), nb::arg("closed") = nb::tuple(), nb::arg("lossy") = nb::tuple(), nb::arg("keys_max") = kSectionKeysMax);
  m.def("search_section", &search, nb::arg("section").none(), nb::arg("tiers_of_lane"), nb::arg("keys").none() = nb::none(), nb::arg("n_max") = 1000);
}

}  // namespace kvatlas
