// Python bindings of what the remote index packs and unpacks. No logic here.
#include "index/native/module_compact.hpp"

#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <cstring>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "index/native/bind_arrays.hpp"
#include "index/native/error.hpp"
#include "index/native/llmd_batch.hpp"
#include "index/native/remote_answer.hpp"
#include "index/native/remote_batch.hpp"
#include "index/native/remote_names.hpp"

namespace nb = nanobind;

namespace kvatlas {
namespace {

nb::list names_of(const std::string& space, uint32_t bucket, const std::vector<uint32_t>& tags) {
  SegmentNames names(space, bucket);
  nb::list out;
  for (const uint32_t tag : tags) {
    const std::string& name = names.of(tag);
    out.append(nb::bytes(name.data(), name.size()));
  }
  return out;
}

nb::tuple lanes_of_batch(nb::handle delta) {
  const ByteSpan span(delta, "delta");
  const RemoteLanesOfBatch lanes = [&] {
    nb::gil_scoped_release unlocked;
    return remote_lanes_of(span.data(), span.size());
  }();
  nb::list keyed, cleared, closed;
  for (const uint32_t lane : lanes.keyed) keyed.append(lane);
  for (const uint32_t lane : lanes.cleared) cleared.append(lane);
  for (const auto& [lane, is_closed] : lanes.closed) closed.append(nb::make_tuple(lane, is_closed));
  return nb::make_tuple(keyed, cleared, closed);
}

nb::list pack(nb::handle delta, nb::dict phys_of, uint32_t n_buckets, const std::string& space) {
  const ByteSpan span(delta, "delta");
  std::unordered_map<uint32_t, uint32_t> map;
  for (const auto [lane, phys] : phys_of) map[nb::cast<uint32_t>(lane)] = nb::cast<uint32_t>(phys);
  for (const auto& [lane, phys] : map)
    if (phys == 0 || phys > kRemotePhysMax) throw Error(ErrorKind::input, "phys_of[" + std::to_string(lane) + "]: expected 1 to 2^24-1, got " + std::to_string(phys));
  std::vector<std::string> names;
  const std::vector<RemoteCall> calls = [&] {
    nb::gil_scoped_release unlocked;
    std::vector<RemoteCall> packed = remote_pack(span.data(), span.size(), map, n_buckets);
    for (const RemoteCall& call : packed) names.push_back(SegmentNames(space, call.bucket).arguments(call.tags));
    return packed;
  }();
  nb::list out;
  for (size_t i = 0; i < calls.size(); ++i) {
    const RemoteCall& call = calls[i];
    out.append(nb::make_tuple(call.bucket, call.tags.size(), nb::bytes(names[i].data(), names[i].size()), bytes_of(call.records), call.keys));
  }
  return out;
}

nb::list questions(nb::handle keys, uint32_t n_buckets, const std::string& space) {
  const KeySpan span(keys, "keys");
  nb::list out;
  for (const RemoteQuestion& question : remote_questions(span.data(), span.size(), n_buckets))
    out.append(nb::make_tuple(question.bucket, names_of(space, question.bucket, question.tags), bytes_of(question.questions), array_of(question.keys)));
  return out;
}

void make_lanes(RemoteLanes* self, nb::handle pairs) {
  const TokenSpan span(pairs);  // uint32 as token ids are
  if (span.size() % 2 != 0) throw Error(ErrorKind::input, "pairs: expected an even number of them, got " + std::to_string(span.size()));
  new (self) RemoteLanes(std::vector<uint32_t>(span.data(), span.data() + span.size()));
}

nb::tuple answer(nb::handle bytes, size_t n_keys, const RemoteLanes& lanes, bool whole) {
  const ByteSpan span(bytes, "answer");
  const RemoteAnswer out = [&] {
    nb::gil_scoped_release unlocked;
    return remote_answer(span.data(), span.size(), n_keys, lanes, whole);
  }();
  return nb::make_tuple(nb::bytes(out.life.data(), out.life.size()), bytes_of(out.excerpt), out.foreign_values);
}

nb::tuple page(nb::handle bytes, const RemoteLanes& lanes) {
  const ByteSpan span(bytes, "page");
  const RemotePage out = [&] {
    nb::gil_scoped_release unlocked;
    return remote_page(span.data(), span.size(), lanes);
  }();
  return nb::make_tuple(array_of(out.keys), array_of(out.tags), array_of(out.sets), array_of(out.counts), array_of(out.elements), out.foreign_values);
}

nb::list llmd_lanes(nb::handle delta) {
  const ByteSpan span(delta, "delta");
  const std::vector<LlmdLane> lanes = [&] {
    nb::gil_scoped_release unlocked;
    return llmd_lanes_of(span.data(), span.size());
  }();
  nb::list out;
  for (const LlmdLane& lane : lanes) {
    nb::list steps;
    for (const LlmdStep& step : lane.steps) steps.append(nb::make_tuple(step.op, step.tiers, array_of(step.keys)));
    out.append(nb::make_tuple(lane.lane, lane.is_emptied, lane.keys_told, steps));
  }
  return out;
}

nb::bytes llmd_words(nb::handle keys) {
  const KeySpan span(keys, "keys");
  const std::string out = [&] {
    nb::gil_scoped_release unlocked;
    return llmd_arguments(span.data(), span.size());
  }();
  return nb::bytes(out.data(), out.size());
}

}  // namespace

void bind_compact(nb::module_& m) {
  nb::class_<RemoteLanes>(m, "RemoteLanes")
      .def("__init__", &make_lanes, nb::arg("pairs"))
      .def("__len__", &RemoteLanes::size);
  m.def("remote_lanes_of", &lanes_of_batch, nb::arg("delta").none());
  m.def("remote_pack", &pack, nb::arg("delta").none(), nb::arg("phys_of"), nb::arg("n_buckets"), nb::arg("space"));
  m.def("remote_questions", &questions, nb::arg("keys"), nb::arg("n_buckets"), nb::arg("space"));
  m.def("remote_answer", &answer, nb::arg("answer").none(), nb::arg("n_keys"), nb::arg("lanes"), nb::arg("whole") = true);
  m.def("remote_page", &page, nb::arg("page").none(), nb::arg("lanes"));
  m.def("llmd_lanes_of", &llmd_lanes, nb::arg("delta").none());
  m.def("llmd_arguments", &llmd_words, nb::arg("keys").none());
}

}  // namespace kvatlas
